"""What crosses the border of a sandbox: sources and a call in, one text out.

Nothing that pays a reward ever goes in. What comes out is a text, whatever the code did: an error,
a limit that was broken and a killed worker are answers too, so an episode goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta

from trustee.errors import InputError
from trustee.types import Record

Isolation = Literal["auto", "landlock", "bubblewrap", "none"]
"""What holds the code: the kernel's Landlock and seccomp, bubblewrap's namespaces, or nothing but
limits; `auto` takes the first of the first two that works here."""


class SandboxConfig(Record, frozen=True):
    """What code in the sandbox may use."""

    isolation: Isolation = "auto"
    """`none` must be asked for by the config or call at hand (`--unsafe-local-tools`); one that a
    run folder records is not believed."""
    seconds: Annotated[float, Meta(gt=0)] = 5.0
    """Wall time of one call."""
    cpu_seconds: Annotated[int, Meta(ge=1)] = 3
    """Processor time of one call."""
    memory_mib: Annotated[int, Meta(ge=32)] = 256
    """Address space that one call may add to what its worker holds."""
    output_bytes: Annotated[int, Meta(ge=64)] = 65536
    """Longest answer of one call; more is a breach."""
    workers: Annotated[int, Meta(ge=1)] = 64
    """Warm workers kept at once."""


class CallResult(Record, frozen=True):
    """What came of one call."""

    text: str
    """What the policy reads: JSON of a list or an object, else `str` of what was returned; where
    not `ok`, one line that says what went wrong."""
    ok: bool
    breach: str = ""
    """The limit or rule that was broken: `time`, `cpu`, `memory`, `output`, `input`, `died`,
    `protocol` or `denied`; empty for plain exceptions. `denied` also stands beside a result, where
    the code tried what no tool may and went on without it."""


class Worker(Protocol):
    """A set of tools, ready to be called."""

    async def call(self, name: str, arguments: Mapping[str, Any]) -> CallResult:
        """Call one tool with JSON arguments; it never sees what an earlier call left behind."""
        ...


class Sandbox(Protocol):
    """Whatever runs tools."""

    def open(
        self, sources: Mapping[str, str], *, seed: int, published: bool = False
    ) -> AbstractAsyncContextManager[Worker]:
        """Lend a worker for tools given as one Python source each, which defines that name.

        `seed` sets randomness and clock. `published` takes over a quirk of FTRL's own runner: a
        source's other top-level names, imports among them, are not seen inside its functions.
        """
        ...


class NoSandbox:
    """Refuses: whoever made these services did not expect code to run."""

    def open(
        self, sources: Mapping[str, str], *, seed: int, published: bool = False
    ) -> AbstractAsyncContextManager[Worker]:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"tools with code ({', '.join(sources)}) need a sandbox, and none was opened here"
        )

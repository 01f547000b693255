"""What crosses the border of a sandbox: sources and a call go in, one text comes out.

Nothing that determines a reward goes in. The result is always a text: an exception, a broken limit
and a killed worker are results too, so the episode continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta

from trustee.errors import InputError
from trustee.types import Record

Isolation = Literal["auto", "landlock", "bubblewrap", "none"]
"""What isolates the code: the kernel's Landlock and seccomp, bubblewrap's namespaces, or only
limits (`none`). `auto` uses Landlock if it works on this machine, else bubblewrap."""


class SandboxConfig(Record, frozen=True):
    """Isolation and limits of code in the sandbox."""

    isolation: Isolation = "auto"
    """How code is isolated. `none` must be set in the current config or on the command line
    (`--unsafe-local-tools`); a value recorded in a run folder does not count."""
    seconds: Annotated[float, Meta(gt=0)] = 5.0
    """Maximum wall time of one call."""
    cpu_seconds: Annotated[int, Meta(ge=1)] = 3
    """Maximum processor time of one call, in seconds."""
    memory_mib: Annotated[int, Meta(ge=32)] = 256
    """Maximum address space that one call may add to its worker's, in MiB."""
    total_mib: Annotated[int, Meta(ge=32)] = 4096
    """Maximum memory of all calls that run at once, in MiB: fewer run at once if need be."""
    output_bytes: Annotated[int, Meta(ge=64)] = 65536
    """Maximum size of a call's result in bytes; more is a breach."""
    workers: Annotated[int, Meta(ge=1)] = 64
    """Maximum number of warm workers that are kept."""


class CallResult(Record, frozen=True):
    """The result of one call."""

    text: str
    """What the policy reads: JSON of a list or an object, else `str` of the returned value; if not
    `ok`, one line that describes the error."""
    ok: bool
    breach: str = ""
    """The limit or rule that was broken: `time`, `cpu`, `memory`, `output`, `input`, `died`,
    `protocol` or `denied`; empty for ordinary exceptions. `denied` may come with a successful
    result, if the code tried something forbidden and continued without it."""


class Worker(Protocol):
    """A set of tools, ready to be called."""

    async def call(self, name: str, arguments: Mapping[str, Any]) -> CallResult:
        """Call one tool with JSON arguments; it sees nothing that an earlier call left behind."""
        ...


class Sandbox(Protocol):
    """The interface of a sandbox."""

    def open(
        self, sources: Mapping[str, str], *, seed: int, published: bool = False
    ) -> AbstractAsyncContextManager[Worker]:
        """Lend a worker for tools; each is a Python source that defines a function of that name.

        `seed` determines randomness and clock. `published` reproduces a quirk of FTRL's own runner:
        a source's other top-level names, including imports, are not visible inside its functions.
        """
        ...


class NoSandbox:
    """A sandbox that refuses to run code, for services that were made without one."""

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

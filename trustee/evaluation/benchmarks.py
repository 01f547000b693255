"""What a published benchmark must offer, so that any policy can be played on it and compared.

A benchmark is a world with a fixed list of tasks in named categories. It also says what two agents
without a model get on the same tasks: the oracle, which makes the benchmark's own calls, and the
floor, which does nothing. A score without both means little: on some tasks doing nothing succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from trustee.environments.protocol import World
from trustee.types import Task


class TaskSet(Protocol):
    """The tasks of a benchmark, and what agents without a model get on them."""

    async def read_tasks(self, rows: int | None) -> tuple[Task, ...]:
        """Return the first tasks of each category, or all; `hidden` has the `category`."""
        ...

    async def oracle(self, tasks: Sequence[Task]) -> dict[str, bool | None]:
        """Return by task whether the benchmark's own calls succeed; None where it has none."""
        ...

    async def floor(self, tasks: Sequence[Task]) -> dict[str, bool]:
        """Return by task whether doing nothing succeeds."""
        ...


class OpenBenchmark(TaskSet, Protocol):
    """A benchmark that is ready to be played here."""

    @property
    def world(self) -> World:
        """The world in which its tasks are played."""
        ...

    @property
    def turns(self) -> int:
        """Most messages of a policy in one episode."""
        ...


class Published(Protocol):
    """How a benchmark's scores are published."""

    @property
    def name(self) -> str:
        """Its name on the command line and in reports."""
        ...

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """Categories of which a score is published together, by the group's name."""
        ...


class Benchmark(Published, Protocol):
    """A benchmark by name."""

    def open(self) -> AbstractAsyncContextManager[OpenBenchmark]:
        """Return what makes it ready.

        Raises:
            InputError: if a package or data are missing.
        """
        ...

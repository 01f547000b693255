"""What a benchmark must offer that plays its episodes itself, by asking an endpoint.

Such a program has a loop, prompts and a user of its own; it is given the address of a model and
says which of its tasks were solved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from trustee.types import Failure, Outcome, Record, Role, Stop, Task, Trajectory


class Place(Record, frozen=True):
    """Where a model is asked by OpenAI's API."""

    url: str
    """Address up to and including `/v1`."""
    model: str
    key: str


class OpenOutside(Protocol):
    """A benchmark that is ready to be played."""

    async def read_tasks(self, rows: int | None) -> tuple[Task, ...]:
        """Return the first tasks of each category, or all; `hidden` has the `category`."""
        ...

    async def oracle(self, tasks: Sequence[Task]) -> dict[str, bool | None]:
        """Return by task whether the benchmark's own calls succeed; None where it has none."""
        ...

    async def floor(self, tasks: Sequence[Task]) -> dict[str, bool]:
        """Return by task whether doing nothing succeeds."""
        ...

    async def play(
        self, tasks: Sequence[Task], *, policy: Place, base: Place, done: Callable[[], None]
    ) -> list[Trajectory]:
        """Play tasks.

        Args:
            tasks: what is played.
            policy: the model that is measured.
            base: the same model without an adapter, for who else speaks.
            done: is called after each task.
        """
        ...


class OutsideBenchmark(Protocol):
    """A benchmark by name."""

    @property
    def name(self) -> str:
        """Its name on the command line and in reports."""
        ...

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """Categories of which a score is published together, by the group's name."""
        ...

    def open(self) -> AbstractAsyncContextManager[OpenOutside]:
        """Return what makes it ready.

        Raises:
            InputError: if a package or data are missing.
        """
        ...


def name_task(id: str, category: str) -> Task:
    """Return what is known here of a task that another program plays."""
    return Task(id=id, messages=(), tools=(), difficulty=1, hidden={"category": category})


def record(task: Task, *, label: str, success: bool, failed: str = "") -> Trajectory:
    """Return the record of an episode that another program has played."""
    failure = Failure(source=Role.WORLD, kind="outside", message=failed) if failed else None
    return Trajectory(
        id=f"{label}-{task.id}",
        task_id=task.id,
        turns=(),
        stop=Stop.FAILED if failed else Stop.DONE,
        rewards={} if failed else {"outside": float(success)},
        outcome=Outcome(success=success),
        failure=failure,
    )

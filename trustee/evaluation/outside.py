"""What a benchmark must offer that plays its episodes itself, by asking an endpoint.

Such a program has a loop, prompts and a user of its own; it is given the address of a model and
says which of its tasks were solved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from trustee.evaluation.benchmarks import Published, TaskSet
from trustee.types import Failure, Outcome, Record, Role, Stop, Task, Trajectory


class Place(Record, frozen=True):
    """Where a model is asked by OpenAI's API."""

    url: str
    """Address up to and including `/v1`."""
    model: str
    key: str


class OpenOutside(TaskSet, Protocol):
    """A benchmark that is ready to be played."""

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


class OutsideBenchmark(Published, Protocol):
    """A benchmark by name."""

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

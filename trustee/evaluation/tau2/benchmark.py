"""tau2-bench: which domains are played, what the right calls get, and what doing nothing gets.

Scores are deterministic: where a task would have a model judge statements, as most of retail, the
state of the world alone is compared.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from trustee.evaluation.outside import Place, name_task, record
from trustee.evaluation.tau2.process import Tau2Process, open_tau2
from trustee.types import Task, Trajectory

GROUPS: Mapping[str, Sequence[str]] = {
    "With a user": ("airline", "retail", "telecom"),
    "Without a user": ("telecom_solo",),
}
SOLO = "_solo"
"""End of the name of a category without a user."""
MOST_TOKENS = 1024
"""Most tokens of one message."""


@dataclass(frozen=True)
class Tau2:
    """The benchmark."""

    checkout: Path
    """Folder of its repository."""
    solo: bool = False
    """Whether only telecom is played, without a user."""
    user: Place | None = None
    """Who plays the user; None is the base."""
    parallel: int = 8
    """Episodes that are played at once."""
    name: str = "tau2"

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """The group of domains that is played."""
        name = "Without a user" if self.solo else "With a user"
        return {name: GROUPS[name]}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenTau2]:
        """Start the benchmark's process."""
        secrets = [self.user.key] if self.user else []
        async with open_tau2(self.checkout, parallel=self.parallel, secrets=secrets) as process:
            yield OpenTau2(process, self)


@dataclass(frozen=True)
class OpenTau2:
    """The benchmark with its process."""

    process: Tau2Process
    benchmark: Tau2

    async def read_tasks(self, rows: int | None) -> tuple[Task, ...]:
        """Return the first tasks of each domain, or all."""
        tasks: list[Task] = []
        for category in (name for names in self.benchmark.groups.values() for name in names):
            domain, solo = split_category(category)
            ids = await self.process.ask("list_tasks", domain=domain, solo=solo)
            tasks += [name_task(f"{category}/{id}", category) for id in ids[:rows]]
        return tuple(tasks)

    async def oracle(self, tasks: Sequence[Task]) -> dict[str, bool | None]:
        """Return by task whether the benchmark's own calls solve it."""
        return {**await self._ask_all(tasks, "oracle")}

    async def floor(self, tasks: Sequence[Task]) -> dict[str, bool]:
        """Return by task whether doing nothing solves it."""
        return await self._ask_all(tasks, "floor")

    async def _ask_all(self, tasks: Sequence[Task], who: str) -> dict[str, bool]:
        found: dict[str, bool] = {}
        for task in tasks:
            found[task.id] = await self.process.ask("is_solved_by", **where(task), who=who)
        return found

    async def play(
        self, tasks: Sequence[Task], *, policy: Place, base: Place, done: Callable[[], None]
    ) -> list[Trajectory]:
        """Play tasks, several at once."""
        played: dict[str, Trajectory] = {}
        limiter = anyio.CapacityLimiter(self.benchmark.parallel)
        user = self.benchmark.user or base

        async def play_one(task: Task) -> None:
            async with limiter:
                found = await self.process.ask(
                    "play", **where(task), agent=as_client(policy), user=as_client(user)
                )
            played[task.id] = record(
                task,
                label=policy.model,
                success=found.get("solved", False),
                failed=found.get("failed", ""),
            )
            done()

        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(play_one, task)
        return [played[task.id] for task in tasks]


def split_category(category: str) -> tuple[str, bool]:
    """Return the domain of a category, and whether it is played without a user."""
    return category.removesuffix(SOLO), category.endswith(SOLO)


def where(task: Task) -> dict[str, Any]:
    """Return a task as the benchmark's process names it."""
    domain, solo = split_category(task.hidden["category"])
    return {"domain": domain, "solo": solo, "id": task.id.partition("/")[2]}


def as_client(place: Place) -> dict[str, Any]:
    """Return how the benchmark's client asks a model."""
    args = {"api_base": place.url, "api_key": place.key or "none"}
    return {
        "model": f"openai/{place.model}",
        "args": {**args, "temperature": 0.0, "max_tokens": MOST_TOKENS},
    }

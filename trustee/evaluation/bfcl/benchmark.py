"""BFCL: which categories are played, what its own answers get, and what doing nothing gets.

Java and JavaScript, whose arguments are texts of these languages, and the agentic part, which needs
the web, are left out; so there is no overall score.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from trustee.evaluation.bfcl.episodes import MOST_MESSAGES, BfclWorld, make_task
from trustee.evaluation.bfcl.process import Benchmark, open_benchmark
from trustee.types import Task

GROUPS: Mapping[str, Sequence[str]] = {
    "Non-Live": ("simple_python", "multiple", "parallel", "parallel_multiple"),
    "Live": ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
    "Multi-Turn": (
        "multi_turn_base",
        "multi_turn_miss_func",
        "multi_turn_miss_param",
        "multi_turn_long_context",
    ),
    "Relevance": ("irrelevance", "live_irrelevance", "live_relevance"),
}
"""Groups of categories, as the leaderboard has them, without what needs Java, JavaScript or the
web."""
MOST_TURNS = 8
"""More turns than the longest task has."""


class Bfcl:
    """The benchmark."""

    name = "bfcl"
    groups = GROUPS

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenBfcl]:
        """Start the benchmark's process."""
        async with open_benchmark() as benchmark:
            yield OpenBfcl(benchmark)


@dataclass(frozen=True)
class OpenBfcl:
    """The benchmark with its process."""

    benchmark: Benchmark
    turns: int = MOST_TURNS * (MOST_MESSAGES + 1)

    @property
    def world(self) -> BfclWorld:
        """The world in which its tasks are played."""
        return BfclWorld(self.benchmark)

    async def read_tasks(self, rows: int | None) -> tuple[Task, ...]:
        """Return the first tasks of each category, or all."""
        tasks: list[Task] = []
        for category in (name for names in GROUPS.values() for name in names):
            entries = await self.benchmark.ask("list_entries", category=category)
            tasks += [make_task(category, entry) for entry in entries[:rows]]
        return tuple(tasks)

    async def oracle(self, tasks: Sequence[Task]) -> dict[str, bool | None]:
        """Return by task whether the benchmark's own calls are right."""
        found: dict[str, bool | None] = {}
        for number, task in enumerate(tasks):
            where = {"category": task.hidden["category"], "id": task.id}
            if task.hidden["truth"] is None:
                found[task.id] = None
            elif task.hidden["later"] is not None:
                found[task.id] = await self.benchmark.ask(
                    "check_oracle", **where, episode=f"oracle_{number}"
                )
            else:
                calls = [first_values(call) for call in task.hidden["truth"]]
                found[task.id] = await self.benchmark.ask("check_calls", **where, calls=calls)
        return found

    async def floor(self, tasks: Sequence[Task]) -> dict[str, bool]:
        """Return by task whether no call at all is right."""
        found: dict[str, bool] = {}
        for number, task in enumerate(tasks):
            where = {"category": task.hidden["category"], "id": task.id}
            if task.hidden["later"] is not None:
                turns: list[list[Any]] = [[] for _ in (None, *task.hidden["later"])]
                found[task.id] = await self.benchmark.ask(
                    "check_turns", **where, turns=turns, episode=f"floor_{number}"
                )
            else:
                found[task.id] = await self.benchmark.ask("check_calls", **where, calls=[])
        return found


def first_values(call: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a call with the first acceptable value of each argument."""
    ((name, arguments),) = call.items()
    return name.replace(".", "_"), first_of_each(arguments)


def first_of_each(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first acceptable value of each key; an empty text stands for none at all."""
    return {key: first(found) for key, found in values.items() if found != [] and found[:1] != [""]}


def first(found: Any) -> Any:
    """Return the first acceptable value; an object has a list of values for each of its keys."""
    value = found[0]
    if isinstance(value, dict):
        return {
            key: first(inner) if isinstance(inner, list) and inner else inner
            for key, inner in value.items()
            if inner != [""]
        }
    if isinstance(value, list):
        return [first([one]) if isinstance(one, dict) else one for one in value]
    return value

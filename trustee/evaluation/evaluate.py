"""Measuring a policy on held-out tasks: the same tasks and the same seeds for every policy.

Tasks come from the held-out source of a world and are the same for every policy. Success is the
world's verdict, or else a positive reward. Intervals are those of `intervals.py`, which have a
width on few tasks too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import anyio
from msgspec import Meta

from trustee.environments.protocol import TaskSource, TaskSpec
from trustee.evaluation.intervals import paired_interval, share_interval
from trustee.rollout import EpisodePlayer
from trustee.runs.shards import WHOLE, Share
from trustee.types import Adapter, Failure, Record, Task, Trajectory


class EvalConfig(Record, frozen=True):
    """How a policy is measured on held-out tasks."""

    tasks: Annotated[int, Meta(ge=1)] | None = 100
    """Number of held-out tasks, before and after training; `none` skips the measurement."""
    seed: int = 12345
    """Random seed of the tasks and of their episodes."""
    temperature: Annotated[float, Meta(ge=0)] = 0.0
    """Sampling temperature; 0 is greedy."""
    parallel: Annotated[int, Meta(ge=1)] = 64
    """Maximum number of concurrent episodes."""
    every: Annotated[int, Meta(ge=1)] | None = None
    """Steps between two measurements in training; none: only before and after it."""
    patience: Annotated[int, Meta(ge=1)] | None = None
    """Measurements in a row without a better one after which training ends; none: never. Needs
    `eval.every`."""


class SuccessRate(Record, frozen=True):
    """A share of successes with its 95 % interval."""

    value: float
    low: float
    high: float
    count: int
    """Number of valid episodes."""
    failed: int = 0
    """Number of episodes that failed for a reason other than the policy."""


def share_of(outcomes: Sequence[bool], *, failed: int = 0) -> SuccessRate:
    """Return a share with Wilson's interval; without outcomes it is 0 with the full range."""
    count, successes = len(outcomes), sum(outcomes)
    low, high = share_interval(successes, count)
    value = successes / count if count else 0.0
    return SuccessRate(value=value, low=low, high=high, count=count, failed=failed)


class Gain(Record, frozen=True):
    """A difference of two shares on the same tasks, in percentage points, with 95 % interval."""

    points: float
    low: float
    high: float
    better: int
    """Number of tasks that only the second policy solved."""
    worse: int
    """Number of tasks that only the first policy solved."""


def gain_between(first: Sequence[Trajectory], second: Sequence[Trajectory]) -> Gain:
    """Return the gain of the second policy on the tasks that both played without a failure."""
    before = {t.task_id: t.success for t in first if t.failure is None}
    after = {t.task_id: t.success for t in second if t.failure is None}
    changes = [after[task] - before[task] for task in before.keys() & after.keys()]
    better, worse, count = changes.count(1), changes.count(-1), len(changes)
    low, high = paired_interval(better, worse, count)
    points = 100 * (better - worse) / count if count else 0.0
    return Gain(points=points, low=100 * low, high=100 * high, better=better, worse=worse)


async def write_tasks(
    source: TaskSource,
    player: EpisodePlayer,
    *,
    config: EvalConfig,
    done: Callable[[Task | Failure], None] = lambda _: None,
) -> tuple[Task, ...]:
    """Return the held-out tasks; task specs that could not be written are left out."""
    written = await write_share(source, player, config=config, share=WHOLE, done=done)
    return tuple(written.values())


async def write_share(
    source: TaskSource,
    player: EpisodePlayer,
    *,
    config: EvalConfig,
    share: Share,
    done: Callable[[Task | Failure], None] = lambda _: None,
) -> dict[int, Task]:
    """Return a share of the held-out tasks by their places among all task specs, in order.

    A place is that of the task spec's id in the order of ids, so every share knows all places.
    """
    drawn: list[TaskSpec] = []
    while len(drawn) < (config.tasks or 0) and (spec := source.draw()) is not None:
        drawn.append(spec)
    places = {name: place for place, name in enumerate(sorted(spec.id for spec in drawn))}
    written: dict[int, Task] = {}
    episode_limiter = anyio.CapacityLimiter(config.parallel)

    async def write(index: int, spec: TaskSpec) -> None:
        async with episode_limiter:
            task = await player.write(source, spec, seed=f"{config.seed} held-out {index}")
        done(task)
        if isinstance(task, Task):
            written[places[spec.id]] = task

    async with anyio.create_task_group() as tasks:
        for index, spec in enumerate(drawn):
            if share.takes(places[spec.id]):
                tasks.start_soon(write, index, spec)
    return dict(sorted(written.items()))


async def evaluate(
    tasks: Sequence[Task],
    player: EpisodePlayer,
    *,
    config: EvalConfig,
    adapter: Adapter | None,
    label: str,
    repeats: int = 1,
    places: Sequence[int] | None = None,
    done: Callable[[Trajectory], None] = lambda trajectory: None,
) -> tuple[Trajectory, ...]:
    """Play each task at the config's temperature, `repeats` times with other seeds.

    Args:
        tasks: the tasks.
        player: plays the episodes.
        config: how a policy is measured.
        adapter: the policy's; None is the base.
        label: what the names of the episodes begin with.
        repeats: attempts at each task.
        places: the numbers of the tasks in the names of the episodes; None counts them from 0.
        done: is called with each episode.

    Returns:
        the first episodes of all tasks in task order, then the second ones, and so on.
    """
    measured = replace(player, temperature=config.temperature)
    numbers = range(len(tasks)) if places is None else places
    played: dict[tuple[int, int], Trajectory] = {}
    episode_limiter = anyio.CapacityLimiter(config.parallel)

    async def play(repeat: int, index: int, task: Task) -> None:
        again = f"/{repeat}" if repeat else ""
        async with episode_limiter:
            played[repeat, index] = await measured.play(
                task,
                trajectory_id=f"{label}/{numbers[index]}{again}",
                adapter=adapter,
                seed=random.Random(f"{config.seed} {task.id}{again}").randrange(1 << 31),
            )
            done(played[repeat, index])

    async with anyio.create_task_group() as group:
        for repeat in range(repeats):
            for index, task in enumerate(tasks):
                group.start_soon(play, repeat, index, task)
    return tuple(played[key] for key in sorted(played))


def success_of(trajectories: Sequence[Trajectory]) -> SuccessRate:
    """Return the share of successes among valid episodes."""
    valid = [t for t in trajectories if t.failure is None]
    return share_of([t.success for t in valid], failed=len(trajectories) - len(valid))

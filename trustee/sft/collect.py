"""Playing full episodes of a world and keeping them: states to train from, lessons to imitate.

Every finished episode is on disk before anything else happens to it, and what an episode is depends
on the seed and its number alone. So an interrupt loses nothing, and the same call goes on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import anyio
import msgspec
from msgspec import Meta

from trustee.environments.hints import Hints
from trustee.environments.protocol import TaskSource, TaskSpec
from trustee.errors import RunError
from trustee.events import Emit, EpisodeBegun, TaskCollected
from trustee.rollout import EpisodePlayer, RolloutConfig
from trustee.runs.store import EpisodeLine, Store, TaskLine, describe_episode, read_lines
from trustee.sft.demonstrations import Demonstration
from trustee.sft.rejection import FilterConfig, find_reject_reason
from trustee.sft.teacher import Player
from trustee.tiny.teacher import TrialHabits
from trustee.types import Adapter, Record, RejectReason, Task, Trajectory

ALL_FAILED_LIMIT = 16
"""Episodes, all spoiled, after which nothing better is expected."""


class CollectConfig(Record, frozen=True):
    """How episodes are collected."""

    tasks: Annotated[int, Meta(ge=1)] | None = None
    """Tasks that a teacher plays before `trustee run` trains, which imitates them first; none
    leaves the teacher out."""
    teacher: Literal["base", "script"] = "base"
    """Who that teacher is: the base with hints, or the micro-world's script."""
    script: TrialHabits = TrialHabits()
    """How careless that script is."""
    attempts: Annotated[int, Meta(ge=1)] = 4
    """Episodes of one task."""
    keep: Annotated[int, Meta(ge=1)] = 1
    """Most episodes of one task that become demonstrations."""
    filter: FilterConfig = FilterConfig()


class Counts(Record, frozen=True):
    """What came of a collection."""

    tasks: int
    unwritten: int
    """Task specs of which no task came."""
    episodes: int
    kept: int
    dropped: dict[RejectReason, int]
    """Episodes by the first reason against them."""
    demonstrations: int
    states: int


@dataclass(slots=True)
class Collection:
    """One collection: what its episodes share."""

    source: TaskSource
    player: EpisodePlayer
    """Writes the tasks, and plays with the engine and the renderer of `player_of`."""
    player_of: Callable[[Task], Player]
    """Who plays the episodes of a task."""
    adapter: Adapter | None
    hinter: Callable[[Task], Hints] | None
    """None where nobody teaches and all that was played soundly is kept."""
    config: CollectConfig
    rollout: RolloutConfig
    seed: int
    store: Store
    emit: Emit
    count: int
    """Tasks."""
    states_of: Callable[[Task, Trajectory], Sequence[Record]] = lambda task, trajectory: ()
    tasks: dict[int, TaskLine] = field(default_factory=dict)
    played: int = 0
    """Tasks of which all episodes are played."""
    episodes: dict[tuple[int, int], EpisodeLine] = field(default_factory=dict)
    """By group and member."""
    valid: int = 0
    """Episodes that nobody spoiled."""
    kept: int = 0

    def recall(self) -> None:
        """Take up what an earlier call has finished."""
        folder = self.store.folder
        if (folder / "tasks.jsonl").exists():
            self.tasks = {line.group: line for line in read_lines(folder / "tasks.jsonl", TaskLine)}
        if (folder / "episodes.jsonl").exists():
            lines: list[EpisodeLine] = read_lines(folder / "episodes.jsonl", EpisodeLine)
            self.episodes = {(line.group, line.member): line for line in lines}
        self.valid = sum(line.trajectory.failure is None for line in self.episodes.values())
        self.kept = sum(line.rejected is None for line in self.episodes.values())


async def collect(job: Collection) -> Counts:
    """Play what is missing and write down what is worth it, also when interrupted.

    Raises:
        RunError: if nothing can be played.
    """
    job.recall()
    task_limiter = anyio.CapacityLimiter(max(1, job.rollout.episodes // job.config.attempts))
    try:
        async with anyio.create_task_group() as players:
            for number in range(job.count):
                spec = job.source.draw()
                if spec is None:
                    break
                players.start_soon(play_task, job, number, spec, task_limiter)
    finally:
        counts = write_results(job)
    return counts


async def play_task(
    job: Collection, number: int, spec: TaskSpec, task_limiter: anyio.CapacityLimiter
) -> None:
    """Write a task and play it as often as wanted, as far as that was not done before."""
    missing = [m for m in range(job.config.attempts) if (number, m) not in job.episodes]
    async with task_limiter:
        if number not in job.tasks:
            job.tasks[number] = await write_task_line(job, number, spec)
            job.store.append("tasks.jsonl", [job.tasks[number]])
        task = job.tasks[number].task
        async with anyio.create_task_group() as members:
            if task is not None:
                for member in missing:
                    members.start_soon(play_member, job, task, number, member)
    job.played += 1
    job.emit(TaskCollected(tasks=job.played, of=job.count, kept=job.kept))


async def write_task_line(job: Collection, number: int, spec: TaskSpec) -> TaskLine:
    """Have the source make a task of a task spec, or say why there is none."""
    written = await job.player.write(job.source, spec, seed=f"{job.seed} draft {number}")
    if isinstance(written, Task):
        return TaskLine(group=number, version=0, task=written)
    return TaskLine(group=number, version=0, task=None, failure=written)


async def play_member(job: Collection, task: Task, number: int, member: int) -> None:
    """Play one episode, look for faults, and write it down."""
    key = f"{number}/{member}"
    seated = job.player_of(task)
    player = replace(job.player, engine=seated.engine, renderer=seated.renderer)
    job.emit(EpisodeBegun(group=number, member=member))
    played = await player.play(
        task,
        trajectory_id=key,
        adapter=job.adapter,
        seed=random.Random(f"{job.seed} {key}").randrange(1 << 31),
    )
    trajectory = seated.keep(played)
    rejected = reject(job, task, trajectory)
    line = EpisodeLine(group=number, member=member, trajectory=trajectory, rejected=rejected)
    job.episodes[number, member] = line
    job.store.append("episodes.jsonl", [line])
    job.emit(msgspec.structs.replace(describe_episode(line), rejected=rejected))
    job.valid += trajectory.failure is None
    job.kept += rejected is None
    if not job.valid and len(job.episodes) >= ALL_FAILED_LIMIT and trajectory.failure is not None:
        raise RunError(
            f"the first {len(job.episodes)} episodes all failed, the last because of "
            f"{trajectory.failure.source}: {trajectory.failure.message}; see "
            f"{job.store.folder / 'episodes.jsonl'}"
        )


def reject(job: Collection, task: Task, trajectory: Trajectory) -> RejectReason | None:
    """Return why an episode is not kept; None where it is."""
    if job.hinter is None:
        return None if trajectory.failure is None else RejectReason.FAILED
    return find_reject_reason(
        trajectory, task, job.hinter(task), config=job.config.filter, context=job.player.context
    )


def write_results(job: Collection) -> Counts:
    """Write demonstrations and states anew from all episodes, in their order, and count."""
    demonstrations: list[Demonstration] = []
    states: list[Record] = []
    dropped: Counter[RejectReason] = Counter()
    taken: Counter[int] = Counter()
    kept = 0
    for number, member in sorted(job.episodes):
        line = job.episodes[number, member]
        task = job.tasks[number].task
        assert task is not None, "an episode without a task"
        if line.rejected is not None:
            dropped[line.rejected] += 1
            continue
        kept += 1
        states += job.states_of(task, line.trajectory)
        if job.hinter is not None and taken[number] < job.config.keep:
            taken[number] += 1
            demonstrations.append(demonstrate(task, line.trajectory))
    for name, lines in (("demonstrations.jsonl", demonstrations), ("states.jsonl", states)):
        (job.store.folder / name).unlink(missing_ok=True)
        if lines:
            job.store.append(name, lines)
    counts = Counts(
        tasks=sum(line.task is not None for line in job.tasks.values()),
        unwritten=sum(line.task is None for line in job.tasks.values()),
        episodes=len(job.episodes),
        kept=kept,
        dropped=dict(dropped),
        demonstrations=len(demonstrations),
        states=len(states),
    )
    (job.store.folder / "collected.json").write_bytes(msgspec.json.encode(counts))
    return counts


def demonstrate(task: Task, trajectory: Trajectory) -> Demonstration:
    """Give an episode as a demonstration."""
    said = [m for turn in trajectory.turns for m in (turn.message, *turn.replies)]
    return Demonstration(
        task_id=task.id,
        tools=task.tools,
        messages=(*task.messages, *said),
        notes={"episode": trajectory.id, "rewards": trajectory.rewards},
    )

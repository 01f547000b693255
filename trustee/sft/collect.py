"""Collecting full episodes of a world: states to train from, and demonstrations to imitate.

Every finished episode is written to disk before anything else happens to it, and its task and
random seed depend only on the run's seed and its number. So an interrupt loses no finished episode,
and the same call continues.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import anyio
import msgspec
from msgspec import Meta

from trustee.environments.hints import Hints
from trustee.environments.protocol import TaskSource, TaskSpec
from trustee.errors import RunError
from trustee.events import Emit, EpisodeBegun, TaskCollected
from trustee.rollout import EpisodePlayer, RolloutConfig
from trustee.runs.files import write_json, write_lines
from trustee.runs.shards import WHOLE, Share
from trustee.runs.store import EpisodeLine, Store, TaskLine, describe_episode, read_lines
from trustee.sft.demonstrations import Demonstration
from trustee.sft.rejection import FilterConfig, find_reject_reason
from trustee.sft.teacher import Player
from trustee.tiny.teacher import TrialHabits
from trustee.types import Adapter, Record, RejectReason, Task, Trajectory

ALL_FAILED_LIMIT = 16
"""Number of episodes after which a collection stops if all of them have failed."""


class CollectConfig(Record, frozen=True):
    """How episodes are collected."""

    tasks: Annotated[int, Meta(ge=1)] | None = None
    """Number of tasks that a teacher plays before `trustee run` trains, for the run to imitate
    first; `none` skips the teacher."""
    teacher: Literal["base", "script"] = "base"
    """The teacher: the base model with hints, or the micro-world's script."""
    script: TrialHabits = TrialHabits()
    """How careless the script is."""
    attempts: Annotated[int, Meta(ge=1)] = 4
    """Number of episodes per task."""
    keep: Annotated[int, Meta(ge=1)] = 1
    """Maximum number of episodes per task that become demonstrations."""
    filter: FilterConfig = FilterConfig()


class Counts(Record, frozen=True):
    """The results of a collection, as counts."""

    tasks: int
    unwritten: int
    """Number of task specs for which no task could be written."""
    episodes: int
    kept: int
    dropped: dict[RejectReason, int]
    """Number of rejected episodes, by the first reason found."""
    demonstrations: int
    states: int


@dataclass(frozen=True, slots=True)
class Played:
    """The tasks and episodes of a collection's folder."""

    tasks: dict[int, TaskLine]
    """By number."""
    episodes: dict[tuple[int, int], EpisodeLine]
    """By number of the task and member."""


def read_played(folder: Path) -> Played:
    """Read what a collection has played so far.

    Raises:
        InputError: if a file cannot be read.
    """
    tasks: list[TaskLine] = []
    episodes: list[EpisodeLine] = []
    if (folder / "tasks.jsonl").exists():
        tasks = read_lines(folder / "tasks.jsonl", TaskLine)
    if (folder / "episodes.jsonl").exists():
        episodes = read_lines(folder / "episodes.jsonl", EpisodeLine)
    return Played(
        tasks={line.group: line for line in tasks},
        episodes={(line.group, line.member): line for line in episodes},
    )


@dataclass(slots=True)
class Collection:
    """One collection: the parts, settings and counters that its episodes share."""

    source: TaskSource
    player: EpisodePlayer
    """Writes the tasks, and plays episodes with the engine and the renderer from `player_of`."""
    player_of: Callable[[Task], Player]
    """Returns the player of an episode of a task."""
    adapter: Adapter | None
    hinter: Callable[[Task], Hints] | None
    """Returns the hints of a task; None without a teacher, which keeps every valid episode."""
    config: CollectConfig
    rollout: RolloutConfig
    seed: int
    store: Store
    emit: Emit
    count: int
    """Number of tasks to play, those of all shards together."""
    share: Share = WHOLE
    """Which of them are played here."""
    states_of: Callable[[Task, Trajectory], Sequence[Record]] = lambda task, trajectory: ()
    tasks: dict[int, TaskLine] = field(default_factory=dict)
    played: int = 0
    """Number of tasks with all their episodes played."""
    episodes: dict[tuple[int, int], EpisodeLine] = field(default_factory=dict)
    """Finished episodes by group and member."""
    valid: int = 0
    """Number of episodes without a failure."""
    kept: int = 0

    def recall(self) -> None:
        """Load the tasks and episodes that an earlier call finished."""
        found = read_played(self.store.folder)
        self.tasks, self.episodes = found.tasks, found.episodes
        self.valid = sum(line.trajectory.failure is None for line in self.episodes.values())
        self.kept = sum(line.rejected is None for line in self.episodes.values())


async def collect(job: Collection) -> Counts:
    """Play all missing episodes and write the results, even when interrupted.

    Raises:
        RunError: if the first episodes, or all of them, fail.
    """
    job.recall()
    task_limiter = anyio.CapacityLimiter(max(1, job.rollout.episodes // job.config.attempts))
    try:
        async with anyio.create_task_group() as players:
            for number in range(job.count):
                spec = job.source.draw()
                if spec is None:
                    break
                if job.share.takes(number):
                    players.start_soon(play_task, job, number, spec, task_limiter)
    finally:
        counts = write_results(
            job.store.folder,
            Played(job.tasks, job.episodes),
            config=job.config,
            shows=job.hinter is not None,
            states_of=job.states_of,
        )
    check_any_valid(job)
    return counts


def check_any_valid(job: Collection) -> None:
    """Refuse a collection in which everything has failed.

    Raises:
        RunError: naming the last failure.
    """
    failures = [line.trajectory.failure for line in job.episodes.values()]
    what, where = f"all {len(failures)} episodes", "episodes.jsonl"
    if not failures:
        failures = [line.failure for line in job.tasks.values()]
        what, where = f"the writing of all {len(failures)} tasks", "tasks.jsonl"
    if failures and None not in failures and (last := failures[-1]) is not None:
        raise RunError(
            f"{what} failed, the last because of {last.source}: {last.message}; see "
            f"{job.store.folder / where}"
        )


async def play_task(
    job: Collection, number: int, spec: TaskSpec, task_limiter: anyio.CapacityLimiter
) -> None:
    """Write a task and play its episodes, except those that an earlier call finished."""
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
    wanted = job.share.count(job.count)
    job.emit(TaskCollected(tasks=job.played, of=wanted, kept=job.kept))


async def write_task_line(job: Collection, number: int, spec: TaskSpec) -> TaskLine:
    """Return the line of a task that the source writes from a task spec, or of the failure."""
    written = await job.player.write(job.source, spec, seed=f"{job.seed} draft {number}")
    if isinstance(written, Task):
        return TaskLine(group=number, version=0, task=written)
    return TaskLine(group=number, version=0, task=None, failure=written)


async def play_member(job: Collection, task: Task, number: int, member: int) -> None:
    """Play one episode, check it for faults, and store it."""
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
    """Return the reason for not keeping an episode; None if it is kept."""
    if job.hinter is None:
        return None if trajectory.failure is None else RejectReason.FAILED
    return find_reject_reason(
        trajectory, task, job.hinter(task), config=job.config.filter, context=job.player.context
    )


def write_results(
    folder: Path,
    played: Played,
    *,
    config: CollectConfig,
    shows: bool,
    states_of: Callable[[Task, Trajectory], Sequence[Record]],
) -> Counts:
    """Write demonstrations and states from all episodes, in order, and return the counts.

    Args:
        folder: where they are written.
        played: the tasks and episodes.
        config: how many of a task's episodes become demonstrations.
        shows: whether a teacher played, so that there are demonstrations.
        states_of: returns the states of an episode.
    """
    demonstrations: list[Demonstration] = []
    states: list[Record] = []
    dropped: Counter[RejectReason] = Counter()
    taken: Counter[int] = Counter()
    kept = 0
    for number, member in sorted(played.episodes):
        line = played.episodes[number, member]
        task = played.tasks[number].task
        assert task is not None, "an episode without a task"
        if line.rejected is not None:
            dropped[line.rejected] += 1
            continue
        kept += 1
        states += states_of(task, line.trajectory)
        if shows and taken[number] < config.keep:
            taken[number] += 1
            demonstrations.append(demonstrate(task, line.trajectory))
    for name, lines in (("demonstrations.jsonl", demonstrations), ("states.jsonl", states)):
        if lines:
            write_lines(folder / name, lines)
        else:
            (folder / name).unlink(missing_ok=True)
    counts = Counts(
        tasks=sum(line.task is not None for line in played.tasks.values()),
        unwritten=sum(line.task is None for line in played.tasks.values()),
        episodes=len(played.episodes),
        kept=kept,
        dropped=dict(dropped),
        demonstrations=len(demonstrations),
        states=len(states),
    )
    write_json(folder / "collected.json", counts)
    return counts


def demonstrate(task: Task, trajectory: Trajectory) -> Demonstration:
    """Return an episode as a demonstration."""
    said = [m for turn in trajectory.turns for m in (turn.message, *turn.replies)]
    return Demonstration(
        task_id=task.id,
        tools=task.tools,
        messages=(*task.messages, *said),
        notes={"episode": trajectory.id, "rewards": trajectory.rewards},
    )

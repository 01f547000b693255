"""Playing full episodes of a world and keeping them: states to train from, lessons to imitate.

Every finished episode is on disk before anything else happens to it, and what an episode is depends
on the seed and its number alone. So an interrupt loses nothing, and the same call goes on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import anyio
import msgspec
from msgspec import Meta

from trustee.engine.clock import EngineClock
from trustee.environments.protocol import Services, TaskSource, TaskSpec, World
from trustee.errors import EpisodeError, RunError
from trustee.events import Emit, EpisodeBegun, TaskCollected
from trustee.rollout import RolloutConfig, play_episode
from trustee.runs.store import EpisodeLine, Store, TaskLine, describe_episode, read_lines
from trustee.sft.demonstrations import Demonstration
from trustee.sft.hints import Hinter
from trustee.sft.rejection import FilterConfig, RejectReason, find_reject_reason
from trustee.sft.teacher import Player
from trustee.tiny.teacher import TrialHabits
from trustee.types import Adapter, Failure, Record, Task, Trajectory

KEPT = "kept"
NOTE = "collected"
"""Key of a trajectory's notes: `kept`, or the reason why not."""
ALL_FAILED_LIMIT = 16
"""Episodes, all spoiled, after which nothing better is expected."""
PLAYED = "played"


class CollectConfig(Record, frozen=True):
    """How episodes are collected."""

    tasks: Annotated[int, Meta(ge=0)] = 0
    """Tasks that a teacher plays before `trustee run` trains, which imitates them first; 0 is none.
    """
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
    dropped: dict[str, int]
    """Episodes by the first reason against them."""
    demonstrations: int
    states: int


@dataclass(slots=True)
class Collection:
    """One collection: what its episodes share."""

    world: World
    source: TaskSource
    serve: Callable[[random.Random], Services]
    player: Callable[[Task], Player]
    adapter: Adapter | None
    hinter: Hinter | None
    """None where nobody teaches and all that was played soundly is kept."""
    config: CollectConfig
    rollout: RolloutConfig
    context: int
    seed: int
    store: Store
    clock: EngineClock
    emit: Emit
    count: int
    """Tasks."""
    states_of: Callable[[Task, Trajectory], Sequence[Record]] = lambda task, trajectory: ()
    tasks: dict[int, TaskLine] = field(default_factory=dict)
    played: int = 0
    """Tasks of which all episodes are played."""
    episodes: dict[tuple[int, int], Trajectory] = field(default_factory=dict)
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
            self.episodes = {(line.group, line.member): line.trajectory for line in lines}
        self.valid = sum(t.failure is None for t in self.episodes.values())
        self.kept = sum(map(is_kept, self.episodes.values()))


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
    services = job.serve(random.Random(f"{job.seed} draft {number}"))
    try:
        return TaskLine(group=number, version=0, task=await job.source.write(spec, services))
    except EpisodeError as error:
        failure = Failure(source=error.source, kind=type(error).__name__, message=str(error))
        return TaskLine(group=number, version=0, task=None, failure=failure)


async def play_member(job: Collection, task: Task, number: int, member: int) -> None:
    """Play one episode, look for faults, and write it down."""
    key = f"{number}/{member}"
    player = job.player(task)
    job.emit(EpisodeBegun(group=number, member=member))
    played = await play_episode(
        task,
        lambda rng: job.world.environment(task, job.serve(rng)),
        trajectory_id=key,
        engine=player.engine,
        renderer=player.renderer,
        adapter=job.adapter,
        limits=job.rollout.limits,
        temperature=job.rollout.temperature,
        seed=random.Random(f"{job.seed} {key}").randrange(1 << 31),
        clock=job.clock,
        context=job.context,
    )
    trajectory = judge_worth(job, task, player.keep(played))
    job.episodes[number, member] = trajectory
    line = EpisodeLine(group=number, member=member, trajectory=trajectory)
    job.store.append("episodes.jsonl", [line])
    job.emit(msgspec.structs.replace(describe_episode(line), collected=trajectory.notes[NOTE]))
    job.valid += trajectory.failure is None
    job.kept += is_kept(trajectory)
    if not job.valid and len(job.episodes) >= ALL_FAILED_LIMIT and trajectory.failure is not None:
        raise RunError(
            f"the first {len(job.episodes)} episodes all failed, the last because of "
            f"{trajectory.failure.source}: {trajectory.failure.message}; see "
            f"{job.store.folder / 'episodes.jsonl'}"
        )


def judge_worth(job: Collection, task: Task, trajectory: Trajectory) -> Trajectory:
    """Write into a trajectory's notes whether it is kept, and why not."""
    if job.hinter is None:
        verdict = PLAYED if trajectory.failure is None else str(RejectReason.FAILED)
    else:
        reason = find_reject_reason(
            trajectory, task, job.hinter(task), config=job.config.filter, context=job.context
        )
        verdict = KEPT if reason is None else str(reason)
    return msgspec.structs.replace(trajectory, notes={**trajectory.notes, NOTE: verdict})


def is_kept(trajectory: Trajectory) -> bool:
    """Say whether an episode is kept."""
    return trajectory.failure is None and trajectory.notes.get(NOTE) in (KEPT, PLAYED)


def write_results(job: Collection) -> Counts:
    """Write demonstrations and states anew from all episodes, in their order, and count."""
    demonstrations: list[Demonstration] = []
    states: list[Record] = []
    dropped: Counter[str] = Counter()
    taken: Counter[int] = Counter()
    kept = 0
    for (number, _), trajectory in sorted(job.episodes.items()):
        task = job.tasks[number].task
        assert task is not None, "an episode without a task"
        if not is_kept(trajectory):
            dropped[trajectory.notes[NOTE]] += 1
            continue
        kept += 1
        states += job.states_of(task, trajectory)
        if job.hinter is not None and taken[number] < job.config.keep:
            taken[number] += 1
            demonstrations.append(demonstrate(task, trajectory))
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

"""The loop: four actors, two kinds of stream, one semaphore, one switch.

`feed` draws drafts, `play` turns each into a group of episodes, `record` writes everything to disk
and hands groups on, `learn` makes a new version of them. A slot is taken by a draft and given back
when its group was trained on, dropped or failed, so `(max_lag + 1) * groups_per_step` slots are the
only back-pressure and `max_lag = 0` is synchronous training. `learn` checks the lag where it
consumes. Closing a stream is the shutdown.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from msgspec import Meta

from trustee.chat import Simulator
from trustee.checkpoint import RunState, write_checkpoint
from trustee.engine import Engine
from trustee.environment import Draft, Services, TaskSource, World
from trustee.errors import EpisodeError, RunError
from trustee.learner import Learner
from trustee.rollout import Limits, Renderer, play_episode
from trustee.step import LearnConfig, take_step
from trustee.store import EpisodeLine, Store, TaskLine
from trustee.types import Blame, Failure, Group, Record, Task, Trajectory
from trustee.versions import Versions
from trustee.watch import Decision, Watch

log = structlog.get_logger()

Event = dict[str, Any]


class RolloutConfig(Record, frozen=True):
    """How episodes are played."""

    group_size: Annotated[int, Meta(ge=2)] = 8
    """Episodes per task; one alone has nothing to be compared with."""
    groups_per_step: Annotated[int, Meta(ge=1)] = 16
    """Tasks per optimiser step."""
    max_lag: Annotated[int, Meta(ge=0)] = 1
    """Steps by which a group may be older than the policy it trains; 0 waits for each step."""
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    """At 1 the engine's raw logprobs are those of the sampling distribution."""
    limits: Limits = Limits()


@dataclass(slots=True)
class Run:
    """One training run: what its actors share."""

    world: World
    source: TaskSource
    engine: Engine
    learner: Learner
    renderer: Renderer
    simulator: Simulator
    versions: Versions
    store: Store
    watch: Watch
    rollout: RolloutConfig
    learning: LearnConfig
    seed: int
    steps: int
    minutes: float
    """Stop after this wall time; 0 is no limit."""
    keep_checkpoints: int
    tell: Callable[[Event], None]
    """Takes progress events."""
    step: int = 0
    next_group: int = 0
    begun: float = field(default_factory=time.monotonic)

    def services(self, key: str) -> Services:
        """Give a draft or an episode all that it may touch; `key` alone decides its randomness."""
        return Services(simulator=self.simulator, rng=random.Random(f"{self.seed} {key}"))

    @property
    def spent(self) -> float:
        """The share of the run that is done, by steps or by time, whichever is more."""
        by_time = (time.monotonic() - self.begun) / 60 / self.minutes if self.minutes else 0.0
        return max(self.step / self.steps, by_time)


Numbered = tuple[int, Draft]
Finished = TaskLine | EpisodeLine | Group


async def train(run: Run) -> None:
    """Train until the steps or the minutes are used up, or the source ends.

    Raises:
        ExceptionGroup: around a `RunError` if the run cannot go on, which can be resumed from its
            last checkpoint; around a bug otherwise.
    """
    slots = (run.rollout.max_lag + 1) * run.rollout.groups_per_step
    semaphore = anyio.Semaphore(slots)
    drafts_in, drafts_out = anyio.create_memory_object_stream[Numbered](slots)
    finished_in, finished_out = anyio.create_memory_object_stream[Finished](slots)
    groups_in, groups_out = anyio.create_memory_object_stream[Group](slots)
    # The consumers' ends stay open until all tasks have ended: no sender meets a closed stream.
    async with groups_out, finished_out, drafts_out, anyio.create_task_group() as writers:
        writers.start_soon(record, run, finished_out.clone(), groups_in)
        # An inner group, so that what has finished is still written when the players are cancelled.
        async with anyio.create_task_group() as players:
            players.start_soon(feed, run, semaphore, drafts_in)
            async with finished_in:
                for _ in range(slots):
                    players.start_soon(play, run, drafts_out.clone(), finished_in.clone())
            await learn(run, semaphore, groups_out)
            players.cancel_scope.cancel()


async def feed(run: Run, slots: anyio.Semaphore, drafts: MemoryObjectSendStream[Numbered]) -> None:
    """Draw a draft for every free slot."""
    async with drafts:
        while True:
            await slots.acquire()
            draft = run.source.draw()
            if draft is None:
                return
            number = run.next_group
            # Counted before the await: a checkpoint taken there must agree with the source's state.
            run.next_group += 1
            await drafts.send((number, draft))


async def play(
    run: Run,
    drafts: MemoryObjectReceiveStream[Numbered],
    finished: MemoryObjectSendStream[Finished],
) -> None:
    """Turn drafts into groups, one at a time."""
    async with drafts, finished:
        async for number, draft in drafts:
            with structlog.contextvars.bound_contextvars(group=number):
                await finished.send(await play_group(run, number, draft, finished))


async def play_group(
    run: Run, number: int, draft: Draft, finished: MemoryObjectSendStream[Finished]
) -> Group:
    """Write a task and play it `group_size` times at once."""
    version = run.versions.version
    task = await write_task(run, number, draft)
    if isinstance(task, Failure):
        await finished.send(TaskLine(group=number, version=version, task=None, failure=task))
        return Group(id=number, version=version, task=None, trajectories=(), failure=task)
    await finished.send(TaskLine(group=number, version=version, task=task))
    members: dict[int, Trajectory] = {}

    async def play_member(member: int) -> None:
        members[member] = await play_one(run, task, number, member)
        await finished.send(EpisodeLine(group=number, member=member, trajectory=members[member]))

    async with anyio.create_task_group() as tasks:
        for member in range(run.rollout.group_size):
            tasks.start_soon(play_member, member)
    trajectories = tuple(members[member] for member in sorted(members))
    # A trajectory without a turn was spoken by no version.
    oldest = min((t.version for t in trajectories if t.turns), default=version)
    return Group(id=number, version=oldest, task=task, trajectories=trajectories)


async def write_task(run: Run, number: int, draft: Draft) -> Task | Failure:
    """Have the source make a task of a draft, or say why there is none."""
    seconds = run.rollout.limits.seconds
    try:
        with anyio.move_on_after(seconds):
            return await run.source.write(draft, run.services(f"draft {number}"))
    except EpisodeError as error:
        return Failure(blame=error.blame, kind=type(error).__name__, message=str(error))
    message = f"task not written in {seconds:g} s (rollout.limits.seconds)"
    return Failure(blame=Blame.ENGINE, kind="TimeoutError", message=message)


async def play_one(run: Run, task: Task, number: int, member: int) -> Trajectory:
    """Play one member with the version that is current when it begins."""
    key = f"{number}/{member}"
    run.tell({"event": "begin", "group": number, "member": member})
    async with run.versions.lease() as adapter:
        return await play_episode(
            task,
            lambda rng: run.world.environment(task, Services(simulator=run.simulator, rng=rng)),
            trajectory_id=key,
            engine=run.engine,
            renderer=run.renderer,
            adapter=adapter,
            limits=run.rollout.limits,
            temperature=run.rollout.temperature,
            seed=random.Random(f"{run.seed} {key}").randrange(1 << 31),
        )


async def record(
    run: Run,
    finished: MemoryObjectReceiveStream[Finished],
    groups: MemoryObjectSendStream[Group],
) -> None:
    """Write all that finished to disk, and only then hand groups on."""
    async with finished, groups:
        async for item in finished:
            items = [item]
            while True:
                try:
                    items.append(finished.receive_nowait())
                except (anyio.WouldBlock, anyio.EndOfStream):
                    break
            await anyio.to_thread.run_sync(write_down, run.store, items)
            for entry in items:
                if isinstance(entry, Group):
                    await groups.send(entry)
                else:
                    run.tell(describe(entry))


def write_down(store: Store, items: list[Finished]) -> None:
    """Append tasks and episodes to their files."""
    tasks = [item for item in items if isinstance(item, TaskLine)]
    episodes = [item for item in items if isinstance(item, EpisodeLine)]
    if tasks:
        store.append("tasks.jsonl", tasks)
    if episodes:
        store.append("episodes.jsonl", episodes)


def describe(entry: TaskLine | EpisodeLine) -> Event:
    """Give the progress event of something that finished."""
    if isinstance(entry, TaskLine):
        blame = entry.failure.blame if entry.failure else None
        return {"event": "task", "group": entry.group, "blame": blame, "spoiled": blame is not None}
    trajectory = entry.trajectory
    return {
        "event": "episode",
        "group": entry.group,
        "member": entry.member,
        "reward": trajectory.reward,
        "turns": len(trajectory.turns),
        "tokens": sum(len(turn.completion.ids) for turn in trajectory.turns),
        "blame": trajectory.blame,
        "spoiled": trajectory.failure is not None,
    }


async def learn(run: Run, slots: anyio.Semaphore, groups: MemoryObjectReceiveStream[Group]) -> None:
    """Make a new version of every `groups_per_step` fresh groups."""
    fresh: list[Group] = []
    seen: list[Group] = []
    since = time.monotonic()
    async for group in groups:
        seen.append(group)
        lag = run.versions.version - group.version
        if lag > run.rollout.max_lag or len(group.sound) < 2:
            check_failures(run, seen)
            slots.release()
            continue
        fresh.append(group)
        if len(fresh) < run.rollout.groups_per_step:
            continue
        waited = time.monotonic() - since
        # In draft order, so that equal episodes give equal steps whatever order they ended in.
        fresh.sort(key=lambda group: group.id)
        seen.sort(key=lambda group: group.id)
        await finish_step(run, fresh, seen, waited)
        for _ in fresh:
            slots.release()
        fresh, seen, since = [], [], time.monotonic()
        if run.spent >= 1:
            return


async def finish_step(run: Run, fresh: list[Group], seen: list[Group], waited: float) -> None:
    """Train on a step's groups, publish, steer, watch, record, and store a checkpoint."""
    begun = time.monotonic()
    lags = [run.versions.version - group.version for group in fresh]
    report = await take_step(
        fresh,
        run.learner,
        run.learning,
        step=run.step,
        version=run.versions.version,
        spent=run.spent,
        store=run.store,
    )
    trained = time.monotonic()
    run.step += 1
    figures = run.source.observe(seen)
    verdict = run.watch.observe(report, fresh)
    if verdict.stop is None:
        await follow(run, verdict, moved=report.moved)
    metrics = {
        "step": run.step,
        "version": run.versions.version,
        **figures,
        **describe_groups(seen),
        "lag_mean": sum(lags) / len(lags),
        "lag_max": max(lags),
        "dropped": sum(1 for group in seen if group not in fresh),
        "rolled_back_to": verdict.roll_back_to,
        **report.metrics(),
    }
    run.store.append("metrics.jsonl", [metrics])
    if verdict.stop is not None:
        raise RunError(f"{verdict.stop}; continue with trustee run --resume {run.store.folder}")
    published = time.monotonic()
    state = RunState(
        step=run.step,
        version=run.versions.version,
        next_group=run.next_group,
        source=run.source.state(),
        watch=run.watch.state(),
    )
    await write_checkpoint(
        run.store.folder / "checkpoints", state, save=run.learner.save, keep=run.keep_checkpoints
    )
    # After the checkpoint: an earlier one may name an older best version.
    run.watch.prune(run.store, alive=run.versions.alive)
    timing = {
        "step": run.step,
        "waited_s": round(waited, 3),
        "train_s": round(trained - begun, 3),
        "publish_s": round(published - trained, 3),
        "checkpoint_s": round(time.monotonic() - published, 3),
        "tokens": dict(run.simulator.tokens),
        "rejected": dict(run.simulator.rejected),
    }
    run.store.append("timing.jsonl", [timing])
    run.tell({"event": "step", **metrics, **timing, "spent": run.spent})


async def follow(run: Run, verdict: Decision, *, moved: bool) -> None:
    """Publish the trained adapter, or the earlier one that the alarms want back."""
    if verdict.roll_back_to is not None:
        await run.learner.adopt(run.store.adapter(verdict.roll_back_to))
        run.tell({"event": "rolled_back", "to": verdict.roll_back_to, "why": verdict.why})
        log.warning("rolled_back", to=verdict.roll_back_to, why=verdict.why)
    if moved or verdict.roll_back_to is not None:
        await publish(run, run.versions.version + 1)


async def publish(run: Run, version: int) -> None:
    """Make the trained adapter the current version, once the engine has a slot for it."""
    adapter = run.store.adapter(version)
    async with run.versions.slot():
        await run.learner.publish(adapter)
    await run.versions.announce(adapter)


def check_failures(run: Run, seen: list[Group]) -> None:
    """Stop a run that spoils all it plays.

    Raises:
        RunError: if the last groups of this step all failed.
    """
    failed = [group for group in seen if len(group.sound) < 2]
    if len(failed) < 4 * run.rollout.groups_per_step:
        return
    reasons = [
        failure
        for group in failed
        for failure in (group.failure, *(t.failure for t in group.trajectories))
        if failure is not None
    ]
    detail = f"{reasons[-1].blame}: {reasons[-1].message}" if reasons else "unknown"
    raise RunError(
        f"{len(failed)} groups in one step failed, the last because of {detail}; "
        "see tasks.jsonl and episodes.jsonl in the run folder"
    )


def describe_groups(groups: list[Group]) -> dict[str, float]:
    """Give the figures of a step's episodes."""
    members = [trajectory for group in groups for trajectory in group.trajectories]
    sound = [trajectory for group in groups for trajectory in group.sound]
    blamed = [t.failure.blame for t in members if t.failure]
    blamed += [group.failure.blame for group in groups if group.failure]
    count = max(1, len(sound))
    return {
        "episodes": len(members),
        "reward": sum(t.reward for t in sound) / count,
        "share_positive": sum(t.reward > 0 for t in sound) / count,
        "share_negative": sum(t.reward < 0 for t in sound) / count,
        "turns": sum(len(t.turns) for t in sound) / count,
        "completion_tokens": sum(len(u.completion.ids) for t in sound for u in t.turns) / count,
        **{f"failed_{blame}": blamed.count(blame) for blame in Blame},
    }

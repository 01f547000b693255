"""The training loop: four actors that are connected by streams.

`feed` draws task specs, `play` turns each into a task and then a group of episodes, `record` writes
everything to disk and passes groups on, and `learn` trains new versions on them. A group takes a
slot before it is played and releases it when it was trained on or dropped. These
`(max_off_policy_steps + 1) * groups_per_step` slots are the back-pressure, and
`max_off_policy_steps = 0` is synchronous training; `write_ahead` more task specs than slots keep
the writer busy. `learn` checks a group's lag when it takes the group from its stream. Closing a
stream shuts down the actors that read it.
"""

from __future__ import annotations

import random
from typing import TypeVar

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from trustee.environments.protocol import TaskSpec
from trustee.events import EpisodeBegun
from trustee.rl.learn import learn
from trustee.rl.run import Run, Slots
from trustee.runs.store import EpisodeLine, Store, TaskLine, describe
from trustee.types import Failure, Group, Task, Trajectory

T = TypeVar("T")
Numbered = tuple[int, TaskSpec]
Finished = TaskLine | EpisodeLine | Group


async def train(run: Run) -> None:
    """Train until the limit of steps, minutes or tokens is reached, or the source ends.

    Raises:
        ExceptionGroup: around a `RunError` if the run cannot go on, in which case it can be resumed
            from its last checkpoint; otherwise around a bug.
    """
    slots = Slots(run.rollout, taken=len(run.untrained))
    most = run.rollout.slots + run.rollout.write_ahead
    specs_in, specs_out = anyio.create_memory_object_stream[Numbered](most)
    finished_in, finished_out = anyio.create_memory_object_stream[Finished](most)
    groups_in, groups_out = anyio.create_memory_object_stream[Group](most)
    for group in run.untrained:
        groups_in.send_nowait(group)
    # Receivers stay open until all tasks have ended, so that no sender meets a closed stream.
    async with groups_out, finished_out, specs_out:
        try:
            async with anyio.create_task_group() as writers:
                writers.start_soon(record, run, finished_out.clone(), groups_in)
                # Inner group, so that finished items are still written when players are cancelled.
                async with anyio.create_task_group() as players:
                    players.start_soon(feed, run, slots, specs_in)
                    async with finished_in:
                        for _ in range(most):
                            players.start_soon(
                                play, run, slots, specs_out.clone(), finished_in.clone()
                            )
                    await learn(run, slots, groups_out)
                    players.cancel_scope.cancel()
        finally:
            finished = drain(finished_out)
            write_down(run.store, finished)
            for item in finished:
                if isinstance(item, Group):
                    run.untrained.add(item)


def drain(stream: MemoryObjectReceiveStream[T]) -> list[T]:
    """Return all items that are waiting in a stream."""
    taken: list[T] = []
    while True:
        try:
            taken.append(stream.receive_nowait())
        except (anyio.WouldBlock, anyio.EndOfStream):
            return taken


async def feed(run: Run, slots: Slots, specs: MemoryObjectSendStream[Numbered]) -> None:
    """Draw a task spec for every free slot."""
    async with specs:
        while True:
            await slots.tasks.acquire()
            spec = run.source.draw()
            if spec is None:
                return
            number = run.next_group
            # Before the await, because a checkpoint taken there must match the source's state.
            run.next_group += 1
            await specs.send((number, spec))


async def play(
    run: Run,
    slots: Slots,
    specs: MemoryObjectReceiveStream[Numbered],
    finished: MemoryObjectSendStream[Finished],
) -> None:
    """Turn task specs into groups, one at a time."""
    async with specs, finished:
        async for number, spec in specs:
            with structlog.contextvars.bound_contextvars(group=number):
                seed = f"{run.seed} draft {number - run.skipped}"
                task = await run.player().write(run.source, spec, seed=seed)
                if isinstance(task, Task):
                    await slots.groups.acquire()
                    group = await play_group(run, number, task, finished)
                else:
                    group = await record_unwritten(run, number, task, finished)
                await finished.send(group)


async def record_unwritten(
    run: Run, number: int, failure: Failure, finished: MemoryObjectSendStream[Finished]
) -> Group:
    """Record a task spec for which no task could be written, and return its empty group."""
    version = run.versions.version
    await finished.send(TaskLine(group=number, version=version, task=None, failure=failure))
    return Group(id=number, version=version, task=None, trajectories=(), failure=failure)


async def play_group(
    run: Run, number: int, task: Task, finished: MemoryObjectSendStream[Finished]
) -> Group:
    """Play a task `group_size` times concurrently and return the group."""
    version = run.versions.version
    await finished.send(TaskLine(group=number, version=version, task=task))
    members: dict[int, Trajectory] = {}

    async def play_member(member: int) -> None:
        members[member] = await play_one(run, task, number, member)
        await finished.send(EpisodeLine(group=number, member=member, trajectory=members[member]))

    async with anyio.create_task_group() as tasks:
        for member in range(run.rollout.group_size):
            tasks.start_soon(play_member, member)
    trajectories = tuple(members[member] for member in sorted(members))
    # A trajectory without a turn was not sampled by any version.
    oldest = min((t.version for t in trajectories if t.turns), default=version)
    return Group(id=number, version=oldest, task=task, trajectories=trajectories)


async def play_one(run: Run, task: Task, number: int, member: int) -> Trajectory:
    """Play one episode with the version that is current when it begins."""
    key = f"{number}/{member}"
    # By the place of the task spec, so that a resumed run plays what an unbroken one would.
    seed = random.Random(f"{run.seed} {number - run.skipped}/{member}").randrange(1 << 31)
    run.emit(EpisodeBegun(group=number, member=member))
    async with run.episode_limiter, run.versions.lease() as adapter:
        return await run.player().play(
            task,
            trajectory_id=key,
            adapter=adapter,
            seed=seed,
        )


async def record(
    run: Run,
    finished: MemoryObjectReceiveStream[Finished],
    groups: MemoryObjectSendStream[Group],
) -> None:
    """Write all finished items to disk, and only then pass groups on."""
    async with finished, groups:
        async for item in finished:
            items = [item, *drain(finished)]
            await anyio.to_thread.run_sync(write_down, run.store, items)
            for entry in items:
                if isinstance(entry, Group):
                    run.untrained.add(entry)
                    # Cannot block: the stream has room for one group per slot.
                    groups.send_nowait(entry)
                else:
                    run.emit(describe(entry))


def write_down(store: Store, items: list[Finished]) -> None:
    """Append tasks and episodes to their files."""
    tasks = [item for item in items if isinstance(item, TaskLine)]
    episodes = [item for item in items if isinstance(item, EpisodeLine)]
    if tasks:
        store.append("tasks.jsonl", tasks)
    if episodes:
        store.append("episodes.jsonl", episodes)

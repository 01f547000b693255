"""Versions of the policy: leased while somebody speaks, then retired, never more than slots."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.engine.scripted import ScriptedEngine
from trustee.engine.versions import Versions
from trustee.types import Adapter

pytestmark = pytest.mark.anyio


def make(*, slots: int = 2) -> tuple[ScriptedEngine, Versions]:
    """Make the versions of an engine that knows none."""
    engine = ScriptedEngine(lambda request: "")
    return engine, Versions(engine, slots=slots)


async def publish(engine: ScriptedEngine, versions: Versions, version: int) -> Adapter:
    """Publish one version as a run does."""
    adapter = Adapter(version=version, path=Path(f"policy-{version}"))
    async with versions.slot():
        await engine.publish(adapter)
    await versions.announce(adapter)
    return adapter


async def test_base_is_version_0_and_takes_no_slot() -> None:
    """Before anything is published, a lease is that of the base."""
    engine, versions = make()
    async with versions.lease() as adapter:
        assert (None, 0, ()) == (adapter, versions.version, versions.alive)
    assert {} == engine.known


async def test_announced_version_is_current() -> None:
    """The newest version is leased from its announcement on."""
    engine, versions = make()
    first = await publish(engine, versions, 1)
    async with versions.lease() as adapter:
        assert (first, 1, (1,)) == (adapter, versions.version, versions.alive)


async def test_unleased_version_is_retired_at_once() -> None:
    """A version that nobody speaks with makes room as soon as there is a newer one."""
    engine, versions = make()
    await publish(engine, versions, 1)
    await publish(engine, versions, 2)
    assert ((2,), [2]) == (versions.alive, list(engine.known))


async def test_version_is_retired_with_its_last_lease() -> None:
    """An older version stays while one episode still holds it, and no longer."""
    engine, versions = make()
    await publish(engine, versions, 1)
    async with versions.lease():
        async with versions.lease() as adapter:
            await publish(engine, versions, 2)
            assert adapter is not None
            assert 1 == adapter.version
            assert [1, 2] == list(versions.alive)
        assert [1, 2] == list(versions.alive)
    assert ([2], [2]) == (list(versions.alive), list(engine.known))


async def test_current_version_is_never_retired() -> None:
    """The last lease of the current version ends, and the version stays."""
    engine, versions = make()
    await publish(engine, versions, 1)
    async with versions.lease():
        pass
    assert ((1,), [1]) == (versions.alive, list(engine.known))


async def test_publish_waits_for_a_slot_and_is_woken() -> None:
    """With all slots taken, publishing waits until the last lease of an old version ends."""
    engine, versions = make(slots=2)
    await publish(engine, versions, 1)
    done = anyio.Event()

    async def hold(until: anyio.Event) -> None:
        async with versions.lease():
            await until.wait()

    async def publish_third() -> None:
        await publish(engine, versions, 3)
        done.set()

    end = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold, end)
        await anyio.wait_all_tasks_blocked()
        await publish(engine, versions, 2)
        tasks.start_soon(publish_third)
        await anyio.wait_all_tasks_blocked()
        assert (False, (1, 2)) == (done.is_set(), versions.alive)
        end.set()
        with anyio.fail_after(5):
            await done.wait()
    assert ((3,), [3]) == (versions.alive, list(engine.known))


async def test_failed_episode_gives_its_lease_back() -> None:
    """An episode that ends by a bug holds nothing."""
    engine, versions = make()
    await publish(engine, versions, 1)
    with pytest.raises(KeyError):
        async with versions.lease():
            raise KeyError
    await publish(engine, versions, 2)
    assert (2,) == versions.alive


async def test_cancelled_episode_gives_its_lease_back() -> None:
    """An episode that is cancelled still has its old version retired."""
    engine, versions = make()
    await publish(engine, versions, 1)
    async with anyio.create_task_group() as tasks:

        async def hold() -> None:
            async with versions.lease():
                await anyio.sleep_forever()

        tasks.start_soon(hold)
        await anyio.wait_all_tasks_blocked()
        await publish(engine, versions, 2)
        tasks.cancel_scope.cancel()
    assert ((2,), [2]) == (versions.alive, list(engine.known))


class Strict(ScriptedEngine):
    """An engine with so many places for versions, which takes its time for everything."""

    def __init__(self, *, slots: int) -> None:
        super().__init__(lambda request: "")
        self._slots = slots
        self.spoken: set[int] = set()
        """Versions that an episode is speaking with."""

    async def publish(self, adapter: Adapter) -> None:
        await anyio.lowlevel.checkpoint()
        await super().publish(adapter)
        assert self._slots >= len(self.known), "too many versions"

    async def retire(self, adapter: Adapter) -> None:
        await anyio.lowlevel.checkpoint()
        assert adapter.version not in self.spoken, "retired while somebody spoke with it"
        await super().retire(adapter)


@given(
    episodes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=25),
    slots=st.integers(2, 4),
    published=st.integers(1, 8),
    pause=st.integers(0, 6),
)
@settings(max_examples=80)
def test_slots_are_never_exceeded(
    episodes: list[tuple[int, int]], slots: int, published: int, pause: int
) -> None:
    """However episodes and versions interleave: enough slots, no early retirement, no deadlock."""
    engine = Strict(slots=slots)
    versions = Versions(engine, slots=slots)
    speaking: list[int] = []

    async def play(start: int, length: int) -> None:
        for _ in range(start):
            await anyio.lowlevel.checkpoint()
        async with versions.lease() as adapter:
            if adapter is None:
                return
            speaking.append(adapter.version)
            engine.spoken = set(speaking)
            for _ in range(length):
                await anyio.lowlevel.checkpoint()
                assert adapter.version in engine.known, "retired under its lease"
            speaking.remove(adapter.version)
            engine.spoken = set(speaking)

    async def make_versions() -> None:
        for version in range(1, published + 1):
            await publish(engine, versions, version)
            for _ in range(pause):
                await anyio.lowlevel.checkpoint()

    async def run() -> None:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(make_versions)
                for start, length in episodes:
                    tasks.start_soon(play, start, length)

    anyio.run(run)
    assert ((published,), [published]) == (versions.alive, list(engine.known))

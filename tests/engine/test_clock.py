"""The engine's clock: deadlines run, stand still, and go on with what was left."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from trustee.engine.clock import EngineClock

pytestmark = pytest.mark.anyio


async def test_a_limit_cancels_its_block() -> None:
    """A block that outlasts its seconds is cancelled and says so; one that does not is not."""
    clock = EngineClock()
    with clock.limit(0.02) as late:
        await anyio.sleep(30)
    with clock.limit(30) as early:
        await anyio.lowlevel.checkpoint()
    assert (True, False) == (late.cancelled_caught, early.cancelled_caught)


async def test_limits_stand_still_while_stopped() -> None:
    """Nothing runs out while the clock is stopped, and what was left is left afterwards."""
    clock = EngineClock()
    with clock.limit(0.05) as before:
        with clock.stopped():
            with clock.limit(0.05) as inside:
                await anyio.sleep(0.15)
                left = inside.deadline
            await anyio.sleep(0.05)
        assert float("inf") == left
        assert before.deadline - anyio.current_time() == pytest.approx(0.05, abs=0.02)
        await anyio.sleep(30)
    assert (True, False) == (before.cancelled_caught, inside.cancelled_caught)


async def test_overlapping_stops_end_with_the_last() -> None:
    """The clock runs again only when all who stopped it are done."""
    clock = EngineClock()
    done: list[float] = []

    async def stop(seconds: float) -> None:
        with clock.stopped():
            await anyio.sleep(seconds)
        done.append(seconds)

    with clock.limit(0.01) as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop, 0.03)
            tasks.start_soon(stop, 0.09)
        await anyio.sleep(30)
    assert ([0.03, 0.09], True) == (done, scope.cancelled_caught)


async def test_a_block_that_ended_is_forgotten() -> None:
    """A stop after the end of a block does not touch its scope again."""
    clock = EngineClock()
    with clock.limit(30) as scope:
        pass
    deadline = scope.deadline
    with clock.stopped():
        await anyio.lowlevel.checkpoint()
    assert deadline == scope.deadline

"""A long stage tells how far it is, also while the event loop is blocked."""

from __future__ import annotations

import time

import pytest

from trustee.engine.protocol import EngineProgress
from trustee.events import Event, Stage, StageMoved
from trustee.jobs import stage_meter
from trustee.jobs.stage_meter import MIB, StageMeter, metered


def test_a_blocked_stage_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events come from a thread, as long as the block lasts and no longer."""
    monkeypatch.setattr(stage_meter, "TELL_SECONDS", 0.02)
    events: list[Event] = []
    with metered("work", events.append, of=4, unit="tasks", engine=EngineProgress) as meter:
        meter.count()
        meter.count("anything")
        time.sleep(0.2)
    first, *moved = events
    assert Stage(name="work") == first
    assert {(2, 4, "tasks")} == {
        (event.done, event.of, event.unit) for event in moved if isinstance(event, StageMoved)
    }
    time.sleep(0.1)
    assert 1 + len(moved) == len(events)


def test_an_error_ends_the_teller() -> None:
    """The block's own error passes."""
    with (
        pytest.raises(ZeroDivisionError),
        metered("work", lambda event: None, of=1, unit="tasks", engine=EngineProgress),
    ):
        raise ZeroDivisionError


def test_rates_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are counted over the last minute; the time left goes by what this stage has done."""
    now = [100.0]
    monkeypatch.setattr("trustee.jobs.stage_meter.time.monotonic", lambda: now[0])
    seen = [EngineProgress(read=100, sampled=10)]
    meter = StageMeter(of=10, unit="environments", engine=lambda: seen[0])
    now[0], seen[0] = 110.0, EngineProgress(read=1100, sampled=60)
    told = meter.tell()
    assert (0, 100.0, 5.0, None) == (
        told.done,
        told.read_per_s,
        told.sampled_per_s,
        told.left_s,
    )
    # A continued build that had five already.
    meter.advance_to(6)
    now[0] = 120.0
    told = meter.tell()
    assert (6, 50.0, 80.0) == (told.done, told.read_per_s, told.left_s)
    # Only the last minute counts.
    for now[0] in (180.0, 240.0):
        told = meter.tell()
    assert 0.0 == told.read_per_s


def test_loading_is_counted_by_the_engine() -> None:
    """How many bytes there are is known only there."""
    seen = EngineProgress(loaded=3 * MIB, to_load=12 * MIB)
    told = StageMeter(of=0, unit="MiB", engine=lambda: seen).tell()
    assert (3, 12, "MiB") == (told.done, told.of, told.unit)

"""Following the events of a run from another process."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from trustee.events import Ended, Event, Note, Stage
from trustee.runs import watching
from trustee.runs.watching import RecordedClock, watch_events

pytestmark = pytest.mark.anyio
STAGE = {"event": "stage", "name": "training"}
ENDED = {"event": "ended", "code": 4, "text": "the engine died"}


def write(folder: Path, *told: object) -> None:
    """Add events to a run's file."""
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(json.dumps({"at": 1.0, "told": one}) + "\n" for one in told)


@pytest.fixture
def at_work(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Say at each look whether somebody is at work in the folder; at the end nobody is."""
    looks: list[bool] = []
    monkeypatch.setattr(
        watching, "find_writer", lambda folder: 1 if looks and looks.pop(0) else None
    )
    return looks


async def watch(folder: Path) -> tuple[Ended | None, list[Event]]:
    """Watch to the end."""
    seen: list[Event] = []
    with anyio.fail_after(10):
        ended = await watch_events(folder, tell=seen.append, look_seconds=0.01)
    return ended, seen


@pytest.mark.usefixtures("at_work")
async def test_a_run_that_has_ended_is_told_at_once(tmp_path: Path) -> None:
    """Its past, then how it ended; a line that is no event is left out."""
    write(tmp_path, STAGE, {"event": "unknown"}, {"event": "note", "text": "x"}, ENDED)
    ended, seen = await watch(tmp_path)
    assert [Stage(name="training"), Note(text="x")] == seen
    assert Ended(code=4, text="the engine died") == ended


async def test_a_run_that_goes_on_is_followed(tmp_path: Path, at_work: list[bool]) -> None:
    """What is written while somebody is at work arrives; an earlier end does not count."""
    at_work += [True] * 5
    write(tmp_path, STAGE, ENDED, STAGE)
    async with anyio.create_task_group() as group:

        async def go_on() -> None:
            await anyio.sleep(0.02)
            write(tmp_path, {"event": "note", "text": "late"})

        group.start_soon(go_on)
        ended, seen = await watch(tmp_path)
    assert ended is None
    assert Note(text="late") == seen[-1]


@pytest.mark.usefixtures("at_work")
async def test_a_run_that_died_without_a_word_has_no_end(tmp_path: Path) -> None:
    """A hard kill writes nothing."""
    write(tmp_path, STAGE)
    ended, seen = await watch(tmp_path)
    assert (None, 1) == (ended, len(seen))


@pytest.mark.usefixtures("at_work")
async def test_events_are_told_at_their_own_time(tmp_path: Path) -> None:
    """The clock stands at the time of an event when it is told, and goes on from there."""
    write(tmp_path, STAGE)
    clock, times = RecordedClock(), list[float]()
    await watch_events(
        tmp_path, tell=lambda event: times.append(clock.now()), look_seconds=0.01, clock=clock
    )
    assert [pytest.approx(1.0, abs=0.5)] == times
    assert clock.now() >= times[0]

"""Following the events of a run that another process writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import anyio

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.events import Ended, Event, Stage
from trustee.runs.event_log import EVENTS, EventLine
from trustee.runs.following import LineFollower
from trustee.runs.standing import find_writer


class RecordedClock:
    """The time of a run as its events tell it: that of the last one, and what has passed since."""

    def __init__(self) -> None:
        self._at = 0.0
        self._heard = time.monotonic()

    def hear(self, at: float) -> None:
        """Go on from the time of an event."""
        self._at, self._heard = at, time.monotonic()

    def now(self) -> float:
        """Return the time, in seconds since 1970."""
        return self._at + time.monotonic() - self._heard


async def watch_events(
    folder: Path,
    *,
    tell: Callable[[Event], None],
    look_seconds: float,
    clock: RecordedClock | None = None,
) -> Ended | None:
    """Tell the events of a run, those of the past first, until it ends.

    A run that was continued after an end goes on here too. Lines that cannot be read are left out.

    Args:
        folder: the run.
        tell: receives the events.
        look_seconds: time between two looks at the file.
        clock: hears the time of each event before it is told.

    Returns:
        how it ended; None if its process is gone without a word.

    Raises:
        InputError: if the file is there and cannot be read.
    """
    lines = LineFollower(folder / EVENTS)
    ended: Ended | None = None
    while True:
        lines.look()
        is_at_work = find_writer(folder) is not None
        for line in lines.read_new():
            try:
                heard = decode_json(line.data or b"", EventLine, error=InputError)
            except InputError:
                continue
            told = heard.told
            if clock is not None:
                clock.hear(heard.at)
            if isinstance(told, Ended):
                ended = told
            else:
                ended = None if isinstance(told, Stage) else ended
                tell(told)
        if not is_at_work:
            return ended
        await anyio.sleep(look_seconds)

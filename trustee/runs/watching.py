"""Following the events of a run that another process writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.events import Ended, Event, Stage
from trustee.runs.event_log import EVENTS, EventLine
from trustee.runs.following import LineFollower
from trustee.runs.standing import find_writer


async def watch_events(
    folder: Path, *, tell: Callable[[Event], None], look_seconds: float
) -> Ended | None:
    """Tell the events of a run, those of the past first, until it ends.

    A run that was continued after an end goes on here too. Lines that cannot be read are left out.

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
                told = decode_json(line.data or b"", EventLine, error=InputError).told
            except InputError:
                continue
            if isinstance(told, Ended):
                ended = told
            else:
                ended = None if isinstance(told, Stage) else ended
                tell(told)
        if not is_at_work:
            return ended
        await anyio.sleep(look_seconds)

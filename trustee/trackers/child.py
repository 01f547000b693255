"""The process of one tracker: `python -m trustee.trackers.child NAME`.

It reads messages from its input and answers when the tracker is ready or has failed. All that a
library prints goes to the error stream, so that the answers stay clean. It ends with its input.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from trustee.runs.config import TrackerName
from trustee.runs.store import read_lines
from trustee.trackers.backends import OPEN, Row, Tracker
from trustee.trackers.messages import (
    Answer,
    Begin,
    End,
    Failed,
    Figures,
    Opened,
    Table,
    read_message,
)
from trustee.types import Trajectory

ORPHAN_SECONDS = 60
"""Time in which a tracker must have finished once nobody tells it anything more."""
MOST_ROWS = 1000
LONGEST_TEXT = 400
COLUMNS = ("task", "success", "reward", "turns", "tokens", "stop", "failure", "last_message")


def main(name: TrackerName) -> None:
    """Run a tracker until its input ends."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)
        try:
            track(name, sys.stdin.buffer, out)
        except Exception as error:
            tell(out, Failed(why=f"{type(error).__name__}: {error}"))
            raise SystemExit(1) from error


def tell(out: BinaryIO, answer: Answer) -> None:
    """Answer."""
    out.write(msgspec.json.encode(answer) + b"\n")


def track(name: TrackerName, lines: Iterable[bytes], out: BinaryIO) -> None:
    """Give a tracker what is told, and close it in the end."""
    tracker: Tracker | None = None
    code = 1
    for line in lines:
        match read_message(line):
            case Begin() as begin:
                tracker = OPEN[name](begin)
                tell(out, Opened(where=tracker.where))
            case Figures() as figures if tracker is not None:
                tracker.log(figures.step, figures.values)
            case Table() as table if tracker is not None:
                tracker.add_table(table.step, table.name, COLUMNS, read_rows(Path(table.file)))
            case End() as end:
                code = end.code
    signal.alarm(ORPHAN_SECONDS)
    if tracker is not None:
        tracker.finish(code)


def read_rows(file: Path) -> Sequence[Row]:
    """Return a row for each held-out episode."""
    rows = []
    for played in read_lines(file, Trajectory)[:MOST_ROWS]:
        last = played.turns[-1].message.content if played.turns else ""
        rows.append(
            (
                played.task_id,
                float(played.success),
                played.reward,
                len(played.turns),
                sum(len(turn.completion.ids) for turn in played.turns),
                str(played.stop),
                played.failure and f"{played.failure.source} {played.failure.kind}",
                last[:LONGEST_TEXT],
            )
        )
    return rows


if __name__ == "__main__":
    main(sys.argv[1])  # type: ignore[arg-type]

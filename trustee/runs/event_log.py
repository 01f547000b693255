"""`events.jsonl`: the progress of a job with its times, for whoever watches from elsewhere.

Single episodes and tasks are left out: they have files of their own. It is a convenience, so a disk
that is full costs the run nothing here; what matters is written by `Store`, which says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec
from msgspec.structs import replace

from trustee.events import (
    Ended,
    EpisodeBegun,
    EpisodePlayed,
    Event,
    SftStepTrained,
    StageMoved,
    StepTrained,
    TaskWritten,
)
from trustee.runs.store import open_lines
from trustee.types import Record

EVENTS = "events.jsonl"
MOVED_SECONDS = 10.0
"""Least time between two records of how far a stage is."""


class EventLine(Record, frozen=True):
    """A line of `events.jsonl`."""

    at: float
    """Seconds since 1970."""
    told: Event


class EventLog:
    """Records what a job tells, and passes it on."""

    def __init__(self, folder: Path, tell: Callable[[Event], None]) -> None:
        self._path = folder / EVENTS
        self._tell = tell
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._moved_at = 0.0

    def __enter__(self) -> Self:
        """Open the file; without it events are only passed on."""
        try:
            self._file = open_lines(self._path)
        except OSError:
            self._file = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    def emit(self, event: Event) -> None:
        """Record an event and pass it on; may be called from any thread."""
        self.record(event)
        self._tell(event)

    def end(self, code: int, text: str = "") -> None:
        """Record how the job ended."""
        self.record(Ended(code=code, text=text))

    def record(self, event: Event) -> None:
        """Record an event, unless other files hold it."""
        match event:
            case EpisodeBegun() | EpisodePlayed() | TaskWritten():
                return
            case StageMoved():
                if time.monotonic() - self._moved_at < MOVED_SECONDS:
                    return
                self._moved_at = time.monotonic()
            case StepTrained() | SftStepTrained():
                event = replace(event, figures={})
        line = msgspec.json.encode(EventLine(at=round(time.time(), 3), told=event)) + b"\n"
        with self._lock:
            if self._file is None:
                return
            try:
                if self._file.write(line) != len(line):
                    raise OSError("the disk is full")
            except OSError:
                self._file.close()
                self._file = None

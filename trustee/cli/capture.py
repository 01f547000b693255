"""Keep the screen readable: output of libraries and child processes goes to a file."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import structlog

from trustee.cli.interrupt import hang_up
from trustee.cli.terminal import visible
from trustee.runs.ownership import refuse_unwritable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

GONE = (errno.EIO, errno.EPIPE)
"""What a write gives when the terminal was closed, or nobody reads the pipe any more."""


class Screen(NamedTuple):
    """The user's original output and error streams."""

    out: TextIO
    err: TextIO


class ScreenFile(io.FileIO):
    """A terminal or pipe that may go away: the first failed write says so, later ones are lost."""

    def __init__(self, descriptor: int, *, gone: Callable[[], None]) -> None:
        super().__init__(descriptor, "w")
        self._gone = gone
        self._is_gone = False

    def write(self, data: ReadableBuffer) -> int:
        """Write, or pretend to."""
        if not self._is_gone:
            try:
                return super().write(data)
            except OSError as error:
                if error.errno not in GONE:
                    raise
            self._is_gone = True
            self._gone()
        return memoryview(data).nbytes


def open_screen(descriptor: int) -> TextIO:
    """Return a stream to what a descriptor shows; it owns a copy of the descriptor."""
    raw = ScreenFile(os.dup(descriptor), gone=hang_up)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="replace")


@contextmanager
def divert_noise(folder: Path) -> Iterator[Screen]:
    """Redirect file descriptors 1 and 2 to `engine.log`, logs to `log.jsonl`; yield the originals.

    Child processes started inside inherit the redirection.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        noise = os.open(folder / "engine.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise refuse_unwritable(folder, error) from error
    kept = [os.dup(1), os.dup(2)]
    screen = Screen(
        out=open_screen(kept[0]),
        err=open_screen(kept[1]),
    )
    os.dup2(noise, 1)
    os.dup2(noise, 2)
    try:
        with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
            write_logs(file)
            yield screen
    finally:
        log_to_screen()
        logging.getLogger().handlers.clear()
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (*kept, noise):
            os.close(descriptor)
        screen.out.close()
        screen.err.close()


def log_to_screen() -> None:
    """Write structlog events to the error stream, where no job writes them to a file."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=False),
            lambda logger, method, text: visible(str(text)),
        ],
        logger_factory=lambda *names: structlog.PrintLogger(sys.stderr),
    )


def write_logs(file: TextIO) -> None:
    """Write structlog events and standard library log records as JSON lines."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=file),
    )
    handler = logging.StreamHandler(file)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processor=structlog.processors.JSONRenderer(),
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)

"""Keep the screen readable: output of libraries and child processes goes to a file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

import structlog

from trustee.runs.ownership import refuse_unwritable


class Screen(NamedTuple):
    """The user's original output and error streams."""

    out: TextIO
    err: TextIO


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
        out=os.fdopen(os.dup(kept[0]), "w", encoding="utf-8", errors="replace"),
        err=os.fdopen(os.dup(kept[1]), "w", encoding="utf-8", errors="replace"),
    )
    os.dup2(noise, 1)
    os.dup2(noise, 2)
    try:
        with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
            write_logs(file)
            yield screen
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (*kept, noise):
            os.close(descriptor)
        screen.out.close()
        screen.err.close()


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

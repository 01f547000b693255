"""What the engine's process has done so far, in a file that the main process maps too.

Only the engine's process writes, and reading asks nothing of it: a process that hangs, or that was
stopped, is seen by counters that stand still. A counter only grows.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
from enum import IntEnum, auto
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "TRUSTEE_COUNTERS"
"""Environment variable by which the engine's process is told the file."""
BYTES = 8
"""Size of a counter."""


class Counter(IntEnum):
    """The counters, in the order of the file."""

    MOVES = 0
    """Parts of layers that the engine has run, where it runs them one by one."""
    STEPS = auto()
    """Engine steps that have ended."""
    READ = auto()
    """Tokens of prompts that were read."""
    SAMPLED = auto()
    """Tokens that were sampled."""
    TRAINED = auto()
    """Parts of layers that the trainer has run, forward or backward."""
    LOADED = auto()
    """Bytes of weights that were read, and quantised where they are."""
    TO_LOAD = auto()
    """Bytes of weights that there are to read."""
    PEAK = auto()
    """Most bytes of memory that were in use after a micro-batch."""


class Counters:
    """All counters; without a file they are this process's own."""

    def __init__(self, path: Path | None = None) -> None:
        size = len(Counter) * BYTES
        memory: Any = bytearray(size)
        if path is not None:
            with path.open("r+b") as file:
                memory = mmap.mmap(file.fileno(), size)
        self._values = memoryview(memory).cast("Q")

    def add(self, counter: Counter, count: int = 1) -> None:
        """Increase a counter."""
        self._values[counter] += count

    def raise_to(self, counter: Counter, count: int) -> None:
        """Set a counter to a count, unless it is larger already."""
        self._values[counter] = max(self._values[counter], count)

    def read(self) -> tuple[int, ...]:
        """Return all values, in the order of `Counter`."""
        return tuple(self._values)


def create_counters(folder: Path) -> Counters:
    """Make the file of counters in a folder, and tell the processes that are started from now on.

    Raises:
        OSError: if it cannot be written.
    """
    path = folder / "counters"
    path.write_bytes(bytes(len(Counter) * BYTES))
    os.environ[VARIABLE] = str(path)
    return Counters(path)


@cache
def own_counters() -> Counters:
    """Return the counters that this process increases.

    The variable outlives its engine: a process that is started later has nobody who reads its
    counters, and keeps them to itself.
    """
    told = os.environ.get(VARIABLE)
    path = Path(told) if told and multiprocessing.parent_process() is not None else None
    return Counters(path if path is not None and path.is_file() else None)

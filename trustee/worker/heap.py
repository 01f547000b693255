"""The C library's heap in a process that trains on a CPU.

A step's tensors leave gaps that the next step fills. To give them back to the system after each
step keeps the process small, but to get them anew, page by page, took a third of the next step; so
the heap may grow, and is given back only when it has grown by much.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

MOST = 2 << 30
"""Bytes by which a process may grow. With the built-in model 30 steps stay at about this."""


class Heap:
    """What a process held when this was made, to be held against what it holds later."""

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most
        self._before = count_resident()

    def trim(self) -> bool:
        """Give back what the heap holds unused, if the process has grown; say whether it did.

        Only glibc can be asked.
        """
        library = ctypes.CDLL(None)
        if not hasattr(library, "malloc_trim") or count_resident() - self._before <= self._most:
            return False
        library.malloc_trim(0)
        return True


def count_resident() -> int:
    """Count the bytes of memory that this process holds; 0 where the system does not say."""
    place = Path("/proc/self/statm")
    return int(place.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if place.exists() else 0

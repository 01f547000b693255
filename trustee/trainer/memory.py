"""The limits of a card's memory: how much torch may take of it, and how its end is told.

Torch's allocator is not the only one that runs out: pinned pages, the handles of cuBLAS and kernels
that are loaded at their first use come from the driver, whose errors are other ones.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

GIB = 1 << 30
RESERVE = GIB // 2
"""Bytes of a card that torch leaves to the driver where no cap is wanted."""
SIGNS = ("out of memory", "alloc_failed", "can't allocate memory")
"""Words by which drivers and libraries say that there is no memory."""


def cap_memory(gib: float) -> None:
    """Let torch take no more than a card of this size would leave it; 0 is the card as it is.

    What lies outside torch counts: the CUDA context, and what other processes hold.
    """
    free, total = torch.cuda.mem_get_info()
    outside = total - free - torch.cuda.memory_reserved()
    most = gib * GIB if gib else total - RESERVE
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, (most - outside) / total)))


def ran_out(error: RuntimeError) -> bool:
    """Say whether an error means that there was no memory, whoever raised it."""
    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(sign in words for sign in SIGNS)


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

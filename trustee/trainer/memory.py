"""Limits of memory in training: how much torch may take, and how to recognise running out of it.

Torch's allocator is not the only one that can run out: pinned pages, cuBLAS handles and kernels
loaded at first use are allocated by the driver, which raises other errors.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import AbstractContextManager, nullcontext

import torch

from trustee.algorithm.learner import MemoryReport
from trustee.trainer.host_memory import bound_growth, count_resident, count_total, read_available
from trustee.types import GIB

RESERVE = GIB // 2
"""Bytes of GPU memory that torch leaves to the driver if no cap is set."""
SIGNS = ("out of memory", "alloc_failed", "can't allocate memory")
"""Phrases with which drivers and libraries report that memory has run out, in lower case."""


def cap_memory(gib: float | None) -> None:
    """Limit torch to what it could use on a GPU with this much memory; None: its real size.

    Memory outside torch counts too: the CUDA context, and what other processes hold.
    """
    free, total = torch.cuda.mem_get_info()
    outside = total - free - torch.cuda.memory_reserved()
    most = total - RESERVE if gib is None else gib * GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, (most - outside) / total)))


def bound_memory(device: torch.device) -> AbstractContextManager[None]:
    """Keep a call within the host's memory on a CPU; on a card `cap_memory` has set its limit."""
    return bound_growth() if device.type == "cpu" else nullcontext()


def ran_out(error: RuntimeError | MemoryError) -> bool:
    """Return whether an error of torch, the driver or a library means running out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = str(error).lower()
    return any(sign in words for sign in SIGNS)


def measure_held(device: torch.device) -> dict[str, int]:
    """Return the bytes that torch holds on a GPU, now and at most; zeros on a CPU."""
    if device.type != "cuda":
        return {"allocated": 0, "peak": 0}
    return {
        "allocated": torch.cuda.memory_allocated(),
        "peak": torch.cuda.max_memory_allocated(),
    }


def release_memory(asked: str, device: torch.device) -> MemoryReport:
    """Give back what the allocator keeps and nobody holds; say what was held before.

    Args:
        asked: the error that said that memory had run out.
        device: the figures are the host's unless it is a GPU.
    """
    gc.collect()
    if device.type != "cuda":
        held, free, total = count_resident(), read_available(), count_total()
        return MemoryReport(asked=asked, allocated=held, reserved=held, free=free, total=total)
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    free, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    return MemoryReport(asked=asked, allocated=allocated, reserved=reserved, free=free, total=total)


MOST = 2 << 30
"""Bytes by which a process may grow before its heap is trimmed. With the built-in model 30 steps
take about this much."""


class Heap:
    """The resident memory of this process when the object was made, to measure growth since."""

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most
        self._before = count_resident()

    def trim(self) -> bool:
        """Return unused heap memory to the system if the process has grown too much.

        Returns:
            Whether the heap was trimmed; always False without glibc, which alone offers it.
        """
        library = ctypes.CDLL(None)
        if not hasattr(library, "malloc_trim") or count_resident() - self._before <= self._most:
            return False
        library.malloc_trim(0)
        return True


def count_used(device: torch.device) -> int:
    """Return the bytes in use on a card, by all processes, or the resident memory of this one."""
    if device.type != "cuda":
        return count_resident()
    free, total = torch.cuda.mem_get_info()
    return total - free

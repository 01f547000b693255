"""Memory of the host: how much there is for this process, and a bound that ends before the kernel.

Without a card, a training step that does not fit is not refused: Linux promises more memory than it
has, and kills a process when the promise is kept. The bound turns that into an allocator's error,
which the memory ladder answers. Nothing here loads torch.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trustee.types import GIB

RESERVE = GIB // 2
"""Bytes of host memory that a training step leaves to everything else."""
LEAST_ROOM = GIB // 8
"""Bytes by which a process may always grow, because Python itself must be able to say no."""
MEMORY = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self/statm")
PAGE = os.sysconf("SC_PAGE_SIZE")


def count_total() -> int:
    """Return the host memory in bytes."""
    return PAGE * os.sysconf("SC_PHYS_PAGES")


def read_available() -> int:
    """Return the bytes of host memory that can still be had, in a container within its limit."""
    free = read_kernel_field(MEMORY, "MemAvailable:") * 1024
    try:
        most = int((CONTAINER / "memory.max").read_text(encoding="ascii"))
        used = int((CONTAINER / "memory.current").read_text(encoding="ascii"))
        cached = read_kernel_field(CONTAINER / "memory.stat", "inactive_file")
    except (OSError, ValueError):
        # No container, or one without a limit, which says `max`.
        return free
    return max(0, min(free, most - used + cached))


def read_kernel_field(path: Path, name: str) -> int:
    """Return the number behind a name in a file of the kernel; 0 if it does not stand there."""
    for line in path.read_text(encoding="ascii").splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    return 0


def count_resident() -> int:
    """Return the resident memory of this process in bytes; 0 if the system does not report it."""
    return int(PROCESS.read_text().split()[1]) * PAGE if PROCESS.exists() else 0


@contextmanager
def bound_growth(*, reserve: int = RESERVE) -> Iterator[None]:
    """Let this process grow by no more than the host has available, less a reserve in bytes.

    Allocators fail beyond that: torch with a RuntimeError, Python with a MemoryError. The bound is
    on private memory, of which some may never be touched, so it errs on the safe side.
    """
    if not PROCESS.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    private = int(PROCESS.read_text().split()[5]) * PAGE
    bound = private + max(LEAST_ROOM, read_available() - reserve)
    if soft != resource.RLIM_INFINITY:
        bound = min(bound, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

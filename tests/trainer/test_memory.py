"""Memory of a card: the cap counts all that lies outside torch, and every end of it is told."""

from __future__ import annotations

import pytest
import torch

from trustee.trainer.memory import cap_memory, ran_out
from trustee.types import GIB


@pytest.mark.parametrize(
    ("gib", "allowed"), [(24.0, 22.0), (None, 77.5), (1.0, 0.0), (100.0, 80.0)]
)
def test_the_cap_counts_what_lies_outside_torch(
    monkeypatch: pytest.MonkeyPatch, gib: float | None, allowed: float
) -> None:
    """On a card of 80 GiB the context and others hold two; without a cap half a GiB is left."""
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 18 * GIB)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    cap_memory(gib)
    assert shares == [allowed / 80]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("tried to hold 7 ids"), True),
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_who_says_that_memory_ran_out(error: RuntimeError, *, expected: bool) -> None:
    """Torch's allocator, the driver and cuBLAS each say it their own way; nothing else does."""
    assert expected == ran_out(error)


def test_what_torch_says_of_a_host_without_memory() -> None:
    """The sign is the one that torch really gives."""
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 52, dtype=torch.uint8)
    assert ran_out(found.value)

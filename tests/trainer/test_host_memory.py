"""Memory of the host: what there is of it, in a container too, and the bound that keeps within."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from trustee.trainer import host_memory
from trustee.trainer.host_memory import (
    LEAST_ROOM,
    bound_growth,
    count_resident,
    count_total,
    read_available,
)
from trustee.trainer.memory import ran_out
from trustee.types import GIB


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MemTotal:  16 kB\nMemFree:  9 kB\nMemAvailable:    8 kB\n", 8192),
        ("MemTotal:  16 kB\nMemFree:  9 kB\n", 0),
    ],
)
def test_available_memory_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: int
) -> None:
    """Memory that a program could have is more than what is free, and is counted in kibibytes."""
    (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(host_memory, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "CONTAINER", tmp_path / "none")
    assert expected == read_available()


@pytest.mark.parametrize(
    ("most", "expected"), [("6144", 6144 - 5000 + 1000), ("max", 8192), ("4500", 500), ("100", 0)]
)
def test_a_container_has_less(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: str, expected: int
) -> None:
    """Within a limit the cache that can be dropped counts as free; `max` is no limit."""
    files = {
        "meminfo": "MemAvailable: 8 kB\n",
        "memory.max": f"{most}\n",
        "memory.current": "5000\n",
        "memory.stat": "anon 3000\ninactive_file 1000\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(host_memory, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "CONTAINER", tmp_path)
    assert expected == read_available()


def test_memory_of_this_machine() -> None:
    """The kernel's figures are shares of the memory that there is."""
    assert 0 < read_available() < count_total()
    assert 0 < count_resident() < count_total()


def test_torch_is_refused_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits is given; what does not is the allocator's error; afterwards all is open."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(host_memory, "read_available", lambda: 3 * GIB)
    with bound_growth(reserve=GIB):
        kept = torch.empty(GIB, dtype=torch.uint8)
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2 * GIB, dtype=torch.uint8)
    assert ran_out(caught.value)
    assert GIB == kept.numel()
    assert before == resource.getrlimit(resource.RLIMIT_DATA)


def test_python_can_always_say_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is free at all, a little may still be taken."""
    monkeypatch.setattr(host_memory, "read_available", lambda: 0)
    with bound_growth():
        assert LEAST_ROOM // 2 == len(bytearray(LEAST_ROOM // 2))
        with pytest.raises(MemoryError) as caught:
            bytearray(4 * LEAST_ROOM)
    assert ran_out(caught.value)


def test_a_limit_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is lower than what the host has is not raised."""
    _, hard = before = resource.getrlimit(resource.RLIMIT_DATA)
    own = int(Path("/proc/self/statm").read_text().split()[5]) * host_memory.PAGE + GIB
    monkeypatch.setattr(host_memory, "read_available", lambda: 100 * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (own, hard))
    try:
        with bound_growth():
            assert own == resource.getrlimit(resource.RLIMIT_DATA)[0]
        assert own == resource.getrlimit(resource.RLIMIT_DATA)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the kernel's figures there is no bound and no size."""
    monkeypatch.setattr(host_memory, "PROCESS", tmp_path / "none")
    with bound_growth():
        assert torch.empty(GIB, dtype=torch.uint8).numel()
    assert 0 == count_resident()

"""Memory is given back only when a process has grown."""

from __future__ import annotations

import pytest

from trustee.trainer import memory
from trustee.trainer.host_memory import count_resident
from trustee.trainer.memory import Heap


def test_trims_only_what_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit nothing happens, above it the heap is trimmed, and below again nothing."""
    held = 5000
    monkeypatch.setattr(memory, "count_resident", lambda: held)
    own = Heap(most=100)
    assert not own.trim()
    held = 5100
    assert not own.trim()
    held = 5101
    assert own.trim()
    held = 4000
    assert not own.trim()


def test_resident_memory_follows_what_is_held() -> None:
    """Bytes that are written count."""
    before = count_resident()
    block = bytearray(b"x" * (64 << 20))
    assert 60 << 20 < count_resident() - before < 200 << 20
    assert len(block) == 64 << 20


def test_untold_system_never_trims(monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library that cannot be asked is left alone."""
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    monkeypatch.setattr(memory, "count_resident", iter([0]).__next__)
    assert not Heap(most=-1).trim()

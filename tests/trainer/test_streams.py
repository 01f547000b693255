"""Work of libraries that name no stream: on a GPU it runs on the default stream, alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from trustee.trainer.streams import on_default_stream


def test_a_gpu_waits_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """All streams are done before the default one begins, and it is done before they go on."""
    seen: list[str] = []

    @contextmanager
    def enter(stream: str) -> Iterator[None]:
        seen.append(f"enter {stream}")
        yield
        seen.append(f"leave {stream}")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: seen.append(f"wait {device}"))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "default")
    monkeypatch.setattr(torch.cuda, "stream", enter)
    with on_default_stream(torch.device("cuda", 0)):
        seen.append("work")
    assert ["wait cuda:0", "enter default", "work", "leave default", "wait cuda:0"] == seen


def test_a_cpu_has_no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of CUDA is touched where there is none."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: pytest.fail("touched"))
    with on_default_stream(torch.device("cpu")):
        pass

"""Counters in shared memory, and the hooks that increase them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trustee.engine.protocol import EngineProgress
from trustee.trainer import counters
from trustee.trainer.counters import VARIABLE, Counter, Counters, create_counters
from trustee.trainer.counting import count_layers, count_loading, count_steps, count_training


def test_two_views_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one process adds the other reads; the fields have the order of the file."""
    monkeypatch.delenv(VARIABLE, raising=False)
    mine = create_counters(tmp_path)
    theirs = Counters(tmp_path / "counters")
    theirs.add(Counter.READ, 7)
    theirs.add(Counter.TO_LOAD, 1 << 40)
    assert EngineProgress(read=7, to_load=1 << 40) == EngineProgress(*mine.read())
    assert [counter.name.lower() for counter in Counter] == list(EngineProgress.__struct_fields__)


def test_steps_are_counted_with_their_tokens() -> None:
    """A prompt of five is read and gives a token; two other requests get one each."""
    runner: Any = SimpleNamespace(execute_model=lambda scheduled: "output")
    counters = Counters()
    count_steps(runner, counters)
    step = SimpleNamespace(
        num_scheduled_tokens={"a": 5, "b": 1, "c": 1}, total_num_scheduled_tokens=7
    )
    assert "output" == runner.execute_model(step)
    assert EngineProgress(steps=1, read=5, sampled=3) == EngineProgress(*counters.read())


class Layer(torch.nn.Module):
    """A layer with one part that is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.mlp(x)
        return y


def test_layers_are_counted_forward_and_backward() -> None:
    """Counting changes no gradient."""
    gradients = []
    for counted in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(Layer(), Layer())
        counters = Counters()
        if counted:
            count_layers(model, counters)
            count_training(model, counters)
        model(torch.ones(2, 3)).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert EngineProgress(moves=2, trained=4) == EngineProgress(*counters.read())
    assert all(map(torch.equal, *gradients))


def test_loading_counts_what_was_taken_in(tmp_path: Path) -> None:
    """A tensor counts once its consumer comes back for the next one."""
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    counters = Counters()
    tensors = count_loading([("a", torch.zeros(10)), ("b", torch.zeros(5))], tmp_path, counters)
    next(tensors)
    assert (0, 100) == counters.read()[Counter.LOADED : Counter.PEAK]
    assert 1 == len(list(tensors))
    assert (60, 100) == counters.read()[Counter.LOADED : Counter.PEAK]


def test_a_file_that_is_gone_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable of an engine that has ended does not stop a later process."""
    monkeypatch.setenv(counters.VARIABLE, str(tmp_path / "gone"))
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    counters.own_counters.cache_clear()
    try:
        assert not any(counters.own_counters().read())
    finally:
        counters.own_counters.cache_clear()

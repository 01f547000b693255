"""A table in host memory: asked for by name, moved once, and read as before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import Parameter

pytest.importorskip("vllm")

from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)

from trustee.errors import RunError
from trustee.trainer import host_embedding
from trustee.trainer.host_embedding import HostEmbedding, lies_in_host, move_to_host
from trustee.trainer.variables import HOST_EMBEDDING


def make_layer() -> Any:
    """Give what the method sees of a layer."""
    table = torch.arange(40, dtype=torch.bfloat16).view(8, 5)
    return SimpleNamespace(weight=Parameter(table, requires_grad=False))


def test_rows_are_those_of_the_table() -> None:
    """What engine and trainer look up is the same, and the old storage is given up."""
    layer, method = make_layer(), HostEmbedding()
    before, place = layer.weight.data.clone(), layer.weight.data_ptr()
    method.process_weights_after_loading(layer)
    assert place != layer.weight.data_ptr() == layer.trustee_table.data_ptr()
    ids = torch.tensor([[3, 0], [7, 3]])
    assert torch.equal(before[ids], method.embedding(layer, ids))
    held = layer.trustee_table
    method.process_weights_after_loading(layer)
    assert held is layer.trustee_table, "a second call moves nothing"


def test_a_gpu_is_given_a_view_over_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is asked for as pinned, and what is used is what the GPU sees of it."""
    asked: list[dict[str, Any]] = []
    empty_like = torch.empty_like

    class OnGpu(torch.Tensor):
        device = torch.device("cuda", 0)

    def make(table: torch.Tensor, **given: Any) -> torch.Tensor:
        asked.append(given)
        return empty_like(table.as_subclass(torch.Tensor))

    view = torch.zeros(1)
    monkeypatch.setattr(torch, "empty_like", make)
    monkeypatch.setattr(host_embedding, "see_from_gpu", lambda host: view)
    table = torch.ones(4, 2).as_subclass(OnGpu)
    host, seen = move_to_host(table)
    assert [{"device": "cpu", "pin_memory": True}] == asked
    assert seen is view
    assert torch.equal(host, torch.ones(4, 2))


def test_memory_that_cannot_be_pinned_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which setting to take back."""

    def refuse(table: torch.Tensor, **given: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "empty_like", refuse)
    with pytest.raises(RunError, match=r"could not be pinned .*engine\.host_embedding to false"):
        move_to_host(torch.ones(4, 2))


@pytest.mark.parametrize(
    ("kind", "value", "tied", "moved"),
    [
        (VocabParallelEmbedding, "1", False, True),
        (VocabParallelEmbedding, "0", False, False),
        (VocabParallelEmbedding, "1", True, False),
        (ParallelLMHead, "1", False, False),
    ],
)
def test_only_a_table_of_its_own_is_moved(
    monkeypatch: pytest.MonkeyPatch, kind: type, value: str, *, tied: bool, moved: bool
) -> None:
    """A head is read whole for each token, and must stay."""
    monkeypatch.setenv(HOST_EMBEDDING, value)
    assert moved == lies_in_host(object.__new__(kind), tied=tied)

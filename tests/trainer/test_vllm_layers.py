"""Quantising a layer while it loads: on which stream, and into shards of the right shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bitsandbytes.functional as bnb
import pytest
import torch
from torch.nn import Module, Parameter

pytest.importorskip("vllm")

from trustee.trainer import vllm_layers


def test_a_layer_is_quantised_on_the_default_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels name no stream of their own; whatever is current must not run beside them."""
    streams, seen = ["own"], []
    quantise = bnb.quantize_4bit

    @contextmanager
    def enter(device: torch.device) -> Iterator[None]:
        assert device.type == "cpu"
        streams.append("default")
        yield
        streams.pop()

    def watch(*given: Any, **more: Any) -> Any:
        seen.append(streams[-1])
        return quantise(*given, **more)

    monkeypatch.setattr(vllm_layers, "on_default_stream", enter)
    monkeypatch.setattr(bnb, "quantize_4bit", watch)
    layer: Any = Module()
    layer.weight = Parameter(torch.randn(96, 64).bfloat16(), requires_grad=False)
    layer.logical_widths = [64, 32]
    vllm_layers.NF4Linear().process_weights_after_loading(layer)
    assert (["default", "default"], ["own"]) == (seen, streams)
    assert [(64, 64), (32, 64)] == [tuple(state.shape) for _, state in layer.weight.nf4_shards]

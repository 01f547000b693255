"""A LoRA and its base as one node: PEFT's numbers, fewer operations, weights opened once."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from narrow_layers import make_layer, run_layer
from narrow_models import EVERY_FAMILY, make_ids, make_model, step
from trustee.trainer.frozen_linear import Int4Layer, fuse_lora, multiply, open_weight
from trustee.trainer.marlin import Int4Weight, quantise
from trustee.trainer.shared_model import keep_input_types
from trustee.trainer.tiling import tile_mlp

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
layer_bench: Any = import_module("layer")

KINDS = ("plain", "nf4", "int4")


def make(kind: str) -> Any:
    """Give a layer with a LoRA, over a bf16 base of a kind, as the trainer adopts it by PEFT."""
    model = make_layer(nf4=kind == "nf4").to(torch.bfloat16)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            if kind == "int4":
                packed = quantise(module.base_layer.weight.data)
                module.base_layer = Int4Layer(packed, None)
            module.lora_A.float()
            module.lora_B.float()
    keep_input_types(model)
    return model


def rows() -> Tensor:
    """Give inputs of the layer."""
    torch.manual_seed(3)
    return torch.randn(2, 40, 64, dtype=torch.bfloat16, requires_grad=True)


def apart(one: Tensor, other: Tensor) -> float:
    """Give the relative distance of two tensors."""
    return float((one - other).double().norm() / other.double().norm())


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_peft(kind: str) -> None:
    """Within a bf16 rounding, and no farther from those computed in double precision."""
    model, x = make(kind), rows()
    theirs = run_layer(model, x, autocast=True)
    fuse_lora(model)
    ours = run_layer(model, x, autocast=True)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            weight = open_weight(module.base_layer)
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            linear.weight = torch.nn.Parameter(weight, requires_grad=False)
            module.base_layer = linear
    exact = run_layer(model.double(), x.detach().double().requires_grad_())
    assert ours[0].dtype == theirs[0].dtype
    assert ours[2].keys() == theirs[2].keys()
    assert ours[1] is not None
    assert theirs[1] is not None
    assert exact[1] is not None
    pairs = [(ours[0], theirs[0], exact[0]), (ours[1], theirs[1], exact[1])]
    pairs += [(ours[2][name], theirs[2][name], exact[2][name]) for name in ours[2]]
    assert max(apart(our, their) for our, their, _ in pairs) < 0.006
    errors = [(apart(our, right), apart(their, right)) for our, their, right in pairs]
    assert sum(our for our, _ in errors) < 1.1 * sum(their for _, their in errors)


@EVERY_FAMILY
def test_a_whole_model_learns_the_same(family: str) -> None:
    """In fp32, loss and every gradient, biases of the base included."""
    model, ids = make_model(family, dtype=torch.float32), make_ids(40, 17, 3)
    expected = step(model, ids, autocast=False)
    fuse_lora(model)
    loss, grads = step(model, ids, autocast=False)
    assert torch.allclose(loss, expected[0], rtol=1e-6)
    assert grads.keys() == expected[1].keys()
    assert max(apart(grads[name], grad) for name, grad in expected[1].items()) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_disabled_adapter_adds_nothing(kind: str) -> None:
    """Then the model is its base, also where a gradient passes through it."""
    model, x = make(kind), rows()
    with model.disable_adapter():
        expected = run_layer(model, x, autocast=True)
        fuse_lora(model)
        found = run_layer(model, x, autocast=True)
    assert torch.equal(expected[0], found[0])
    assert apart(found[1], expected[1]) < 0.006  # type: ignore[arg-type]
    assert found[2] == {}


def test_a_bias_is_added_once() -> None:
    """In the product, as torch does."""
    torch.manual_seed(1)
    packed, bias = quantise(torch.randn(64, 128).bfloat16()), torch.randn(64).bfloat16()
    x = torch.randn(5, 128).bfloat16()
    expected = torch.nn.functional.linear(x, packed.open(), bias)
    assert torch.equal(expected, Int4Layer(packed, bias)(x))
    assert torch.equal(expected, multiply(Int4Layer(packed, bias), x))


@pytest.mark.parametrize(("kind", "most"), [("plain", 0.75), ("nf4", 0.85)])
def test_a_layer_moves_fewer_bytes(kind: str, most: float) -> None:
    """And takes no more operations, over both passes."""
    model = make(kind)
    x = torch.randn(1, 512, 64, dtype=torch.bfloat16, requires_grad=True)
    counts = []
    for fused in (False, True):
        if fused:
            fuse_lora(model)
        with layer_bench.Operations() as counted:
            run_layer(model, x, autocast=True)
        counts.append(counted)
    assert counts[1].count <= counts[0].count
    assert counts[1].bytes < most * counts[0].bytes, counts[1].bytes / counts[0].bytes


@pytest.mark.parametrize(("tile", "most"), [(None, 6), (20, 6)])
def test_weights_are_opened_once_in_each_pass(
    monkeypatch: pytest.MonkeyPatch, tile: int | None, most: int
) -> None:
    """Gate, up and down, forward and back: in tiles no more often than whole."""
    model, x = make("int4"), rows()
    fuse_lora(model)
    tile_mlp(model, tile)
    opened: list[Int4Weight] = []
    stock = Int4Weight.open

    def open_noted(packed: Int4Weight) -> Tensor:
        opened.append(packed)
        return stock(packed)

    monkeypatch.setattr(Int4Weight, "open", open_noted)
    run_layer(model, x, autocast=True)
    assert len(opened) == most


def test_tiles_give_the_numbers_of_the_whole() -> None:
    """With weights that stay open from tile to tile."""
    model, x = make("int4"), rows()
    fuse_lora(model)
    whole = run_layer(model, x, autocast=True)
    tile_mlp(model, 24)
    tiles = run_layer(model, x, autocast=True)
    assert apart(tiles[0], whole[0]) < 0.006
    assert max(apart(tiles[2][name], grad) for name, grad in whole[2].items()) < 0.02

"""What makes an adopted model small: adapters that take their inputs as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from narrow_layers import make_layer, run_layer
from narrow_models import EVERY_FAMILY, assert_same, make_ids, make_model, step
from trustee.trainer.shared_model import keep_input_types


@EVERY_FAMILY
def test_inputs_kept_as_they_are_change_no_bit(family: str) -> None:
    """Over a bf16 base, loss and gradients are those of PEFT's copies, to the bit."""
    model, ids = make_model(family), make_ids(40, 17, 3)
    copied = step(model, ids)
    keep_input_types(model)
    assert_same(copied, step(model, ids))


def test_inputs_of_nf4_layers_change_no_bit() -> None:
    """Over an NF4 base, output and gradients are those of PEFT's copies, to the bit."""
    model = make_layer(nf4=True)
    torch.manual_seed(3)
    x = torch.randn(2, 40, 64, dtype=torch.bfloat16, requires_grad=True)
    copied = run_layer(model, x, autocast=True)
    keep_input_types(model)
    kept = run_layer(model, x, autocast=True)
    assert copied[1] is not None
    assert kept[1] is not None
    assert torch.equal(copied[1], kept[1])
    assert_same((copied[0], copied[2]), (kept[0], kept[2]))


@pytest.mark.parametrize("nf4", [False, True], ids=["plain", "nf4"])
def test_no_adapter_sees_a_copy(nf4: bool) -> None:
    """Each adapter's first matrix gets the very type of its layer's input: bf16, not fp32."""
    model: Any = make_layer(nf4=nf4).to(torch.bfloat16)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    seen: list[torch.dtype] = []
    for layer in layers:
        layer.lora_A["default"].float()
        layer.lora_A["default"].register_forward_pre_hook(lambda _, x: seen.append(x[0].dtype))
    x = torch.randn(2, 8, 64, dtype=torch.bfloat16)
    for given in (torch.float32, torch.bfloat16):
        seen.clear()
        run_layer(model, x, autocast=True)
        assert 3 * [given] == seen
        keep_input_types(model)

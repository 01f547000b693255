"""One MLP layer of a small model, run forward and back."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from narrow_models import (
    Grads,
)


class Mlp(torch.nn.Module):
    """The gated MLP that all supported families share."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = torch.nn.Linear(width, inner, bias=False)
        self.up_proj = torch.nn.Linear(width, inner, bias=False)
        self.down_proj = torch.nn.Linear(inner, width, bias=False)
        self.act_fn = ACT2FN["silu"]

    def forward(self, x: Tensor) -> Tensor:
        """Gate, lift, and come down again."""
        down: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return down


class Layer(GradientCheckpointingLayer):  # type: ignore[misc]
    """A decoder layer that is nothing but its MLP."""

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        """Add the MLP to its input."""
        out: Tensor = x + self.mlp(x)
        return out


def make_layer(*, nf4: bool = False) -> Any:
    """Give one layer with a LoRA; with `nf4` its base is rounded to four bits."""
    torch.manual_seed(5)
    layer = Layer(Mlp(64, 128))
    if nf4:
        layer.to(torch.bfloat16)
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(layer.mlp, name, round_to_nf4(getattr(layer.mlp, name)))
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["gate_proj", "up_proj", "down_proj"], lora_dropout=0.0
    )
    model: Any = get_peft_model(layer, config).train()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            if "lora_B" in name:
                parameter.data.normal_(std=0.1)
    return model


def round_to_nf4(linear: torch.nn.Linear) -> torch.nn.Module:
    """Give the same layer with an NF4 weight."""
    from bitsandbytes.nn import Linear4bit

    rounded: Any = Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=False,
        compute_dtype=torch.bfloat16,
        quant_type="nf4",
        compress_statistics=True,
    )
    rounded.load_state_dict({"weight": linear.weight.data})
    # As in the trainer: in eval mode bitsandbytes would repack the weight.
    rounded.support_avx512bf16_for_cpu = False
    whole: torch.nn.Module = rounded.to("cpu")
    return whole


def run_layer(
    model: Any, x: Tensor, *, autocast: bool = False
) -> tuple[Tensor, Tensor | None, Grads]:
    """Give output, gradient of the input, and gradients of the LoRA."""
    x = x.detach().requires_grad_(x.requires_grad)
    weights = torch.linspace(-1, 1, x.numel()).view_as(x)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model(x)
    (out.float() * weights).mean().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return out.detach(), x.grad, grads

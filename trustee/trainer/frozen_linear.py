"""A frozen linear layer and its LoRA as one node of the graph.

PEFT builds the same result from small operations: products, a scaling, a sum, for NF4 a copy too,
each a tensor of the layer's output. Here the LoRA is added into the base's product, and a quantised
weight is opened where it is multiplied, once in each pass, or once for all who share it
(`weights_kept_open`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from trustee.trainer.marlin import Int4Weight

_OPEN: ContextVar[Mapping[Any, Tensor]] = ContextVar("open", default=MappingProxyType({}))
"""Weights that are kept open, by their layers; a thread sees its own."""


class Int4Layer(torch.nn.Linear):
    """A frozen linear layer over packed weights of the engine."""

    def __init__(self, packed: Int4Weight, bias: Tensor | None) -> None:
        # Not that of a linear layer, which would draw a weight.
        torch.nn.Module.__init__(self)
        self.packed = packed
        self.weight = torch.nn.Parameter(packed.words, requires_grad=False)
        self.out_features, self.in_features = packed.shape
        self.register_parameter(
            "bias", None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Multiply rows [..., in]."""
        return multiply(self, x)


def open_weight(layer: Any) -> Tensor:
    """Return a layer's weight [out, in] as numbers."""
    held = _OPEN.get().get(layer)
    if held is not None:
        return held
    if isinstance(layer, Int4Layer):
        return layer.packed.open()
    state = getattr(layer, "quant_state", None)
    if state is None:
        plain: Tensor = layer.weight
        return plain
    from bitsandbytes.functional import dequantize_4bit

    opened: Tensor = dequantize_4bit(layer.weight, state)
    return opened


def is_packed(layer: Any) -> bool:
    """Return whether a layer's weight must be opened before it is multiplied."""
    return isinstance(layer, Int4Layer) or getattr(layer, "quant_state", None) is not None


@contextmanager
def weights_kept_open(module: torch.nn.Module) -> Iterator[None]:
    """Open each packed weight of a module once, for all its runs inside."""
    opened = {layer: open_weight(layer) for layer in module.modules() if is_packed(layer)}
    token = _OPEN.set({**_OPEN.get(), **opened})
    try:
        yield
    finally:
        _OPEN.reset(token)


def fuse_lora(model: torch.nn.Module) -> None:
    """Make every LoRA of a model one node with its base; names and parameters stay."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.forward = partial(_run, module)


def _run(module: Any, x: Tensor) -> Tensor:
    if module.disable_adapters:
        return multiply(module.base_layer, x)
    (name,) = module.active_adapters
    return multiply(
        module.base_layer,
        x,
        a=module.lora_A[name].weight,
        b=module.lora_B[name].weight,
        scale=module.scaling[name],
    )


def multiply(
    layer: Any,
    x: Tensor,
    *,
    a: Tensor | None = None,
    b: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Return rows times a layer's weight, plus its bias, plus the LoRA's product.

    Args:
        layer: a frozen linear layer in one of the formats that the engine shares.
        x: rows [..., in].
        a: LoRA A [rank, in], in fp32; None for the base alone.
        b: LoRA B [out, rank], in fp32.
        scale: factor of the LoRA.
    """
    out: Tensor = _Product.apply(layer, x, a, b, scale)
    return out


def _scaled(tensor: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Multiply and convert in one operation."""
    return torch.mul(tensor, scale, out=torch.empty_like(tensor, dtype=dtype))


class _Product(torch.autograd.Function):
    """The product, whose backward pass opens the weight again instead of keeping it."""

    @staticmethod
    def forward(
        ctx: Any, layer: Any, x: Tensor, a: Tensor | None, b: Tensor | None, scale: float
    ) -> Tensor:
        """Multiply in autocast's type, or else in the weight's."""
        weight = open_weight(layer)
        kind = x.device.type
        dtype = weight.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        ctx.layer, ctx.scale, ctx.dtype, ctx.given = layer, scale, dtype, x.dtype
        with torch.autocast(kind, enabled=False):
            rows = x.flatten(0, -2).to(dtype)
            bias = None if layer.bias is None else layer.bias.to(dtype)
            out = torch.nn.functional.linear(rows, weight.to(dtype), bias)
            if a is None or b is None:
                ctx.save_for_backward(None, None, None, None)
            else:
                low_a, low_b = a.to(dtype), _scaled(b, scale, dtype)
                middle = rows @ low_a.t()
                out.addmm_(middle, low_b.t())
                ctx.save_for_backward(rows, low_a, low_b, middle)
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, out_grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the rows and of the LoRA, the latter in fp32."""
        rows, a, b, middle = ctx.saved_tensors
        grad = out_grad.flatten(0, -2).to(ctx.dtype)
        with torch.autocast(grad.device.type, enabled=False):
            x_grad = a_grad = b_grad = None
            if ctx.needs_input_grad[1]:
                x_grad = grad @ open_weight(ctx.layer).to(ctx.dtype)
            if middle is not None:
                inner = grad @ b
                if x_grad is not None:
                    x_grad.addmm_(inner, a)
                a_grad = (inner.t() @ rows).float()
                b_grad = _scaled(grad.t() @ middle, ctx.scale, torch.float32)
            if x_grad is not None:
                x_grad = x_grad.view(*out_grad.shape[:-1], -1).to(ctx.given)
        return None, x_grad, a_grad, b_grad, None

"""MLPs and norms that work on a few positions at a time, for long contexts.

The one idea: both treat each position alone, so their widest tensors, positions by the intermediate
size or the fp32 copies inside a norm, need never exist whole. The forward pass goes through the
positions tile by tile and keeps its input alone; the backward pass runs each tile again and adds up
the parameters' gradients in their own type.

The price is that every tile runs once more than without tiling: much for an MLP, little for a norm.
Inside a checkpointed layer an MLP's is made good: where the layer is run again for its graph, the
values of its MLP go unused, for only the residual is added to them, so that run skips the tiles.

What mixes positions, attention, stays whole: it keeps no more than its inputs and its output.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from trustee.errors import InputError
from trustee.trainer.activation_checkpointing import runs_again, same_autocast, trainable

NORMS = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
"""Norms of a decoder layer; the last two are Qwen3's."""

RowwiseFunction = Callable[[Tensor], Tensor]


def tile_mlp(model: torch.nn.Module, positions: int) -> None:
    """Let the MLP of each decoder layer work on `positions` at a time; 0 means on all at once.

    Call it between steps, as often as you like. Parameters keep their names.

    Raises:
        InputError: if `positions` is negative, or the model has no decoder layers with an MLP.
    """
    _tile(model, positions, parts=("mlp",), unused_again=True)


def tile_norms(model: torch.nn.Module, positions: int) -> None:
    """Let each norm of each decoder layer work on `positions` at a time; 0 means on all at once.

    Call it between steps, as often as you like. Not a bit of any result changes.

    Raises:
        InputError: if `positions` is negative, or the model has no decoder layers with norms.
    """
    _tile(model, positions, parts=NORMS, unused_again=False)


def _tile(
    model: torch.nn.Module, positions: int, *, parts: tuple[str, ...], unused_again: bool
) -> None:
    if positions < 0:
        raise InputError(f"positions must be 0 or more, got {positions}; 0 switches tiling off")
    found: list[Any] = [
        module
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer)
        for name, module in layer.named_modules()
        if name in parts
    ]
    if not found:
        raise InputError(
            f"tiling needs decoder layers with {parts[0]}, {type(model).__name__} has none; "
            "give a dense Qwen2.5, Qwen3 or Llama model (model.path)"
        )
    for module in found:
        if positions:
            module.forward = partial(_run_tiled, module, positions, unused_again)
        else:
            vars(module).pop("forward", None)


def _run_tiled(module: torch.nn.Module, positions: int, unused_again: bool, x: Tensor) -> Tensor:
    """Run a module over `x` [B, L, ...]."""
    plain: RowwiseFunction = partial(type(module).forward, module)
    rows = x.flatten(0, 1)
    if len(rows) <= positions:
        return plain(x)
    params = trainable(module)
    if torch.is_grad_enabled() and (params or x.requires_grad):
        out: Tensor = _Tiles.apply(plain, positions, unused_again, rows, *params)
    else:
        out = _sweep(plain, rows, positions)
    return out.view(*x.shape[:2], *out.shape[1:])


def _sweep(plain: RowwiseFunction, rows: Tensor, positions: int) -> Tensor:
    whole: Tensor | None = None
    for at in range(0, len(rows), positions):
        tile = plain(rows[at : at + positions])
        if whole is None:
            whole = tile.new_empty(len(rows), *tile.shape[1:])
        whole[at : at + positions] = tile
    assert whole is not None, "longer than one tile"
    return whole


class _Tiles(torch.autograd.Function):
    """A module over rows [N, ...], a tile at a time in both passes."""

    @staticmethod
    def forward(
        ctx: Any,
        plain: RowwiseFunction,
        positions: int,
        unused_again: bool,
        rows: Tensor,
        *params: Tensor,
    ) -> Tensor:
        """Run every tile without a graph; run none where the values go unused."""
        ctx.plain, ctx.positions = plain, positions
        ctx.autocast = same_autocast(rows.device.type)
        ctx.save_for_backward(rows, *params)
        if unused_again and runs_again():
            return rows.new_zeros(()).expand_as(rows)
        return _sweep(plain, rows, positions)

    @staticmethod
    def backward(ctx: Any, out_grad: Tensor) -> tuple[Tensor | None, ...]:
        """Run each tile again, with a graph, and add up its gradients."""
        rows, *params = ctx.saved_tensors
        rows_grad = torch.empty_like(rows) if ctx.needs_input_grad[3] else None
        sums: list[Tensor | None] = [None] * len(params)
        for at in range(0, len(rows), ctx.positions):
            span = slice(at, at + ctx.positions)
            tile = rows[span].detach().requires_grad_(rows_grad is not None)
            inputs = params if rows_grad is None else [*params, tile]
            with torch.enable_grad(), ctx.autocast():
                out = ctx.plain(tile)
            grads = torch.autograd.grad(
                out, inputs, out_grad[span].to(out.dtype), allow_unused=True
            )
            if rows_grad is not None:
                rows_grad[span] = grads[-1]
            for index, grad in enumerate(grads[: len(params)]):
                known = sums[index]
                sums[index] = grad if known is None else known if grad is None else known + grad
        return (None, None, None, rows_grad, *sums)

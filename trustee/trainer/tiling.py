"""MLPs and norms that process a limited number of positions at a time, for long contexts.

Both treat each position independently, so their largest tensors (positions by the intermediate
size, or the fp32 copies inside a norm) never need to exist as a whole. The forward pass runs tile
by tile and keeps only its input; the backward pass runs each tile again and adds up the parameter
gradients in their own dtype. Quantised weights are opened once for all tiles of a pass.

The price is one more run of every tile: expensive for an MLP, cheap for a norm. Inside a
checkpointed layer the MLP's extra run is saved elsewhere: when the layer is run again for its
graph, the MLP's output is not used (only the residual is added to it), so that run skips the tiles.

Attention mixes positions and stays whole; it keeps only its inputs and its output.
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
from trustee.trainer.frozen_linear import weights_kept_open

NORMS = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
"""Norms of a decoder layer; the last two are Qwen3's."""

RowwiseFunction = Callable[[Tensor], Tensor]


def tile_mlp(model: torch.nn.Module, positions: int | None) -> None:
    """Make the MLP of each decoder layer process `positions` at a time; None means all at once.

    May be called any number of times, between steps. Parameters keep their names.

    Raises:
        InputError: if `positions` is negative, or the model has no decoder layers with an MLP.
    """
    _tile(model, positions, parts=("mlp",), unused_again=True)


def tile_norms(model: torch.nn.Module, positions: int | None) -> None:
    """Make each norm of each decoder layer process `positions` at a time; None means all at once.

    May be called any number of times, between steps. Results stay the same bit for bit.

    Raises:
        InputError: if `positions` is negative, or the model has no decoder layers with norms.
    """
    _tile(model, positions, parts=NORMS, unused_again=False)


def _tile(
    model: torch.nn.Module, positions: int | None, *, parts: tuple[str, ...], unused_again: bool
) -> None:
    if positions is not None and positions < 1:
        raise InputError(f"positions must be 1 or more, got {positions}; None switches tiling off")
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
        if positions is not None:
            module.forward = partial(_run_tiled, module, positions, unused_again)
        else:
            vars(module).pop("forward", None)


def _run_tiled(module: torch.nn.Module, positions: int, unused_again: bool, x: Tensor) -> Tensor:
    """Run a module over `x` [B, L, ...], in tiles if there are more rows than `positions`."""
    plain: RowwiseFunction = partial(type(module).forward, module)
    rows = x.flatten(0, 1)
    if len(rows) <= positions:
        return plain(x)
    params = trainable(module)
    if torch.is_grad_enabled() and (params or x.requires_grad):
        out: Tensor = _Tiles.apply(module, plain, positions, unused_again, rows, *params)
    else:
        with weights_kept_open(module):
            out = _sweep(plain, rows, positions)
    return out.view(*x.shape[:2], *out.shape[1:])


def _sweep(plain: RowwiseFunction, rows: Tensor, positions: int) -> Tensor:
    whole: Tensor | None = None
    for at in range(0, len(rows), positions):
        tile = plain(rows[at : at + positions])
        if whole is None:
            whole = tile.new_empty(len(rows), *tile.shape[1:])
        whole[at : at + positions] = tile
    assert whole is not None, "there is at least one tile"
    return whole


class _Tiles(torch.autograd.Function):
    """A module applied to rows [N, ...], one tile at a time in both passes."""

    @staticmethod
    def forward(
        ctx: Any,
        module: torch.nn.Module,
        plain: RowwiseFunction,
        positions: int,
        unused_again: bool,
        rows: Tensor,
        *params: Tensor,
    ) -> Tensor:
        """Run every tile without a graph; skip them where the output will not be used."""
        ctx.module, ctx.plain, ctx.positions = module, plain, positions
        ctx.autocast = same_autocast(rows.device.type)
        ctx.save_for_backward(rows, *params)
        if unused_again and runs_again():
            return rows.new_zeros(()).expand_as(rows)
        with weights_kept_open(module):
            return _sweep(plain, rows, positions)

    @staticmethod
    def backward(ctx: Any, out_grad: Tensor) -> tuple[Tensor | None, ...]:
        """Run each tile again with a graph and add up its gradients."""
        with weights_kept_open(ctx.module):
            return _differentiate(ctx, out_grad)


def _differentiate(ctx: Any, out_grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, *params = ctx.saved_tensors
    rows_grad = torch.empty_like(rows) if ctx.needs_input_grad[4] else None
    sums: list[Tensor | None] = [None] * len(params)
    for at in range(0, len(rows), ctx.positions):
        span = slice(at, at + ctx.positions)
        tile = rows[span].detach().requires_grad_(rows_grad is not None)
        inputs = params if rows_grad is None else [*params, tile]
        with torch.enable_grad(), ctx.autocast():
            out = ctx.plain(tile)
        grads = torch.autograd.grad(out, inputs, out_grad[span].to(out.dtype), allow_unused=True)
        if rows_grad is not None:
            rows_grad[span] = grads[-1]
        for index, grad in enumerate(grads[: len(params)]):
            known = sums[index]
            sums[index] = grad if known is None else known if grad is None else known + grad
    return (None, None, None, None, rows_grad, *sums)

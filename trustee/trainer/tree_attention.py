"""Attention over a prefix tree, block by block.

The one idea: the ids of a node attend to the keys on the node's path and to nothing else, so a node
is one call of an ordinary causal attention whose keys begin before its queries. Without a tree, or
with one of one node, that is the usual attention, and so are the results, bit for bit. Several
small nodes in one block are one call too, with a mask that hides other branches.

On a card a walk over several blocks is one node of the autograd graph: it keeps queries, keys and
values alone and runs each block again in the backward pass, for what a graph would hold, the keys
of all paths, grows with the samples and not with the tree. On a CPU memory is no concern.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention, softmax
from transformers import AttentionInterface

from trustee.algorithm.batch import Attention

ATTENTION_NAME = "prefix_tree"


@cache
def register_tree_attention() -> str:
    """Make the attention known to transformers, once a process; give its name."""
    AttentionInterface.register(ATTENTION_NAME, attend_tree)
    return ATTENTION_NAME


def attend_tree(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    blocks: Sequence[Attention] = (),
    dropout: float = 0.0,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers asks it of every implementation.

    Shapes: `query` [B, heads, T, D], `key` and `value` [B, fewer heads, T, D], the result
    [B, T, heads, D]. With blocks `B` is 1.
    """
    assert attention_mask is None, "the blocks say who may attend to whom"
    assert not dropout, "dropout cannot be run again"
    if len(blocks) < 2:
        hidden_RR = blocks[0].hidden_RR if blocks else None
        out = attend(query, key, value, scaling=scaling, hidden_RR=hidden_RR)
    elif query.device.type == "cpu":
        out = walk(query, key, value, blocks=blocks, scaling=scaling)
    else:
        out = Walk.apply(blocks, scaling, query, key, value)
    return out.transpose(1, 2), None


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, scaling: float, hidden_RR: Tensor | None = None
) -> Tensor:
    """Let the last ids [B, heads, R, D] attend to all ids [B, fewer heads, T, D].

    None hides from each of the last ids those after it.
    """
    # Torch's fused attention is slow on CPUs in its backward pass: 24 % of a step of short samples.
    if query.device.type == "cpu":
        return attend_eager(query, key, value, scaling=scaling, hidden_RR=hidden_RR)
    assert hidden_RR is None, "on a card each node is a block"
    return attend_fused(query, key, value, scaling=scaling)


def attend_fused(query: Tensor, key: Tensor, value: Tensor, *, scaling: float) -> Tensor:
    """Attend causally by torch's own kernels."""
    rows, columns = query.shape[2], key.shape[2]
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if rows == columns else causal_lower_right(rows, columns),
        is_causal=rows == columns,
        scale=scaling,
        enable_gqa=True,
    )


def attend_eager(
    query: Tensor, key: Tensor, value: Tensor, *, scaling: float, hidden_RR: Tensor | None
) -> Tensor:
    """Attend by matrix products, all query heads of a key head in one."""
    rows, columns = query.shape[2], key.shape[2]
    together = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    scores = torch.matmul(together, key.transpose(2, 3)) * scaling
    scores = scores.unflatten(2, (-1, rows))
    if hidden_RR is None:
        hidden_RR = _later(1 << (rows - 1).bit_length())[:rows, :rows]
    scores[..., columns - rows :].masked_fill_(hidden_RR, -math.inf)
    weights = softmax(scores, -1, dtype=torch.float32).to(query.dtype).flatten(2, 3)
    out: Tensor = torch.matmul(weights, value).unflatten(2, (-1, rows)).flatten(1, 2)
    return out


def walk(
    query: Tensor, key: Tensor, value: Tensor, *, blocks: Sequence[Attention], scaling: float
) -> Tensor:
    """Let each block attend to its path. Shapes: as `attend_tree`'s, but the result as `query`."""
    sizes = [block.size for block in blocks]
    queries, keys, values = (whole.split(sizes, 2) for whole in (query, key, value))
    parts = []
    for index, block in enumerate(blocks):
        path = (*block.above, index)
        on_path = (torch.cat([part[at] for at in path], 2) for part in (keys, values))
        parts.append(attend(queries[index], *on_path, scaling=scaling, hidden_RR=block.hidden_RR))
    return torch.cat(parts, 2)


class Walk(torch.autograd.Function):
    """The same, without a graph of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        blocks: Sequence[Attention],
        scaling: float,
        query: Tensor,
        key: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Walk, and keep what was given."""
        ctx.blocks, ctx.scaling = blocks, scaling
        ctx.save_for_backward(query, key, value)
        return walk(query, key, value, blocks=blocks, scaling=scaling)

    @staticmethod
    def backward(ctx: Any, out_grad: Tensor) -> tuple[Tensor | None, ...]:
        """Run each block again, and add up in fp32 what several blocks say of a key."""
        query, key, value = ctx.saved_tensors
        sizes = [block.size for block in ctx.blocks]
        sums = (
            torch.empty_like(query),
            torch.zeros_like(key, dtype=torch.float32),
            torch.zeros_like(value, dtype=torch.float32),
        )
        queries, keys, values, grads, *into = (
            whole.split(sizes, 2) for whole in (query, key, value, out_grad, *sums)
        )
        for index, block in enumerate(ctx.blocks):
            path = (*block.above, index)
            own = queries[index].detach().requires_grad_()
            on_path = [
                torch.cat([part[at] for at in path], 2).requires_grad_() for part in (keys, values)
            ]
            with torch.enable_grad():
                out = attend(own, *on_path, scaling=ctx.scaling, hidden_RR=block.hidden_RR)
            own_grad, *path_grads = torch.autograd.grad(out, (own, *on_path), grads[index])
            into[0][index].copy_(own_grad)
            path_sizes = [sizes[at] for at in path]
            for target, path_grad in zip(into[1:], path_grads, strict=True):
                for at, part in zip(path, path_grad.split(path_sizes, 2), strict=True):
                    target[at].add_(part)
        query_sum, key_sum, value_sum = sums
        return None, None, query_sum, key_sum.to(key.dtype), value_sum.to(value.dtype)


@cache
def _later(size: int) -> Tensor:
    """Say which ids come after each. Shape: [size, size]."""
    return torch.ones(size, size, dtype=torch.bool).triu_(1)

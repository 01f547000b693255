"""Attention over a prefix tree, block by block.

The ids of a node attend to the keys on the node's path and to nothing else, so a node is one call
of ordinary causal attention whose keys begin before its queries. Without a tree, or with a tree of
one node, this is plain causal attention with the same results bit for bit. Several small nodes in
one block are also one call, with a mask that hides other branches.

On a GPU a walk over several blocks is one node of the autograd graph: it keeps only queries, keys
and values, and runs each block again in the backward pass. An ordinary graph would hold the keys of
every path, whose size grows with the samples and not with the tree. On a CPU memory is not scarce.
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
    """Register the attention with transformers, once per process, and return its name."""
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
    """Attend, with the signature that transformers requires of every implementation.

    Shapes: `query` [B, heads, T, D], `key` and `value` [B, key heads, T, D], the result
    [B, T, heads, D]. With blocks `B` is 1.
    """
    assert attention_mask is None, "the blocks already define which ids attend to which"
    assert not dropout, "dropout would draw differently when the pass is run again"
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
    """Let the last `R` of `T` ids attend to all of them.

    Shapes: `query` [B, heads, R, D], `key` and `value` [B, key heads, T, D]; the result as `query`.

    Args:
        query: queries of the last ids.
        key: keys of all ids.
        value: values of all ids.
        scaling: factor of the scores.
        hidden_RR: which of the last ids are hidden from each other; None: plain causal masking.
    """
    # The backward pass of torch's fused attention is slow on CPUs: 24 % of a step of short samples.
    if query.device.type == "cpu":
        return attend_eager(query, key, value, scaling=scaling, hidden_RR=hidden_RR)
    assert hidden_RR is None, "on a GPU each node is a block of its own"
    return attend_fused(query, key, value, scaling=scaling)


def attend_fused(query: Tensor, key: Tensor, value: Tensor, *, scaling: float) -> Tensor:
    """Attend causally with torch's fused kernels. Shapes: as for `attend`."""
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
    """Attend with plain matrix products, one per key head. Shapes: as for `attend`."""
    # All query heads of a key head are stacked into the rows of one product.
    rows, columns = query.shape[2], key.shape[2]
    together = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    scores = torch.matmul(together, key.transpose(2, 3)) * scaling
    scores = scores.unflatten(2, (-1, rows))
    if hidden_RR is None:
        # Rounded up to a power of two, so that few masks serve all sizes.
        hidden_RR = _later(1 << (rows - 1).bit_length())[:rows, :rows]
    scores[..., columns - rows :].masked_fill_(hidden_RR, -math.inf)
    weights = softmax(scores, -1, dtype=torch.float32).to(query.dtype).flatten(2, 3)
    out: Tensor = torch.matmul(weights, value).unflatten(2, (-1, rows)).flatten(1, 2)
    return out


def walk(
    query: Tensor, key: Tensor, value: Tensor, *, blocks: Sequence[Attention], scaling: float
) -> Tensor:
    """Let each block attend to its path.

    Shapes: as for `attend_tree`, but the result has the shape of `query`.
    """
    sizes = [block.size for block in blocks]
    queries, keys, values = (whole.split(sizes, 2) for whole in (query, key, value))
    parts = []
    for index, block in enumerate(blocks):
        path = (*block.above, index)
        on_path = (torch.cat([part[at] for at in path], 2) for part in (keys, values))
        parts.append(attend(queries[index], *on_path, scaling=scaling, hidden_RR=block.hidden_RR))
    return torch.cat(parts, 2)


class Walk(torch.autograd.Function):
    """`walk` as one autograd node that recomputes each block in the backward pass.

    A block's backward builds and frees the graph of that block alone. Blocks on several paths
    receive key and value gradients from every block below, so those are summed in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        blocks: Sequence[Attention],
        scaling: float,
        query: Tensor,
        key: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Run the walk and save only its inputs."""
        ctx.blocks, ctx.scaling = blocks, scaling
        ctx.save_for_backward(query, key, value)
        return walk(query, key, value, blocks=blocks, scaling=scaling)

    @staticmethod
    def backward(ctx: Any, out_grad: Tensor) -> tuple[Tensor | None, ...]:
        """Run each block again with a graph and add its gradients to those of its path."""
        query, key, value = ctx.saved_tensors
        sizes = [block.size for block in ctx.blocks]
        # A query belongs to one block, so its gradient is written once and needs no zeros.
        sums = (
            torch.empty_like(query),
            torch.zeros_like(key, dtype=torch.float32),
            torch.zeros_like(value, dtype=torch.float32),
        )
        # `into` holds views of `sums`, one per block, so writing to them fills `sums`.
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
            # The path's keys were concatenated; hand each block its slice of the gradient.
            path_sizes = [sizes[at] for at in path]
            for target, path_grad in zip(into[1:], path_grads, strict=True):
                for at, part in zip(path, path_grad.split(path_sizes, 2), strict=True):
                    target[at].add_(part)
        query_sum, key_sum, value_sum = sums
        return None, None, query_sum, key_sum.to(key.dtype), value_sum.to(value.dtype)


@cache
def _later(size: int) -> Tensor:
    """Return a causal mask [size, size]: True where the column comes after the row."""
    return torch.ones(size, size, dtype=torch.bool).triu_(1)

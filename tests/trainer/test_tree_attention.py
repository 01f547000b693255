"""Attention over a prefix tree gives each sample what it would get alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen3.modeling_qwen3 import eager_attention_forward

from trustee.algorithm.batch import Batch, collate
from trustee.trainer.tree_attention import (
    Walk,
    attend_eager,
    attend_fused,
    attend_tree,
    register_tree_attention,
)
from trustee.types import Sample

HEADS, KEY_HEADS, WIDTH = 4, 2, 8
SCALING = 1 / math.sqrt(WIDTH)
BLOCKS = (0, 8, 1000)


def make_samples() -> list[Sample]:
    """Make two groups of samples with a prompt in common each, and one that stands alone."""
    rng = random.Random(4)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(50) for _ in range(count))

    prompts, turn = (draw(9), draw(5)), draw(4)
    rows = [(*prompts[0], *draw(n)) for n in (3, 7, 1)]
    rows += [(*prompts[1], *turn, *draw(n)) for n in (2, 6)]
    rows += [prompts[1], (*prompts[1], *draw(4)), draw(11)]
    return [
        Sample(
            ids=row,
            mask=(False, *(True,) * (len(row) - 1)),
            logprobs=(0.0,) * len(row),
            advantage=1.0,
            version=0,
            trajectory_id=str(number),
        )
        for number, row in enumerate(rows)
    ]


def draw_tensors(offsets: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Draw queries, keys and values [1, heads, offsets, width], and a weight of each output."""
    generator = torch.Generator().manual_seed(7)
    return [
        torch.randn(1, heads, offsets, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
        for heads in (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
    ]


def attend_alone(query: Tensor, key: Tensor, value: Tensor, *, batch: Batch) -> Tensor:
    """Let each sample attend alone, by torch; give what each offset of the tree gets.

    A offset of several samples gets what the last one says, and counts once.
    """
    out = torch.zeros_like(query)
    for row, length in enumerate(map(len, (sample.ids for sample in make_samples()))):
        offsets = batch.offsets_BL[row, :length]
        queries, keys, values = (part[:, :, offsets] for part in (query, key, value))
        out[:, :, offsets] = scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=SCALING, enable_gqa=True
        )
    return out


def attend_by_tree(query: Tensor, key: Tensor, value: Tensor, *, batch: Batch) -> Tensor:
    """Ask as transformers does."""
    out, _ = attend_tree(
        torch.nn.Module(), query, key, value, None, scaling=SCALING, blocks=batch.attention
    )
    return out.transpose(1, 2)


def attend_by_walk(query: Tensor, key: Tensor, value: Tensor, *, batch: Batch) -> Tensor:
    """Attend as on a card."""
    out: Tensor = Walk.apply(  # type: ignore[no-untyped-call]
        batch.attention, SCALING, query, key, value
    )
    return out


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("attend", [attend_by_tree, attend_by_walk])
def test_each_sample_gets_what_it_gets_alone(attend: Callable[..., Tensor], block: int) -> None:
    """Values and gradients, by a graph that is kept or run again, as exact as sums in fp32."""
    batch = collate(make_samples(), block=block)
    *given, weight = draw_tensors(len(batch.ids_T))
    found = []
    for way in (attend_alone, attend):
        leaves = [part.clone().requires_grad_() for part in given]
        out = way(*leaves, batch=batch)
        found.append([out, *torch.autograd.grad((out * weight).sum(), leaves)])
    for alone, together in zip(*found, strict=True):
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


def test_kernels_agree() -> None:
    """Torch's own kernel and the matrix products: also where keys begin before the queries."""
    query, key, value, _ = draw_tensors(12)
    for rows in (12, 5, 1):
        last = query[:, :, -rows:]
        fused = attend_fused(last, key, value, scaling=SCALING)
        eager = attend_eager(last, key, value, scaling=SCALING, hidden_RR=None)
        torch.testing.assert_close(fused, eager, rtol=0, atol=1e-6)


def test_one_sample_gets_the_bits_of_transformers() -> None:
    """In bf16, without a tree, not a bit differs from the attention of the library."""
    query, key, value, _ = draw_tensors(13, torch.bfloat16)
    later = torch.full((13, 13), torch.finfo(torch.bfloat16).min, dtype=torch.bfloat16).triu(1)
    module: Any = SimpleNamespace(num_key_value_groups=HEADS // KEY_HEADS, training=False)
    theirs, _ = eager_attention_forward(module, query, key, value, later[None, None], SCALING)
    ours, _ = attend_tree(torch.nn.Module(), query, key, value, None, scaling=SCALING)
    assert torch.equal(theirs, ours)


def test_registered_once() -> None:
    """The name is what transformers is told."""
    assert register_tree_attention() == register_tree_attention() == "prefix_tree"


@pytest.mark.gpu
def test_card_agrees_with_cpu() -> None:
    """On a card torch's kernels give, in bf16, what matrix products give in fp32."""
    batch = collate(make_samples())
    *given, weight = draw_tensors(len(batch.ids_T), torch.bfloat16)
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        leaves = [part.to(device, dtype).requires_grad_() for part in given]
        out = attend_by_tree(*leaves, batch=batch)
        grads = torch.autograd.grad((out * weight.to(device, dtype)).sum(), leaves)
        found.append([out, *grads])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs.cpu().float(), ours, rtol=2e-2, atol=2e-2)

"""Bytes that one training pass needs beside the weights, per position and for each of its moments.

The one idea: a layer's backward pass has a few moments at which its memory can peak, and at each of
them the live tensors can be counted. Letters: `H` hidden, `I` intermediate, `Q` all query heads,
`K` all key heads, `R` LoRA rank. bf16 takes 2 bytes, and what norms compute takes 4. The counts are
those of transformers' layers with PEFT's adapters under bf16 autocast, in PyTorch as it is, without
a compiler; a test holds them against the tensors that really live.
"""

from __future__ import annotations

from trustee.planning.shapes import Shape
from trustee.types import Record

LOGIT_BYTES = 20
"""Of one logit of a chunk in the backward pass: five fp32 tensors of the chunk's size at once."""
ADAPTER_BYTES = 6
"""Of one LoRA parameter of the layer at work: a bf16 copy for autocast, a fresh fp32 gradient."""


class LayerWork(Record, frozen=True):
    """What one layer needs while it is run again and differentiated, in bytes per position."""

    saved: int
    """What autograd keeps of the whole layer, its input left out."""
    saved_tiled: int
    """The same where the MLP is tiled and keeps its input alone."""
    norm: int
    """At the norm before the MLP."""
    attention: int
    """At the product of queries and keys, with the kernel's own fp32 sums."""
    heads: int
    """At the norm of the queries; 0 where there is none."""
    mlp: int
    """At the widest point of the MLP, all positions at once."""
    tile_rest: int
    """Per position, while one tile of the MLP is at work."""
    tile: int
    """Per position of the tile at work."""

    def peak(self, positions: int, *, tile: int) -> int:
        """Give the bytes of the worst moment; `tile` 0 takes the whole MLP at once."""
        around = positions * max(self.norm, self.attention, self.heads)
        if not tile or tile >= positions:
            return max(around, positions * self.mlp)
        return max(around, positions * self.tile_rest + tile * self.tile)


def measure_layer(shape: Shape, *, rank: int, weights: str, kernel: bool = True) -> LayerWork:
    """Count what a layer's backward pass needs.

    Args:
        shape: the model.
        rank: of the LoRA.
        weights: `nf4` or `bf16`; on plain weights PEFT copies every input to fp32 and back.
        kernel: count what the GPU's attention kernel needs for itself.
    """
    hidden, wide, query, key = shape.hidden, shape.intermediate, shape.query, shape.key
    norms = 2 * (4 * hidden + 4)
    rotated = 2 * query + 4 * key
    head_norms = (4 * (query + key) + 4 * (shape.heads + shape.kv_heads)) if shape.qk_norm else 0
    sums = 4 * shape.heads
    casts = 4 * hidden if weights == "bf16" else 0
    # Both norms' outputs, the attention's output and what LoRA's A gave for q, k, v and o.
    kept = norms + 4 * hidden + rotated + 2 * query + sums + head_norms + casts + 8 * rank
    kept += 2 * query if weights == "bf16" else 0
    saved = kept + 8 * wide + 6 * rank + (2 * hidden if weights == "bf16" else 0)
    mlp = saved + 4 * wide + 4 * hidden - 2 * rank
    tile = 12 * wide + 6 * hidden + 6 * rank
    if weights == "bf16":
        mlp = saved + 6 * wide + 10 * hidden
        tile = 14 * wide + 14 * hidden + 6 * rank
    attention = 10 * hidden + 8 * (query + key) + sums + 6 * rank + 4 + casts + head_norms
    # The kernel sums dq in fp32, and dk and dv for each query head apart.
    attention += 8 * query if kernel else 0
    # What flows in: the gradient of the layer's output.
    given = 2 * hidden
    return LayerWork(
        saved=saved,
        saved_tiled=kept,
        norm=given + kept + 20 * hidden - 4,
        attention=given + attention,
        heads=given + 12 * hidden + 24 * query + 2 * rank + 4 if shape.qk_norm else 0,
        mlp=given + mlp,
        tile_rest=given + kept + 4 * hidden,
        tile=tile,
    )


def count_kept(
    shape: Shape, *, checkpointing: str, positions: int, tile: int, weights: str, rank: int
) -> int:
    """Count the bytes that layers keep on the card for a backward pass that has reached another."""
    one = 2 * shape.hidden * positions
    match checkpointing:
        case "recompute":
            return shape.layers * one
        case "offload":
            # The last layer's, the one in use and the one on its way.
            return min(3, shape.layers) * one
        case _:
            work = measure_layer(shape, rank=rank, weights=weights)
            saved = work.saved_tiled if tile else work.saved
            casts = 2 * sum(shape.adapter_linears(rank))
            # Two more for the hidden states that enter and leave the whole stack.
            return (shape.layers - 1) * (saved * positions + casts) + 2 * one


def count_parked(shape: Shape, positions: int, *, page: int = 4 << 20) -> int:
    """Count the bytes of pinned host memory that `offload` needs, in whole pages."""
    pages = -(-2 * shape.hidden * positions // page)
    return (shape.layers - 1) * pages * page


def count_head(shape: Shape, *, trained: int, chunk: int) -> int:
    """Count the bytes of one chunk of logits in its backward pass."""
    return LOGIT_BYTES * min(chunk, trained) * shape.vocab


def count_hidden(shape: Shape, *, positions: int, trained: int) -> int:
    """Count the bytes around the head: the last norm, and the trained positions' hidden states."""
    around = positions * (4 * shape.hidden + 4 + 2 * shape.hidden)
    return around + trained * 3 * 2 * shape.hidden

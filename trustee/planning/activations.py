"""Bytes that one training pass needs beside the weights, per position and for each of its moments.

The one idea: a layer's backward pass has a few moments at which its memory can peak, and at each of
them the live tensors can be counted. Letters: `H` hidden, `I` intermediate, `Q` all query heads,
`K` all key heads, `R` LoRA rank. bf16 takes 2 bytes, and what norms compute takes 4. The counts are
those of transformers' layers with PEFT's adapters under bf16 autocast, in PyTorch as it is, without
a compiler; a test holds them against the tensors that really live.
"""

from __future__ import annotations

from trustee.algorithm.config import ActivationCheckpointing
from trustee.planning.shapes import ModelShape
from trustee.types import Record

LOGIT_BYTES = 20
"""Of one logit of a chunk in the backward pass: five fp32 tensors of the chunk's size at once."""
ADAPTER_BYTES = 6
"""Of one LoRA parameter of the layer at work: a bf16 copy for autocast, a fresh fp32 gradient."""
TILED_BYTES = 12
"""Of one LoRA parameter of a tiled MLP: fp32 gradients of a tile, of those before it, their sum."""
TREE_QUERY_BYTES = 4
"""Of one query value where a micro-batch is a tree of blocks: a block's output again, and its dq
beside those of all."""
TREE_KEY_BYTES = 16
"""Of one key value there: dk and dv summed in fp32, copies of the path's keys and values, and what
the block says of them."""


class LayerWork(Record, frozen=True):
    """What one layer needs while it is run again and differentiated, in bytes per position."""

    saved: int
    """What autograd keeps of the whole layer, its input left out."""
    saved_tiled: int
    """The same where MLP and norms are tiled and keep their inputs alone."""
    whole: int
    """At the worst moment, without tiles."""
    around: int
    """At the worst moment outside the MLP, with tiles."""
    tile_rest: int
    """While one tile of the MLP is at work, for each position of the layer."""
    tile: int
    """While one tile of the MLP is at work, for each of its positions."""
    adapter: int
    """Bytes for the LoRA, however many positions there are."""
    adapter_tiled: int
    """The same while one tile of the MLP is at work."""

    def keep(self, positions: int, *, tile: int | None) -> int:
        """Return the bytes that autograd keeps of the layer; without a tile it is computed at once."""
        return positions * (self.saved_tiled if is_tiled(positions, tile) else self.saved)

    def peak(self, positions: int, *, tile: int | None) -> int:
        """Return the bytes of the worst moment; without a tile the layer is computed at once."""
        if tile is None or not is_tiled(positions, tile):
            return positions * self.whole + self.adapter
        return max(
            positions * self.around + self.adapter,
            positions * self.tile_rest + tile * self.tile + self.adapter_tiled,
        )


def is_tiled(positions: int, tile: int | None) -> bool:
    """Say whether so many positions are more than one tile."""
    return tile is not None and tile < positions


def measure_layer(shape: ModelShape, *, rank: int, kernel: bool = True) -> LayerWork:
    """Count what a layer's backward pass needs.

    Args:
        shape: the model.
        rank: of the LoRA.
        kernel: count what the GPU's attention kernel needs for itself.
    """
    hidden, wide, query, key = shape.hidden, shape.intermediate, shape.query, shape.key
    sums = 4 * shape.heads
    head_norms = (4 * (query + key) + 4 * (shape.heads + shape.kv_heads)) if shape.qk_norm else 0
    head_norms_tiled = 2 * (query + key) if shape.qk_norm else 0
    # Outputs of both norms and of the attention, queries, keys, values, and what LoRA's A gave.
    kept = 4 * hidden + 4 * query + 4 * key + sums + 8 * rank
    # A norm keeps an fp32 copy and a scale of each row; tiled, its input, here or as the layer's.
    saved_tiled = kept + 2 * hidden + head_norms_tiled
    kept += 2 * (4 * hidden + 4) + head_norms
    saved = kept + 8 * wide + 6 * rank
    attention = 6 * hidden + 8 * (query + key) + sums + 6 * rank
    # The kernel sums dq in fp32, and dk and dv for each query head apart.
    attention += 8 * query + TREE_QUERY_BYTES * query + TREE_KEY_BYTES * key if kernel else 0
    # In the MLP, at the norm before it, at the product of queries and keys, at the queries' norm.
    whole = (
        saved + 4 * wide + 2 * hidden - 2 * rank,
        kept + 20 * hidden - 4,
        attention + 4 * hidden + 4 + head_norms,
        12 * hidden + 24 * query + 2 * rank + 4 if shape.qk_norm else 0,
    )
    # At that product, and where the gradients of the attention's output and input are added up.
    around = (
        attention + head_norms_tiled,
        6 * hidden + 10 * query + 4 * key + head_norms_tiled + sums + 6 * rank,
        12 * hidden + 2 * (query + key) + head_norms_tiled + 4 * rank,
    )
    # What flows in: the gradient of the layer's output, positions, and their turns in bf16.
    given = 2 * hidden + 8 + 4 * shape.head_dim
    adapter = sum(shape.adapter_linears(rank))
    mlp = 3 * rank * (hidden + wide)
    return LayerWork(
        saved=saved,
        saved_tiled=saved_tiled,
        whole=given + max(whole),
        around=given + max(around),
        tile_rest=given + saved_tiled + 4 * hidden,
        tile=12 * wide + 4 * hidden + 4 * rank,
        adapter=ADAPTER_BYTES * adapter,
        adapter_tiled=TILED_BYTES * mlp + 2 * (adapter - mlp),
    )


def count_kept(
    shape: ModelShape,
    *,
    activation_checkpointing: ActivationCheckpointing,
    positions: int,
    tile: int | None,
    rank: int,
) -> int:
    """Count the bytes that layers keep on the card for their backward passes."""
    one = 2 * shape.hidden * positions
    match activation_checkpointing:
        case "recompute":
            return shape.layers * one
        case "offload":
            # The one in use and the one on its way.
            return min(2, shape.layers) * one
        case _:
            layer = measure_layer(shape, rank=rank).keep(positions, tile=tile)
            layer += 2 * sum(shape.adapter_linears(rank))
            # Tiled norms keep the layer's input too, of which there is an fp32 copy otherwise.
            inputs = shape.layers if is_tiled(positions, tile) else 1
            # One more for what leaves the whole stack.
            return shape.layers * layer + (inputs + 1) * one


def count_layer(
    shape: ModelShape,
    *,
    activation_checkpointing: ActivationCheckpointing,
    positions: int,
    tile: int | None,
    rank: int,
    kernel: bool = True,
) -> int:
    """Count the bytes of one layer's backward pass, beside what all layers keep."""
    work = measure_layer(shape, rank=rank, kernel=kernel)
    kept = work.keep(positions, tile=tile) if activation_checkpointing == "off" else 0
    return work.peak(positions, tile=tile) - kept


def count_last_norm(shape: ModelShape, *, positions: int, trained: int) -> int:
    """Count the bytes of the last norm's backward pass: six fp32 tensors of all positions.

    Beside them are what all layers read of positions, and the logprobs with entropy and gradient.
    """
    return positions * (24 * shape.hidden + 4 * shape.head_dim + 16) + 12 * trained


def count_parked(shape: ModelShape, positions: int, *, page: int = 4 << 20) -> int:
    """Count the bytes of pinned host memory that `offload` needs, in whole pages."""
    pages = -(-2 * shape.hidden * positions // page)
    return (shape.layers - 1) * pages * page


def count_head(shape: ModelShape, *, trained: int, chunk: int) -> int:
    """Count the bytes of one chunk of logits in its backward pass."""
    return LOGIT_BYTES * min(chunk, trained) * shape.vocab


def count_hidden(shape: ModelShape, *, positions: int, trained: int) -> int:
    """Count the bytes around the head: the last norm, and the trained positions' hidden states."""
    around = positions * (4 * shape.hidden + 4 + 2 * shape.hidden)
    return around + trained * 3 * 2 * shape.hidden

"""Bytes that one training pass needs in addition to the weights.

A layer's backward pass has a few moments at which its memory can peak, and at each of them the live
tensors can be counted. bf16 takes 2 bytes per value, fp32 (inside norms) takes 4. The counts are
for transformers layers with PEFT adapters under bf16 autocast, in eager PyTorch; a test compares
them with the tensors that are really alive.
"""

from __future__ import annotations

from trustee.algorithm.config import ActivationCheckpointing
from trustee.planning.shapes import ModelShape
from trustee.types import Record

LOGIT_BYTES = 20
"""Bytes per logit of a chunk in the backward pass: five fp32 tensors of the chunk's size."""
ADAPTER_BYTES = 6
"""Bytes per LoRA parameter of the active layer: a bf16 copy for autocast, a new fp32 gradient."""
TILED_BYTES = 12
"""Bytes per LoRA parameter of a tiled MLP: fp32 gradients of the tile, of the tiles before it, and
their sum."""
TREE_QUERY_BYTES = 4
"""Bytes per query value when a micro-batch is a tree of blocks: the block's recomputed output, and
its dq in addition to the dq of all blocks."""
TREE_KEY_BYTES = 16
"""Bytes per key value in that case: dk and dv summed in fp32, copies of the path's keys and values,
and the block's gradients of them."""


class LayerWork(Record, frozen=True):
    """Memory of one layer while it is recomputed and differentiated, in bytes per position."""

    saved: int
    """What autograd keeps of the layer, without the layer's input."""
    saved_tiled: int
    """The same if MLP and norms are tiled and keep only their inputs."""
    whole: int
    """Peak without tiles."""
    around: int
    """Peak outside the MLP, with tiles."""
    tile_rest: int
    """While a tile of the MLP is processed, for each position of the layer."""
    tile: int
    """While a tile of the MLP is processed, for each position of the tile."""
    adapter: int
    """Bytes for the LoRA, independent of the number of positions."""
    adapter_tiled: int
    """The same while a tile of the MLP is processed."""

    def keep(self, positions: int, *, tile: int | None) -> int:
        """Return the bytes that autograd keeps of the layer; `tile` None means no tiles."""
        return positions * (self.saved_tiled if is_tiled(positions, tile) else self.saved)

    def peak(self, positions: int, *, tile: int | None) -> int:
        """Return the bytes of the layer's peak; `tile` None means no tiles."""
        if tile is None or not is_tiled(positions, tile):
            return positions * self.whole + self.adapter
        return max(
            positions * self.around + self.adapter,
            positions * self.tile_rest + tile * self.tile + self.adapter_tiled,
        )


def is_tiled(positions: int, tile: int | None) -> bool:
    """Return whether the positions need more than one tile; `tile` None means no tiles."""
    return tile is not None and tile < positions


def measure_layer(shape: ModelShape, *, rank: int, kernel: bool = True) -> LayerWork:
    """Count the memory that one layer's backward pass needs.

    Every term is bytes per value times values per position: 2 for a bf16 tensor, 4 for fp32. So
    `4 * hidden` is two bf16 tensors of the hidden size, or one in fp32.

    Args:
        shape: the model.
        rank: LoRA rank.
        kernel: whether to include the workspace of the GPU's attention kernel.
    """
    hidden, wide, query, key = shape.hidden, shape.intermediate, shape.query, shape.key
    # The attention's log-sum-exp, one fp32 number per query head.
    sums = 4 * shape.heads
    # The head norms' fp32 copies and scales; tiled, they keep their bf16 inputs instead.
    head_norms = (4 * (query + key) + 4 * (shape.heads + shape.kv_heads)) if shape.qk_norm else 0
    head_norms_tiled = 2 * (query + key) if shape.qk_norm else 0
    # Outputs of both norms and of the attention; queries, keys, values; outputs of LoRA's A.
    kept = 4 * hidden + 4 * query + 4 * key + sums + 8 * rank
    # Untiled, each of the two norms keeps an fp32 copy of its input and a scale per row. Tiled, it
    # keeps its input: one is counted here, the other is the layer's own input.
    saved_tiled = kept + 2 * hidden + head_norms_tiled
    kept += 2 * (4 * hidden + 4) + head_norms
    # The MLP keeps four tensors of its intermediate size and the outputs of three LoRA A matrices.
    saved = kept + 8 * wide + 6 * rank
    # The backward pass of the attention: its tensors and their gradients, in bf16.
    attention = 6 * hidden + 8 * (query + key) + sums + 6 * rank
    # The kernel sums dq in fp32, and dk and dv separately for each query head.
    attention += 8 * query + TREE_QUERY_BYTES * query + TREE_KEY_BYTES * key if kernel else 0
    # Candidates for the peak without tiles: in the MLP, at the norm before it, in the attention
    # kernel, and at the norm of the queries.
    whole = (
        saved + 4 * wide + 2 * hidden - 2 * rank,
        kept + 20 * hidden - 4,
        attention + 4 * hidden + 4 + head_norms,
        12 * hidden + 24 * query + 2 * rank + 4 if shape.qk_norm else 0,
    )
    # Candidates outside the MLP with tiles: in the attention kernel, where the gradient of its
    # output arrives, and where the gradients of its input are added up.
    around = (
        attention + head_norms_tiled,
        6 * hidden + 10 * query + 4 * key + head_norms_tiled + sums + 6 * rank,
        12 * hidden + 2 * (query + key) + head_norms_tiled + 4 * rank,
    )
    # Held throughout: the gradient of the layer's output, position ids (int64), and the rotary
    # embedding's sine and cosine in bf16.
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
    """Count the bytes that layers keep on the GPU for their backward passes."""
    one = 2 * shape.hidden * positions
    match activation_checkpointing:
        case "recompute":
            return shape.layers * one
        case "offload":
            # The input in use, and the next one on its way from the host.
            return min(2, shape.layers) * one
        case _:
            layer = measure_layer(shape, rank=rank).keep(positions, tile=tile)
            layer += 2 * sum(shape.adapter_linears(rank))
            # Tiled norms keep every layer's input; others keep an fp32 copy, counted in `saved`.
            inputs = shape.layers if is_tiled(positions, tile) else 1
            # One more for the output of the last layer.
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
    """Count the bytes of one layer's backward pass, without what all layers keep."""
    work = measure_layer(shape, rank=rank, kernel=kernel)
    kept = work.keep(positions, tile=tile) if activation_checkpointing == "off" else 0
    return work.peak(positions, tile=tile) - kept


def count_last_norm(shape: ModelShape, *, positions: int, trained: int) -> int:
    """Count the bytes of the last norm's backward pass: six fp32 tensors of all positions.

    Includes the positions' ids and rotary embeddings, which all layers read, and logprobs, entropy
    and gradient of the trained tokens.
    """
    return positions * (24 * shape.hidden + 4 * shape.head_dim + 16) + 12 * trained


def count_parked(shape: ModelShape, positions: int, *, page: int = 4 << 20) -> int:
    """Count the bytes of host memory that `offload` pins, in whole pages."""
    pages = -(-2 * shape.hidden * positions // page)
    return (shape.layers - 1) * pages * page


def count_head(shape: ModelShape, *, trained: int, chunk: int) -> int:
    """Count the bytes of one chunk of logits during its backward pass."""
    return LOGIT_BYTES * min(chunk, trained) * shape.vocab


def count_hidden(shape: ModelShape, *, positions: int, trained: int) -> int:
    """Count the bytes of the last norm and of the trained positions' hidden states."""
    around = positions * (4 * shape.hidden + 4 + 2 * shape.hidden)
    return around + trained * 3 * 2 * shape.hidden

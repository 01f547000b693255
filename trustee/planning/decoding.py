"""How long one decoding step takes, by card, format of the weights and requests at once.

The one idea: a step reads the weights once for all requests, so it is bound by bandwidth as long as
the kernels keep up. With few requests all of them do. With more, bitsandbytes' fused NF4 kernel
falls behind, and products of some sizes are made over weights opened to bf16, at several times the
traffic; which ones depends on the card. Marlin's int4 kernel stays at the limit until arithmetic
is. No figure was measured on a card: all follow from those libraries' sources and data sheets.
"""

from __future__ import annotations

from itertools import pairwise

from trustee.engine.weights import WeightFormat
from trustee.planning.cards import Card
from trustee.planning.ledger import base_bytes, kv_token_bytes
from trustee.planning.shapes import ModelShape

UNSURE = 1.35
"""Factor by which a step may be faster or slower than computed."""
OVERHEAD_SECONDS = (0.003, 0.008)
"""Of a step, at best and at worst: starting the adapters' kernels, sampling, scheduling."""
READ_SHARE = 0.8
"""Share of the data sheet's bandwidth of plain reads: head, cache, int4 and bf16 weights."""
PRODUCT_SHARE = 0.8
"""Share of the bf16 speed that products of few rows reach where arithmetic is the limit."""
LEAST_ROWS = 16
"""Rows that a kernel computes even for fewer requests."""

NF4_SLOWNESS: dict[tuple[int, int], dict[int, float]] = {
    (8, 6): {4: 1.4, 5: 5.4, 16: 5.5, 32: 5.9, 48: 8.8, 64: 8.8, 96: 12.6, 128: 15.8, 256: 23.5},
    (8, 9): {6: 1.4, 8: 1.8, 12: 3.2, 32: 3.4, 64: 4.0, 96: 9.5, 128: 9.7, 256: 13.6},
    (9, 0): {4: 1.4, 8: 8.0, 32: 8.0, 33: 9.9, 128: 9.9, 256: 13.0},
    (12, 0): {6: 1.7, 8: 3.0, 12: 6.5, 32: 6.5, 64: 7.5, 96: 10.4, 128: 11.6, 256: 17.3},
}
"""Time of all NF4 products of Qwen3-8B over that of reading their bytes at the full bandwidth, by
compute capability and requests at once; between two entries a straight line.

From the dispatch of bitsandbytes 0.50 (`backends/cuda/ops.py`) and a model of its kernels for an
RTX 3090, 4090 and 5090; for 9.0, where nearly all products are opened, from traffic alone."""


def step_seconds(
    shape: ModelShape, card: Card, *, weights: WeightFormat, sequences: int, tokens: float, end: int
) -> float:
    """Estimate one decoding step.

    Args:
        shape: the model.
        card: the GPU.
        weights: format of the linear layers.
        sequences: requests at once.
        tokens: KV-cache tokens of all of them together.
        end: 0 for the best case, 1 for the worst.
    """
    bandwidth = 1e9 * card.bandwidth
    read = _rest_bytes(shape, weights=weights, tokens=tokens) / (bandwidth * READ_SHARE)
    products = _product_seconds(shape, card, weights=weights, sequences=sequences)
    factor = 1 / UNSURE if end == 0 else UNSURE
    least = _step_bytes(shape, weights=weights, tokens=tokens) / bandwidth
    return max(least, (products + read) * factor) + OVERHEAD_SECONDS[end]


def bandwidth_share(
    shape: ModelShape, card: Card, *, weights: WeightFormat, sequences: int, tokens: float, end: int
) -> float:
    """Return the share of the data sheet's bandwidth that a step reaches; arguments as above."""
    least = _step_bytes(shape, weights=weights, tokens=tokens) / (1e9 * card.bandwidth)
    return least / step_seconds(
        shape, card, weights=weights, sequences=sequences, tokens=tokens, end=end
    )


def _rest_bytes(shape: ModelShape, *, weights: WeightFormat, tokens: float) -> float:
    """Count the bytes of the head and of the cache."""
    width = 4 if weights == "fp32" else 2
    return width * shape.vocab * shape.hidden + tokens * kv_token_bytes(shape)


def _step_bytes(shape: ModelShape, *, weights: WeightFormat, tokens: float) -> float:
    """Count the bytes that no step can do without."""
    linear = _linear_bytes(shape, weights=weights)
    return linear + _rest_bytes(shape, weights=weights, tokens=tokens)


def _linear_bytes(shape: ModelShape, *, weights: WeightFormat) -> int:
    """Count the bytes that a step reads besides the head and the cache."""
    width = 4 if weights == "fp32" else 2
    tables = width * shape.vocab * shape.hidden * (1 if shape.tied else 2)
    return base_bytes(shape, weights=weights) - tables


def _product_seconds(
    shape: ModelShape, card: Card, *, weights: WeightFormat, sequences: int
) -> float:
    """Estimate the products of all linear layers."""
    read = _linear_bytes(shape, weights=weights) / (1e9 * card.bandwidth)
    if weights == "nf4":
        return read * nf4_slowness(card.generation, sequences)
    operations = 2.0 * max(LEAST_ROWS, sequences) * shape.linear_numel
    return max(read / READ_SHARE, operations / (card.tflops * 1e12 * PRODUCT_SHARE))


def nf4_slowness(generation: tuple[int, int], sequences: int) -> float:
    """Return NF4's time over that of reading its bytes; of the nearest older generation known."""
    known = max((one for one in NF4_SLOWNESS if one <= generation), default=min(NF4_SLOWNESS))
    table = NF4_SLOWNESS[known]
    for (low, first), (high, second) in pairwise(table.items()):
        if low <= sequences <= high:
            return first + (second - first) * (sequences - low) / (high - low)
    return table[min(table)] if sequences < min(table) else table[max(table)]

"""Bytes of what follows from a model's shape alone: tables, NF4's statistics, optimiser states."""

from __future__ import annotations

from trustee.algorithm.config import Optimizer
from trustee.planning.shapes import ModelShape
from trustee.trainer.nf4 import NESTED_BLOCK, NF4_BLOCK

SMALL_TENSOR = 4096
"""Elements under which an 8-bit optimiser keeps fp32 states."""
VOCAB_PADDING = 64
"""The engine rounds its tables up to this many rows."""


def count_table(shape: ModelShape, *, width: int = 2) -> int:
    """Count the bytes of the embedding, whose rows the engine rounds up."""
    return width * -(-shape.vocab // VOCAB_PADDING) * VOCAB_PADDING * shape.hidden


def count_scales(shape: ModelShape) -> int:
    """Count the bytes of nested NF4 statistics over all linear layers.

    Each layer has scales of blocks, scales of scales, a mean, and tables of 16 and 256 levels.
    """
    total = 0
    for rows, columns in shape.linears.values():
        blocks = -(-rows * columns // NF4_BLOCK)
        total += shape.layers * (blocks + 4 * -(-blocks // NESTED_BLOCK) + 4 + 4 * (16 + 256))
    return total


def count_states(shape: ModelShape, *, rank: int, optimizer: Optimizer) -> int:
    """Count the bytes of the optimiser's two moments."""
    total = 0
    for numel in shape.adapter_linears(rank):
        if optimizer == "adamw8bit" and numel >= SMALL_TENSOR:
            total += 2 * (numel + 4 * -(-numel // NESTED_BLOCK))
        else:
            total += 8 * numel
    tables = 2 * 4 * 256 if optimizer == "adamw8bit" else 0
    return shape.layers * total + tables

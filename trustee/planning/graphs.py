"""What CUDA graphs keep: one for each batch size that the engine decodes."""

from __future__ import annotations

from trustee.planning.budget import Budget
from trustee.types import MIB

GRAPH_BYTES = 12 * MIB
"""One captured CUDA graph, its share of the common pool included; reported are 7 to 16 MiB."""


def count_graph_pool(budget: Budget, *, opened: int) -> int:
    """Count the bytes of the captured graphs and of what they hold besides.

    Args:
        budget: the engine's settings.
        opened: bytes of the largest weight opened. Where NF4's kernels open one while a graph is
            captured, it stays in the graphs' own pool, where nothing else can use it.
    """
    if budget.engine.eager:
        return 0
    held = opened if budget.engine.weight_format == "nf4" else 0
    return GRAPH_BYTES * count_graphs(budget.engine.max_sequences) + held


def count_graphs(sequences: int) -> int:
    """Count the engine's graphs: of decoding, and in pieces of twice the tokens; all twice."""
    return 2 * sum(3 + -(-min(most, 512) // 8) for most in (sequences, 2 * sequences))

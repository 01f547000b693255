"""What CUDA graphs keep, counted by hand for one setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustee.config import apply_changes, read_config
from trustee.planning.graphs import count_graph_pool, count_graphs
from trustee.planning.plan import read_budget
from trustee.types import MIB

QWEN = read_config(Path(__file__).parents[2] / "configs/qwen3-8b.toml")


@pytest.mark.parametrize(("sequences", "graphs"), [(48, 48), (64, 60), (256, 204)])
def test_graphs_that_the_engine_captures(sequences: int, graphs: int) -> None:
    """Sizes 1, 2, 4 and multiples of 8: up to the sequences whole, up to twice as many in pieces.

    Each with adapters and without. Counted in vLLM 0.33, `config/vllm.py` and `lora_utils.py`.
    """
    assert graphs == count_graphs(sequences)


@pytest.mark.parametrize(
    ("changes", "mib"),
    [
        ((), 48 * 12 + 100),
        (("engine.weights=int4",), 48 * 12),
        (("engine.weights=bf16",), 48 * 12),
        (("engine.eager=true",), 0),
    ],
)
def test_a_weight_opened_while_capturing_stays_in_the_pool(
    changes: tuple[str, ...], mib: int
) -> None:
    """Only NF4's kernels open one there: int4's read the packed one."""
    budget = read_budget(apply_changes(QWEN, changes))
    assert mib * MIB == count_graph_pool(budget, opened=100 * MIB)

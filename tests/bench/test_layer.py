"""The bench of a layer: what it counts, and that fusing leaves less to do."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
layer: Any = import_module("layer")


def test_an_operation_counts_with_its_tensors_and_a_view_does_not() -> None:
    """A sum of two rows reads two and writes one; looking at half of a row moves nothing."""
    row = torch.ones(4)
    with layer.Operations() as counted:
        row[:2]
        row + row.clone()
    assert (counted.count, counted.bytes) == (2, 16 * 2 + 16 * 3)


def test_fusing_leaves_less_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer operations and fewer bytes, with and without tiles; both are timed."""
    sizes = "--hidden 512 --positions 64 --tile 32 --weights bf16 --times 1"
    layer.main([*sizes.split(), "--json"])
    found = json.loads(capsys.readouterr().out)
    for tile in ("", ", MLP by 32"):
        before, after = (found[f"bf16, {word}{tile}"] for word in ("before", "after"))
        assert after["operations"] < before["operations"]
        assert after["bytes"] < before["bytes"]
    assert set(found["times"]["bf16"]) == {"before_s", "after_s", "ratio"}
    assert found["times"]["bf16"]["ratio"] > 0

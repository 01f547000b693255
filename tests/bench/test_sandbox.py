"""The sandbox's bench: every answer right, nothing left, and a line with its figures."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "sandbox.py"

pytestmark = pytest.mark.slow


def test_bench_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A small round counts its calls and finds nothing wrong and nothing left."""
    main = runpy.run_path(str(BENCH))["main"]
    main(["--environments", "3", "--calls", "12", "--isolation", "none", "--json"])
    line = json.loads(capsys.readouterr().out)
    found = {name: line[name] for name in ("bench", "environments", "isolation", "calls")}
    assert {"bench": "sandbox", "environments": 3, "isolation": "none", "calls": 12} == found
    assert (0, 0, 0) == (line["wrong"], line["children_left"], line["descriptors_left"])
    assert 0 < line["ms_p50"] <= line["ms_p99"]

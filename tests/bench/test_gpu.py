"""The checks that need a card, as tests: what `bench/gpu_check.py` runs, family by family."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))
gpu_check: Any = import_module("gpu_check")
report: Any = import_module("gpu.report")

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder whose models all families share."""
    return tmp_path_factory.mktemp("gpu-check")


@pytest.mark.parametrize("family", gpu_check.FAMILIES, ids=lambda family: family.name)
def test_a_family_passes_on_the_card(
    family: Any, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check of the family passes within its deadline."""
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), known))))
    setting = report.Setting(device="cuda", scratch=scratch, chosen=family.checks)
    lines = gpu_check.run_family(
        family.checks,
        command=gpu_check.child_command(family.name, setting),
        seconds=family.seconds,
        log=scratch / f"{family.name}.log",
    )
    assert [line for line in lines if line["state"] != "pass"] == []

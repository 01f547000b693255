"""`trustee config`: the keys on the screen, for people and for programs, without a heavy import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trustee.cli.main import main
from trustee.cli.settings import list_settings, settings_text

ROOT = Path(__file__).parents[3]


def test_all_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a section every key is listed."""
    assert 0 == main(["config"])
    assert f"{settings_text(list_settings())}\n" == capsys.readouterr().out


def test_a_section_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object per key."""
    assert 0 == main(["config", "run", "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [setting.key for setting in list_settings("run")] == [line["key"] for line in lines]
    assert {
        "key": "run.steps",
        "default": 200,
        "allowed": "int >= 1",
        "meaning": "Number of optimiser steps.",
    } == lines[0]


def test_unknown_section(capsys: pytest.CaptureFixture[str]) -> None:
    """Bad input, with the sections that there are."""
    assert 2 == main(["config", "learning"])
    assert "no section or key learning; did you mean learn" in capsys.readouterr().err


def test_config_loads_nothing_heavy() -> None:
    """Looking a key up is reading source code: no torch, no vLLM, no transformers."""
    code = (
        "import sys; from trustee.cli.main import main; main(['config']); "
        "print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "[]" == ran.stdout.splitlines()[-1]

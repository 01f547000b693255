"""What of a file of tools a run does not use is said before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trustee.environments.simulated.environment import Simulated


def test_check_says_what_is_left_out(tmp_path: Path) -> None:
    """A bad entry is named by its place; good files and packaged sets need no word."""
    path = tmp_path / "tools.json"
    good = [{"name": f"get_{letter}"} for letter in "abcdef"]
    path.write_text(json.dumps([*good, 5]))
    (line,) = Simulated(tools=str(path)).check(seed=1)
    assert line.startswith(f"{path}: left out: {path}: [6]: not a tool, got 5")
    path.write_text(json.dumps(good))
    assert Simulated(tools=str(path)).check(seed=1) == ()


@pytest.mark.parametrize("name", ["", "micro"])
def test_check_of_packaged_tools(name: str) -> None:
    """Packaged sets need no word."""
    assert Simulated(tools=name).check(seed=1) == ()

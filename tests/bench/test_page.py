"""The bench of the page: the run that it makes; what it measures is not tested here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import page
from trustee.runs.episode_index import EpisodeIndex, TaskIndex


def test_the_run_can_be_read(tmp_path: Path) -> None:
    """Every episode is in its group, with its turns, tokens and reward, and has a task."""
    folder = page.write_run(tmp_path / "run", episodes=20, turns=3)
    index, tasks = EpisodeIndex(folder / "episodes.jsonl"), TaskIndex(folder / "tasks.jsonl")
    assert index.advance()
    tasks.advance()
    columns = index.columns
    assert [0] * 8 + [1] * 8 + [2] * 4 == list(columns.group)
    assert [-1.0, 1.0, 1.0, -1.0] == list(columns.reward)[:4]
    assert ({3}, {3 * page.TOKENS}) == (set(columns.turns), set(columns.tokens))
    assert (0, [], {0, 1, 2}) == (index.bad, tasks.problems, set(tasks.places))


def test_memory_of_this_process_is_read() -> None:
    """It is some, in MiB."""
    assert 10 < page.resident_mib(os.getpid()) < 100_000

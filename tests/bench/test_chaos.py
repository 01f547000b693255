"""The bench of kills sees what it is there to see: lost and doubled lines, lost steps, orphans."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def chaos() -> ModuleType:
    """Import the bench, which stands outside of all packages."""
    spec = importlib.util.spec_from_file_location("bench_chaos", ROOT / "bench" / "chaos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_chaos"] = module
    spec.loader.exec_module(module)
    return module


def write(path: Path, keys: Iterable[tuple[int, int]]) -> None:
    """Write episodes of these groups and members."""
    path.write_text("".join(f'{{"group": {a}, "member": {b}}}\n' for a, b in keys))


def announce(*keys: tuple[int, int]) -> list[dict[str, Any]]:
    """Give the events of finished episodes."""
    return [{"event": "episode", "group": group, "member": member} for group, member in keys]


@pytest.mark.parametrize(
    ("before", "after", "announced", "faults"),
    [
        ([(0, 0)], [(0, 0), (0, 1)], [(0, 1)], {}),
        ([(0, 0), (0, 1)], [(0, 0)], [], {"episodes_lost": 1}),
        ([(0, 0)], [(0, 0)], [(0, 1), (1, 0)], {"episodes_lost": 2}),
        ([(0, 0)], [(0, 0), (0, 0)], [], {"episodes_doubled": 1}),
        ([], [], [(0, 0)], {"episodes_lost": 1}),
    ],
)
def test_lost_and_doubled_episodes_are_counted(
    chaos: ModuleType,
    tmp_path: Path,
    before: list[tuple[int, int]],
    after: list[tuple[int, int]],
    announced: list[tuple[int, int]],
    faults: dict[str, int],
) -> None:
    """What was on disk or announced must be on disk, once; each loss is counted once."""
    folder, figures = chaos.Folder(tmp_path, "scripted"), chaos.Figures()
    write(tmp_path / "episodes.jsonl", before)
    folder.look(figures, [])
    write(tmp_path / "episodes.jsonl", after)
    events = announce(*announced)
    folder.look(figures, events)
    folder.look(figures, events)
    assert faults == figures.faults


@pytest.mark.parametrize(
    ("event", "lost"),
    [
        ({"event": "note", "text": "continuing after step 3 from checkpoints/step-000003"}, 0),
        ({"event": "note", "text": "continuing after step 2 from checkpoints/step-000002"}, 1),
        ({"event": "stage", "name": "training, 5 steps"}, 3),
    ],
)
def test_lost_steps_are_counted(
    chaos: ModuleType, tmp_path: Path, event: dict[str, Any], lost: int
) -> None:
    """A resumed run makes again what it had made since its last checkpoint."""
    folder, figures = chaos.Folder(tmp_path, "scripted"), chaos.Figures()
    folder.look(figures, [{"event": "step", "step": step} for step in (1, 2, 3)])
    folder.begin_life()
    folder.check_resumed(figures, [event])
    assert (lost, lost) == (figures.steps_lost, figures.steps_lost_most)
    assert figures.result(1, "scripted", 0)["holds"] == (lost <= 1)


def test_orphan_is_found_and_ended(chaos: ModuleType) -> None:
    """A process that carries the mark is found wherever it hangs in the tree."""
    environment = os.environ | {chaos.MARK: str(os.getpid())}
    with subprocess.Popen(["sleep", "60"], env=environment) as orphan:
        assert orphan.pid in list(chaos.marked_processes())
        orphan.kill()
    assert [] == list(chaos.marked_processes())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_bench_prints_one_line(tmp_path: Path) -> None:
    """Three strikes at the scripted engine: the program survives, and the line says so."""
    command = [sys.executable, str(ROOT / "bench" / "chaos.py"), "--json", "--kills", "3"]
    ran = subprocess.run(
        [*command, "--engine", "scripted"], capture_output=True, text=True, cwd=tmp_path
    )
    [line] = ran.stdout.splitlines()
    result = json.loads(line)
    assert (0, True, 3) == (ran.returncode, result["holds"], result["kills"]), ran.stderr

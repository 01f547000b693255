"""Does a verifiable reward teach? `trustee run` in environments with executable tools.

    python bench/ftrl.py --seeds 3 --json

The built-in model plays tool environments that `trustee build` made; they are built first if the
config's path contains none. The reward depends on the results of the calls. Solve-F1 is measured
before and after training, on environments that training never uses.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from trustee.config import read_config
from trustee.environments.executable.environment import Executable
from trustee.errors import InputError
from trustee.evaluation.intervals import mean_interval
from trustee.runs.store import read_lines
from trustee.types import Trajectory

ROOT = Path(__file__).parents[1]


def call_program(*arguments: str) -> None:
    """Run `trustee`, keeping its output apart from the result line on standard output."""
    subprocess.run(
        [sys.executable, "-m", "trustee", *arguments], check=True, cwd=ROOT, stdout=sys.stderr
    )


def build(config: Path, changes: Sequence[str], *, count: int) -> float:
    """Build environments if there are none; return the minutes it took.

    Raises:
        InputError: if the config's environment is not an executable one.
    """
    world = read_config(config, changes).env
    if not isinstance(world, Executable):
        raise InputError(f"{config}: env.kind must be executable, is {type(world).__name__}")
    path = ROOT / world.path
    if path.exists():
        return 0.0
    started_at = time.monotonic()
    call_program("build", "--config", str(config), "--out", str(path.parent), "--count", str(count))
    return (time.monotonic() - started_at) / 60


def f1_by_task(path: Path) -> dict[str, float]:
    """Return Solve-F1 of each valid episode in a file of trajectories, by task."""
    return {
        one.task_id: one.outcome.solve.f1
        for one in read_lines(path, Trajectory)
        if one.failure is None and one.outcome.solve is not None
    }


def compare(before: dict[str, float], after: dict[str, float], *, seed: int) -> dict[str, Any]:
    """Return mean F1 of tasks played both times, and the gain in points with its 95 % interval.

    Raises:
        InputError: if no task was played both times.
    """
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise InputError("no held-out task was played soundly before and after training")
    gains = [after[task] - before[task] for task in shared]
    interval = mean_interval(gains, seed=seed)
    return {
        "f1_before": fmean(before[task] for task in shared),
        "f1_after": fmean(after[task] for task in shared),
        "gain_points": 100 * fmean(gains),
        "gain_interval": [100 * edge for edge in interval],
        "tasks": len(shared),
    }


def train_once(folder: Path, *, seed: int, config: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Run `trustee run` once and read its results."""
    started_at = time.monotonic()
    sets = [f"run.seed={seed}", *changes]
    call_program(
        "run",
        *("--config", str(config), "--out", str(folder)),
        *(part for change in sets for part in ("--set", change)),
    )
    played = [f1_by_task(folder / f"held-out-{label}.jsonl") for label in ("before", "after")]
    outcome = json.loads((folder / "outcome.json").read_text())
    return {
        **compare(*played, seed=seed),
        "steps": outcome["steps"],
        "minutes": (time.monotonic() - started_at) / 60,
    }


def summarise(runs: Sequence[dict[str, Any]], *, build_minutes: float) -> dict[str, Any]:
    """Return the result line: a list over seeds for each key."""
    digits = {"f1_before": 4, "f1_after": 4, "gain_points": 1, "minutes": 1}
    line: dict[str, Any] = {"bench": "ftrl"}
    for key, places in digits.items():
        line[key] = [round(run[key], places) for run in runs]
    line["gain_interval"] = [[round(edge, 1) for edge in run["gain_interval"]] for run in runs]
    line["steps"] = [run["steps"] for run in runs]
    line["tasks"] = [run["tasks"] for run in runs]
    line["build_minutes"] = round(build_minutes, 1)
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "ftrl-tiny.toml")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--count", type=int, default=400, help="environments to build")
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    built = build(options.config, options.changes, count=options.count)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        runs = [
            train_once(
                folder / f"seed-{seed}", seed=seed, config=options.config, changes=options.changes
            )
            for seed in range(options.seeds)
        ]
    line = summarise(runs, build_minutes=built)
    if options.json:
        print(json.dumps(line))
        return
    for key, value in line.items():
        print(f"{key:<14} {value}")


if __name__ == "__main__":
    main()

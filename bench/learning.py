"""Does it learn? Complete `trustee run`s with the built-in model, one per seed, and a control.

    python bench/learning.py --seeds 3 --json

Training only sees the judge's reward. Success is measured by the micro-world's oracle, on held-out
tasks whose tools training never offered together. The control shuffles each step's rewards over its
episodes, so it must gain nothing.
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
from typing import Any

ROOT = Path(__file__).parents[1]
EDGE = 5
"""Number of steps over which the judge's reward is averaged, at the start and at the end."""


def train_once(folder: Path, *, seed: int, config: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Run `trustee run` once and read its results."""
    started_at = time.monotonic()
    sets = [f"run.seed={seed}", *changes]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "trustee",
            "run",
            "--config",
            str(config),
            "--out",
            str(folder),
            *(part for change in sets for part in ("--set", change)),
        ],
        check=True,
        cwd=ROOT,
        stdout=sys.stderr,
    )
    outcome = json.loads((folder / "outcome.json").read_text())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rewards = [row["reward"] for row in metrics]
    return {
        "before": outcome["before"]["value"],
        "after": outcome["after"]["value"],
        "gain_points": outcome["gain"]["points"],
        "interval": [outcome["gain"]["low"], outcome["gain"]["high"]],
        "tasks": outcome["after"]["count"],
        "steps": outcome["steps"],
        "minutes": (time.monotonic() - started_at) / 60,
        "judge_reward_first": sum(rewards[:EDGE]) / len(rewards[:EDGE]),
        "judge_reward_last": sum(rewards[-EDGE:]) / len(rewards[-EDGE:]),
        "rolled_back": [row["rolled_back_to"] for row in metrics if row["rolled_back_to"]],
    }


def summarise(runs: Sequence[dict[str, Any]], control: dict[str, Any] | None) -> dict[str, Any]:
    """Return the result line."""
    line: dict[str, Any] = {
        "bench": "learning",
        "oracle_before": [round(run["before"], 4) for run in runs],
        "oracle_after": [round(run["after"], 4) for run in runs],
        "gain_points": [round(run["gain_points"], 1) for run in runs],
        "gain_interval": [[round(v, 1) for v in run["interval"]] for run in runs],
        "minutes": [round(run["minutes"], 1) for run in runs],
        "steps": [run["steps"] for run in runs],
        "tasks": [run["tasks"] for run in runs],
        "judge_reward_first": [round(run["judge_reward_first"], 3) for run in runs],
        "judge_reward_last": [round(run["judge_reward_last"], 3) for run in runs],
        "rolled_back": [run["rolled_back"] for run in runs],
    }
    if control is not None:
        line["control_shuffled"] = {
            key: [round(v, 1) for v in value] if key == "interval" else round(value, 4)
            for key, value in control.items()
            if key in ("before", "after", "gain_points", "interval", "steps", "minutes")
        }
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "tiny.toml")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--no-control", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        runs = [
            train_once(
                folder / f"seed-{seed}", seed=seed, config=options.config, changes=options.changes
            )
            for seed in range(options.seeds)
        ]
        control = None
        if not options.no_control:
            control = train_once(
                folder / "control",
                seed=0,
                config=options.config,
                changes=[*options.changes, "learn.shuffle_rewards=true"],
            )
        line = summarise(runs, control)
    if options.json:
        print(json.dumps(line))
        return
    for key, value in line.items():
        print(f"{key:<20} {value}")


if __name__ == "__main__":
    main()

"""Does trying tools first pay? SFT, reinforcement learning, both, and both without the trial.

    python bench/toolmaster.py --seeds 3 --json

Success is measured on held-out tasks with tools of categories that training never offered. `base`
and `rl_only` come from a run without SFT, `sft` and `sft_rl` from one with it. `no_trial_at_test`
is the latter's last adapter in episodes that begin with the execution phase, and `unseen_way` is
the same adapter with broken tools that return nothing instead of an error, which it never saw.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from ftrl import call_program
from trustee.errors import InputError

ROOT = Path(__file__).parents[1]
KEYS = ("base", "sft", "sft_rl", "rl_only", "no_trial_at_test", "unseen_way")


def read_event(*arguments: str) -> dict[str, Any]:
    """Run `trustee ... --json` and return its last event, the result."""
    told = subprocess.run(
        [sys.executable, "-m", "trustee", *arguments, "--json"],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.splitlines()
    result: dict[str, Any] = json.loads(told[-1])
    return result


def train(folder: Path, config: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Run `trustee run` once and return its result."""
    sets = [part for change in changes for part in ("--set", change)]
    call_program("run", "--config", str(config), "--out", str(folder), *sets)
    outcome: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return outcome


def write_other_world(path: Path, config: Path) -> Path:
    """Write a config with tools that are broken in a way that training never shows."""
    text = config.read_text(encoding="utf-8")
    changed = text.replace('kind = "break"', 'how = "empty"\nkind = "break"')
    if text == changed:
        raise InputError(f"{config} has no transform of kind break, whose way could be changed")
    path.write_text(changed, encoding="utf-8")
    return path


def measure_seed(
    folder: Path, *, seed: int, config: Path, changes: Sequence[str]
) -> dict[str, float]:
    """Train with and without SFT, and evaluate without the trial."""
    started_at = time.monotonic()
    sets = [f"run.seed={seed}", *changes]
    # Concurrently, because each engine uses one core.
    with ThreadPool(2) as pool:
        both, alone = pool.starmap(
            train,
            [
                (folder / "both", config, sets),
                (folder / "alone", config, ["collect.tasks=none", *sets]),
            ],
        )
    stripped = read_event("eval", str(folder / "both"), "--strip-trial")
    other = write_other_world(folder / "other.toml", config)
    unseen = read_event("eval", str(folder / "both"), "--world", str(other))
    return {
        "base": alone["before"]["value"],
        "sft": both["before"]["value"],
        "sft_rl": both["after"]["value"],
        "rl_only": alone["after"]["value"],
        "no_trial_at_test": stripped["trained"]["value"],
        "unseen_way": unseen["trained"]["value"],
        "tasks": both["after"]["count"],
        "minutes": (time.monotonic() - started_at) / 60,
    }


def summarise(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the result line: a list over seeds for each key."""
    line: dict[str, Any] = {"bench": "toolmaster"}
    line |= {key: [round(run[key], 4) for run in runs] for key in KEYS}
    line["tasks"] = [run["tasks"] for run in runs]
    line["minutes"] = [round(run["minutes"], 1) for run in runs]
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    """Train each seed and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "toolmaster-tiny.toml")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        runs = [
            measure_seed(
                folder / f"seed-{seed}", seed=seed, config=options.config, changes=options.changes
            )
            for seed in range(options.seeds)
        ]
    line = summarise(runs)
    if options.json:
        print(json.dumps(line))
        return
    for key, value in line.items():
        print(f"{key:<17} {value}")


if __name__ == "__main__":
    main()

"""The three recipes compared: same model, same number of policy tokens, same held-out environments.

    python bench/recipes.py --tokens 200000 --json

Each recipe trains with its own tiny config until the policy has sampled that many tokens; SFT
samples none. Then every adapter plays the held-out tasks of all three environments.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftrl import build, call_program
from toolmaster import read_event

ROOT = Path(__file__).parents[1]
RECIPES = {
    "trustee": ROOT / "configs" / "tiny.toml",
    "ftrl": ROOT / "configs" / "ftrl-tiny.toml",
    "toolmaster": ROOT / "configs" / "toolmaster-tiny.toml",
}


def train(folder: Path, config: Path, *, tokens: int, seed: int) -> float:
    """Train one recipe; return the minutes it took."""
    started_at = time.monotonic()
    call_program(
        "run",
        *("--config", str(config), "--out", str(folder)),
        *(
            "--set",
            f"run.tokens={tokens}",
            "--set",
            "run.minutes=none",
            "--set",
            "run.steps=100000",
        ),
        *("--set", f"run.seed={seed}", "--set", "eval.tasks=none"),
    )
    return (time.monotonic() - started_at) / 60


def measure(folder: Path, tasks: int) -> tuple[dict[str, float], dict[str, float]]:
    """Play the held-out tasks of all environments; return the success of base and adapter."""
    base: dict[str, float] = {}
    trained: dict[str, float] = {}
    for world, config in RECIPES.items():
        result = read_event("eval", str(folder), "--world", str(config), "--tasks", str(tasks))
        base[world] = result["base"]["value"]
        trained[world] = result["trained"]["value"]
    return base, trained


def show_table(line: dict[str, Any]) -> str:
    """Return the figures as a table: a row per policy, a column per held-out environment."""
    rows = [f"{'trained by':<14}" + "".join(f"{world:>12}" for world in RECIPES) + f"{'min':>8}"]
    for name, shares in line["success"].items():
        minutes = line["minutes"].get(name)
        rows.append(
            f"{name:<14}"
            + "".join(f"{shares[world]:>12.1%}" for world in RECIPES)
            + (f"{minutes:>8.1f}" if minutes is not None else f"{'-':>8}")
        )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the recipes, play all environments, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200_000, help="of the policy, per recipe")
    parser.add_argument("--tasks", type=int, default=150, help="held-out tasks of each environment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    build(RECIPES["ftrl"], (), count=400)
    success: dict[str, dict[str, float]] = {}
    minutes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        for name, config in RECIPES.items():
            minutes[name] = round(
                train(folder / name, config, tokens=options.tokens, seed=options.seed), 1
            )
            success["base"], success[name] = measure(folder / name, options.tasks)
    line = {
        "bench": "recipes",
        "tokens": options.tokens,
        "tasks": options.tasks,
        "success": success,
        "minutes": minutes,
    }
    if options.json:
        print(json.dumps(line))
    else:
        print(show_table(line))


if __name__ == "__main__":
    main()

"""Does a published model learn? Imitation, then reinforcement learning, on a processor alone.

    python bench/real_learning.py --model FOLDER --json

The world has executable tools and a reward that code verifies (FTRL's); environments, questions and
demonstrations are written by `real_world.py`. `trustee sft` imitates a few demonstrations, `trustee
run` goes on from there, and base, imitation and the trained adapter play the same held-out tasks.
`--bfcl N` also has base and trained adapter answer N tasks of each of two categories of BFCL, with
that benchmark's own checker; `bfcl_world.py` says what it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftrl import call_program
from real_world import DEMONSTRATIONS, HELD_OUT, TRAIN, write_world
from toolmaster import read_event
from trustee.evaluation.evaluate import Gain, gain_between, success_of
from trustee.runs.store import read_lines
from trustee.types import Record, Trajectory

ROOT = Path(__file__).parents[1]
CATEGORIES = ("simple_python", "multiple")
OUTCOME = "outcome.json"
HELD_OUT_ENVIRONMENTS = 200
"""Environments from which the held-out tasks are drawn."""
NEVER = 1_000_000
"""Value of `reserve_one_in` that keeps no environment for evaluation: those have their own file."""
WORLD = """\
[model]
path = {model}

[env]
kind = "bfcl_world:Bfcl"
category = "{category}"
prompts = "tiny"

[rollout.limits]
turns = 1
tokens = 128
seconds = 3600
turn_seconds = 1800

[eval]
tasks = {tasks}
parallel = 64
"""


class Sizes(Record, frozen=True):
    """How much is done."""

    demonstrations: int = 32
    steps: int = 1000
    minutes: float = 60.0
    """Minutes of reinforcement learning at most."""
    tasks: int = 100
    """Held-out tasks."""
    environments: int = 600
    """Environments for training."""


QUICK = Sizes(demonstrations=8, steps=1, tasks=8, environments=40)


def list_changes(world: Path, *, model: str, seed: int, sizes: Sizes) -> list[str]:
    """Return the changes of the config that make it train in a folder's environments."""
    return [
        f"model.path={json.dumps(model)}",
        f"run.seed={seed}",
        f"run.steps={sizes.steps}",
        f"run.minutes={sizes.minutes}",
        'env.kind="executable"',
        f"env.path={json.dumps(str(world / TRAIN))}",
        'env.prompts="tiny"',
        # By F1 one right call of two pays 2/3, and a wrong second one beside it 1/2.
        'env.variant="recall"',
        f"env.reserve_one_in={NEVER}",
        'eval_env.kind="executable"',
        f"eval_env.path={json.dumps(str(world / HELD_OUT))}",
        'eval_env.prompts="tiny"',
        "eval_env.reserve_one_in=1",
        f"eval.tasks={sizes.tasks}",
        # Questions, calls and answers here are short.
        "engine.context=1280",
        "rollout.limits.turns=3",
        "rollout.limits.tokens=80",
    ]


def as_options(changes: Sequence[str]) -> list[str]:
    """Return changes as options of the command line."""
    return [part for change in changes for part in ("--set", change)]


def train(
    folder: Path,
    config: Path,
    changes: Sequence[str],
    *,
    sizes: Sizes,
    seed: int,
    allowed: Sequence[str],
) -> None:
    """Write the world, imitate, train, and play the held-out tasks with the base.

    What the folder has already is not done again. `allowed` are changes that evaluation needs too,
    because a run folder alone cannot weaken what protects.
    """
    world, imitated, trained = folder / "world", folder / "sft", folder / "run"
    if not world.exists():
        write_world(
            world,
            seed=seed,
            train=sizes.environments,
            held_out=max(sizes.tasks, HELD_OUT_ENVIRONMENTS),
            demonstrations=sizes.demonstrations,
            prompts="tiny",
        )
    options = as_options(changes)
    shown = str(world / DEMONSTRATIONS)
    begin = ("sft", str(config), shown, "--out", str(imitated), *options)
    do_stage(imitated, begin, resume=("sft", "--resume", str(imitated)))
    begin = ("run", "--config", str(config), "--adapter", str(imitated), "--out", str(trained))
    do_stage(trained, (*begin, *options), resume=("run", "--resume", str(trained)))
    if not (trained / "eval-adapter.jsonl").exists():
        call_program("eval", str(trained), *as_options(allowed))


def do_stage(folder: Path, begin: Sequence[str], *, resume: Sequence[str]) -> None:
    """Run a command to its end, from where it stopped if it did; nothing if it is finished."""
    if not (folder / OUTCOME).exists():
        call_program(*(resume if folder.exists() else begin))


def read_played(path: Path) -> tuple[Trajectory, ...]:
    """Read the episodes of one policy."""
    return tuple(read_lines(path, Trajectory))


def in_points(gain: Gain) -> list[float]:
    """Return a gain in points with its 95 % interval."""
    return [round(value, 1) for value in (gain.points, gain.low, gain.high)]


def spent(folder: Path) -> float:
    """Return the minutes that a stage took, measurements of its own included."""
    return float(json.loads((folder / OUTCOME).read_text())["seconds"]) / 60


def summarise(folder: Path, *, model: str) -> dict[str, Any]:
    """Return the result line from what the stages have left in their folders.

    Minutes are those of imitation and of the run, with its two measurements on held-out tasks.
    """
    run = folder / "run"
    base, sft, after = (
        read_played(run / name)
        for name in ("eval-base.jsonl", "held-out-before.jsonl", "held-out-after.jsonl")
    )
    outcome = json.loads((run / OUTCOME).read_text())
    gain, over_sft = gain_between(base, after), gain_between(sft, after)
    return {
        "bench": "real_learning",
        "model": Path(model).name,
        "before": round(success_of(base).value, 4),
        "sft": round(success_of(sft).value, 4),
        "after": round(success_of(after).value, 4),
        "interval": in_points(gain)[1:],
        "gain_points": in_points(gain)[0],
        "sft_gain": in_points(gain_between(base, sft)),
        "rl_gain": in_points(over_sft),
        "tasks": success_of(after).count,
        "steps": outcome["steps"],
        "sft_minutes": round(spent(folder / "sft"), 1),
        "minutes": round(spent(folder / "sft") + spent(run), 1),
    }


def measure_bfcl(
    run: Path, scratch: Path, *, model: str, tasks: int, allowed: Sequence[str]
) -> dict[str, Any]:
    """Return the share of BFCL's tasks that base and trained adapter solve, by category."""
    found = {}
    for category in CATEGORIES:
        world = scratch / f"{category}.toml"
        world.write_text(WORLD.format(model=json.dumps(model), category=category, tasks=tasks))
        result = read_event("eval", str(run), "--world", str(world), *as_options(allowed))
        gain = result["gain"]
        found[category] = {
            "before": round(result["base"]["value"], 4),
            "after": round(result["trained"]["value"], 4),
            "gain": [round(gain[key], 1) for key in ("points", "low", "high")],
            "tasks": result["base"]["count"],
        }
    return found


def prepare_bfcl(scratch: Path) -> None:
    """Let the commands find the benchmark's world, and fail early if the benchmark is missing.

    Raises:
        InputError: if it cannot be imported.
    """
    os.environ.setdefault("BFCL_PROJECT_ROOT", str(scratch))
    known = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "bench"), known)))
    from bfcl_world import load_benchmark

    load_benchmark()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or hub id of a published model")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "small-cpu.toml")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--minutes", type=float, help="of reinforcement learning; default 60")
    parser.add_argument("--tasks", type=int, help="held-out tasks; default 100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfcl", type=int, metavar="N", help="tasks of each category of BFCL")
    parser.add_argument("--quick", action="store_true", help="one step, to see whether it runs")
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs, and goes on")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    given = {key: getattr(options, key) for key in ("minutes", "tasks")}
    sizes = resize(QUICK if options.quick else Sizes(), given)
    with tempfile.TemporaryDirectory() as scratch:
        if options.bfcl:
            prepare_bfcl(Path(scratch))
        folder = (options.keep or Path(scratch) / "runs").absolute()
        changes = [
            *list_changes(folder / "world", model=options.model, seed=options.seed, sizes=sizes),
            *options.changes,
        ]
        allowed: list[str] = options.changes
        train(folder, options.config, changes, sizes=sizes, seed=options.seed, allowed=allowed)
        line = summarise(folder, model=options.model)
        if options.bfcl:
            line["bfcl"] = measure_bfcl(
                folder / "run",
                Path(scratch),
                model=options.model,
                tasks=options.bfcl,
                allowed=allowed,
            )
    if options.json:
        print(json.dumps(line))
        return
    for key, value in line.items():
        print(f"{key:<12} {value}")


def resize(sizes: Sizes, given: dict[str, Any]) -> Sizes:
    """Return sizes with those that were given."""
    return Sizes(
        **{
            name: getattr(sizes, name) if given.get(name) is None else given[name]
            for name in Sizes.__struct_fields__
        }
    )


if __name__ == "__main__":
    main()

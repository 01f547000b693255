"""TRUSTEE as its authors published it beside ours, on the built-in model: which teaches better?

    python bench/published.py --keep FOLDER --seeds 4 --json
    python bench/published.py --rejudge FOLDER --json

First form: `trustee run` with each mapping of the curriculum and each verdict rule, two by two, as
often as there are seeds, seed by seed; what the folder has already is not done again. Success is
that of the micro-world's oracle on the same held-out tasks. The gates are off in every arm, because
the built-in judge without facts does not pass them. Second form: no training, but every verdict
rule on the episodes of those runs, against the oracle (`verdict_rules.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import anyio
import msgspec
import structlog

from trustee.environments.micro.environment import HiddenGoals
from trustee.environments.micro.world import said_facts
from trustee.evaluation.evaluate import share_of
from trustee.runs.store import EpisodeLine, read_lines
from trustee.types import Record, Task, Trajectory
from verdict_rules import measure_rules, reread

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "tiny.toml"
ARMS = tuple(
    f"{mapping}/{verdict}"
    for mapping in ("even", "published")
    for verdict in ("facts", "published")
)
GATES_OFF = ("gates.false_accepts=none", "gates.false_refuses=none", "gates.agreement=0.0")
"""With an agreement of 0 the judge is compared with the oracle, but never stops a run."""
OUTCOME = "outcome.json"
AGREEMENT = re.compile(
    r"judge against the truth after: .*?(\d+) of (\d+) bad episodes accepted, "
    r"(\d+) of (\d+) good ones refused"
)
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365)
"""Student's quantiles for 95 %, by degrees of freedom from 1."""


class Sizes(Record, frozen=True):
    """How much is done."""

    seeds: int = 4
    steps: int = 24
    tasks: int = 300
    """Held-out tasks."""


QUICK = Sizes(seeds=1, steps=1, tasks=16)


def list_changes(arm: str, *, seed: int, sizes: Sizes) -> list[str]:
    """Return the changes of the config that make an arm's run."""
    mapping, verdict = arm.split("/")
    return [
        f"run.seed={seed}",
        f"run.steps={sizes.steps}",
        "run.minutes=none",
        f"eval.tasks={sizes.tasks}",
        f'env.verdict="{verdict}"',
        f'env.curriculum.mapping="{mapping}"',
        *GATES_OFF,
    ]


def folder_of(keep: Path, arm: str, seed: int) -> Path:
    """Return the folder of a run."""
    return keep / arm.replace("/", "-") / f"seed-{seed}"


def train(folder: Path, changes: Sequence[str]) -> None:
    """Run `trustee run` to its end, from where it stopped if it did; nothing if it is finished.

    What it says is kept beside the folder, because the judge's agreement stands there alone.
    """
    if (folder / OUTCOME).exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("checkpoints/*/")):
        begin, given = ["--resume", str(folder)], list(GATES_OFF)
    else:
        begin, given = ["--config", str(CONFIG), "--out", str(folder)], list(changes)
    sets = [part for change in given for part in ("--set", change)]
    with folder.with_suffix(".log").open("a") as log:
        subprocess.run(
            [sys.executable, "-m", "trustee", "run", *begin, *sets],
            check=True,
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )


def name_stratum(task: Task) -> str:
    """Return how many calls a held-out task takes, and whether its query leaves out a value."""
    hidden = msgspec.convert(task.hidden, HiddenGoals)
    words = task.messages[-1].content.split()
    wanted = [v for goal in hidden.goals[: hidden.told] for v in goal.call.arguments.values()]
    missing = any(str(value) not in words for value in wanted)
    calls = "one call" if len(hidden.goals) == 1 else "two calls"
    return f"{calls}, missing value" if missing else calls


def claims_without_calls(played: Trajectory) -> bool:
    """Whether the policy reported a fact and called nothing."""
    messages = [turn.message for turn in played.turns]
    return bool(said_facts(messages)) and not any(message.calls for message in messages)


def read_run(folder: Path) -> dict[str, Any]:
    """Return the figures of a finished run."""
    tasks = {task.id: task for task in read_lines(folder / "held-out-tasks.jsonl", Task)}
    before = list(read_lines(folder / "held-out-before.jsonl", Trajectory))
    after = [t for t in read_lines(folder / "held-out-after.jsonl", Trajectory) if not t.failure]
    strata: dict[str, list[bool]] = defaultdict(list)
    for one in after:
        strata[name_stratum(tasks[one.task_id])].append(one.success)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "before": share_of([t.success for t in before if not t.failure]).value,
        "after": fmean(t.success for t in after),
        "strata": {name: (sum(won), len(won)) for name, won in sorted(strata.items())},
        "claims": fmean(claims_without_calls(t) for t in after),
        "judge": read_agreement(folder.with_suffix(".log")),
        "flat": share_flat(folder),
        "difficulty": [int(row["difficulty"]) for row in metrics],
        "reward": [round(row["reward"], 3) for row in metrics],
        "tasks": len(after),
        "steps": len(metrics),
    }


def read_agreement(log: Path) -> list[int] | None:
    """Return how many bad episodes the judge accepted, of how many, and good ones it refused."""
    found = AGREEMENT.findall(log.read_text()) if log.exists() else []
    return [int(number) for number in found[-1]] if found else None


def share_flat(folder: Path) -> float:
    """Return the share of training groups whose valid episodes all have the same reward."""
    rewards: dict[int, list[float]] = defaultdict(list)
    for line in read_lines(folder / "episodes.jsonl", EpisodeLine):
        if line.trajectory.failure is None:
            rewards[line.group].append(line.trajectory.reward)
    whole = [given for given in rewards.values() if len(given) > 1]
    return fmean(len(set(given)) == 1 for given in whole) if whole else 0.0


def spread(values: Sequence[float]) -> list[float]:
    """Return a mean with Student's 95 % interval, or alone if there is one value."""
    mean = fmean(values)
    if len(values) < 2:
        return [mean]
    quantile = T_95[min(len(values) - 1, len(T_95)) - 1]
    half = quantile * stdev(values) / math.sqrt(len(values))
    return [mean, mean - half, mean + half]


def compare_arms(after: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return each effect in points over the seeds that all arms have, with its interval.

    The effect of `mapping` is published less even, that of `verdict` published less facts, each the
    mean over the other's two values; `interaction` is how much the two together exceed their sum.
    """
    seeds = range(min(len(values) for values in after.values()))
    if not seeds:
        return {}
    a, b, c, d = ([100 * after[arm][seed] for seed in seeds] for arm in ARMS)
    rows = list(zip(a, b, c, d, strict=True))
    effects = {
        "mapping": [(p + q - x - y) / 2 for x, y, p, q in rows],
        "verdict": [(y + q - x - p) / 2 for x, y, p, q in rows],
        "interaction": [q - p - y + x for x, y, p, q in rows],
    }
    return {name: [round(v, 1) for v in spread(values)] for name, values in effects.items()}


def summarise(runs: Mapping[str, Sequence[dict[str, Any]]], *, sizes: Sizes) -> dict[str, Any]:
    """Return the result line: success per seed in `arms`, the rest by arm."""
    some = {arm: list(found) for arm, found in runs.items() if found}

    def by_arm(key: str, digits: int) -> dict[str, list[float]]:
        return {arm: [round(run[key], digits) for run in found] for arm, found in some.items()}

    return {
        "bench": "published",
        "arms": {arm: [round(run["after"], 4) for run in runs[arm]] for arm in ARMS},
        "mean": {
            arm: [round(100 * v, 1) for v in spread([run["after"] for run in found])]
            for arm, found in some.items()
        },
        "effects": compare_arms({arm: [run["after"] for run in runs[arm]] for arm in ARMS}),
        "before": by_arm("before", 4),
        "strata": {
            arm: add_strata([run["strata"] for run in found]) for arm, found in some.items()
        },
        "judge": {arm: [run["judge"] for run in found] for arm, found in some.items()},
        "claims_without_calls": by_arm("claims", 4),
        "flat_groups": by_arm("flat", 3),
        "difficulty": {
            arm: [run["difficulty"][::6] for run in found] for arm, found in some.items()
        },
        "reward": {
            arm: [[run["reward"][0], run["reward"][-1]] for run in found]
            for arm, found in some.items()
        },
        "steps": sizes.steps,
        "tasks": sizes.tasks,
        "gates": "off",
    }


def add_strata(runs: Sequence[Mapping[str, tuple[int, int]]]) -> dict[str, list[float]]:
    """Return each stratum's share of success over all runs, with the number of episodes."""
    won: dict[str, int] = defaultdict(int)
    count: dict[str, int] = defaultdict(int)
    for run in runs:
        for name, (successes, episodes) in run.items():
            won[name] += successes
            count[name] += episodes
    return {name: [round(won[name] / count[name], 3), count[name]] for name in sorted(count)}


def find_finished(keep: Path, seeds: int) -> dict[str, list[Path]]:
    """Return the finished runs of each arm, up to the first seed that is missing."""
    finished: dict[str, list[Path]] = {arm: [] for arm in ARMS}
    for arm, found in finished.items():
        for seed in range(seeds):
            folder = folder_of(keep, arm, seed)
            if not (folder / OUTCOME).exists():
                break
            found.append(folder)
    return finished


def resize(sizes: Sizes, **given: int | None) -> Sizes:
    """Return sizes with those that were given."""
    changes = {name: value for name, value in given.items() if value is not None}
    return msgspec.structs.replace(sizes, **changes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train or judge again, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, help="runs of each arm; default 4")
    parser.add_argument("--steps", type=int, help="optimiser steps of a run; default 24")
    parser.add_argument("--tasks", type=int, help="held-out tasks; default 300")
    parser.add_argument("--quick", action="store_true", help="one step, to see whether it runs")
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs, and goes on")
    parser.add_argument("--only-read", action="store_true", help="summarise what is finished")
    parser.add_argument("--rejudge", type=Path, metavar="FOLDER", help="judge kept runs' episodes")
    parser.add_argument(
        "--stored", action="store_true", help="with --rejudge: use the verdicts that runs stored"
    )
    parser.add_argument("--episodes", type=int, default=400, help="of each kind, to judge again")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    sizes = resize(
        QUICK if options.quick else Sizes(),
        seeds=options.seeds,
        steps=options.steps,
        tasks=options.tasks,
    )
    if options.rejudge:
        finished = find_finished(options.rejudge, sizes.seeds)
        if options.stored:
            alone = [f for arm in ARMS if arm.endswith("/published") for f in finished[arm]]
            line = {"bench": "verdict_rules", "stored": True, **reread(alone)}
        else:
            folders = [folder for found in finished.values() for folder in found]
            line = anyio.run(measure_rules, CONFIG, folders, options.episodes)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            keep = (options.keep or Path(scratch)).absolute()
            if not options.only_read:
                for seed in range(sizes.seeds):
                    for arm in ARMS:
                        changes = list_changes(arm, seed=seed, sizes=sizes)
                        train(folder_of(keep, arm, seed), changes)
            finished = find_finished(keep, sizes.seeds)
            runs = {arm: [read_run(folder) for folder in found] for arm, found in finished.items()}
            line = summarise(runs, sizes=sizes)
    if options.json:
        print(json.dumps(line))
        return
    for key, value in line.items():
        print(f"{key:<22} {value}")


if __name__ == "__main__":
    # Standard output is for the figures alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    main()

"""What a report says of a run: read from its folder, without drawing anything."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trustee.decoding import open_file
from trustee.errors import InputError
from trustee.evaluation.evaluate import SuccessRate
from trustee.pages.answers import find_marks, flatten, read_episode
from trustee.pages.library import EPISODES, Library, OpenRun, name_run
from trustee.pages.measured import Measured, Pairing, pair
from trustee.runs.curves import TIMING, Row
from trustee.runs.standing import Standing, is_run, read_record
from trustee.types import Record

PAIRS = (("base", "adapter"), ("before", "after"))
"""Files of held-out episodes that are held against each other, the best first."""
TRAINED = ("adapter", "after")
"""Files of the trained policy's held-out episodes, the best first."""
HASHED = ("run.json", "metrics.jsonl", "tasks.jsonl", "episodes.jsonl", "outcome.json")
SHOWN = 5
"""Differences that are shown as conversations, of each kind."""
PIECE = 1 << 20


class Difference(Record, frozen=True):
    """One held-out task as two policies played it."""

    task: str
    first: Row
    """Answer of `read_episode`."""
    second: Row
    by: float
    """Reward of the second less that of the first."""


class Costs(Record, frozen=True):
    """What a run took."""

    seconds: float | None
    steps: int
    episodes: int
    parts: Mapping[str, float]
    """Seconds of all steps, by part."""
    tokens: Mapping[str, float]
    """Tokens by role."""
    memory: float
    """Most bytes in use after a micro-batch; 0 if that was not recorded."""


class Findings(Record, frozen=True):
    """What is known of one run."""

    name: str
    folder: Path
    standing: Standing
    record: Row
    """`run.json`."""
    measured: Mapping[str, SuccessRate]
    """Success on held-out tasks, by file of episodes."""
    success: Mapping[str, bool | None]
    """Whether the trained policy solved each held-out task; None where its episode failed."""
    against: tuple[str, str] | None
    """Names of the two files that `pairing` holds against each other."""
    pairing: Pairing | None
    better: Sequence[Difference]
    """Tasks that the second policy played better, the clearest first."""
    worse: Sequence[Difference]
    steps: Sequence[Row]
    interim: Sequence[Row]
    """Held-out success by step, where it was measured in training."""
    marks: Sequence[Row]
    costs: Costs
    hashes: Mapping[str, str]
    """SHA-256 of files, by their place in the folder."""
    problems: Sequence[str]


def find_out(folder: Path) -> Findings:
    """Read a run folder for a report.

    Raises:
        InputError: if it is not a run folder.
    """
    if not is_run(folder):
        raise InputError(
            f"{folder} is not a run folder; give a folder that trustee run has written"
        )
    library = Library([folder])
    run = name_run(folder)
    opened = library.open(run)
    standing = opened.standing()
    measured: dict[str, Measured] = {}
    for name in opened.files():
        if name != "episodes":
            measured[name] = opened.measured(name)
            measured[name].advance()
    against = next((names for names in PAIRS if {*names} <= {*measured}), None)
    pairing = None
    differences: list[Difference] = []
    if against is not None:
        first, second = (measured[name] for name in against)
        pairing = pair(first.success, second.success)
        differences = find_differences(library, run, against, first=first, second=second)
    steps = opened.curves.steps()
    return Findings(
        name=folder.resolve().name,
        folder=folder,
        standing=standing,
        record=read_record(folder / "run.json", []),
        measured={name: share for name, one in measured.items() if (share := one.share())},
        success=next((measured[n].success for n in TRAINED if n in measured), {}),
        against=against,
        pairing=pairing,
        better=[one for one in differences if one.by > 0][:SHOWN],
        worse=[one for one in reversed(differences) if one.by < 0][:SHOWN],
        steps=steps,
        interim=opened.curves.interim(),
        marks=find_marks(opened),
        costs=count_costs(steps, standing.seconds),
        hashes=hash_files(opened),
        problems=standing.problems,
    )


def find_differences(
    library: Library, run: str, against: tuple[str, str], *, first: Measured, second: Measured
) -> list[Difference]:
    """Return the tasks at both ends of the order by difference of reward, best first."""
    shared = [
        task
        for task in first.success.keys() & second.success.keys()
        if first.success[task] is not None and second.success[task] is not None
    ]

    def order(task: str) -> tuple[float, float, str]:
        """A task that was won or lost comes before one whose reward alone differs."""
        won = float(bool(second.success[task])) - float(bool(first.success[task]))
        return -won, first.reward[task] - second.reward[task], task

    ordered = sorted(shared, key=order)
    chosen = ordered if len(ordered) <= 2 * SHOWN else ordered[:SHOWN] + ordered[-SHOWN:]
    found = []
    for task in chosen:
        try:
            episodes = [
                read_episode(library, run, name, measured.rows[task])
                for name, measured in zip(against, (first, second), strict=True)
            ]
        except InputError:
            continue  # its line is damaged; the list of problems says so
        by = second.reward[task] - first.reward[task]
        found.append(Difference(task=task, first=episodes[0], second=episodes[1], by=by))
    return found


def count_costs(steps: Sequence[Row], seconds: float | None) -> Costs:
    """Return what all steps took together."""
    tokens = dict(next((step["tokens"] for step in reversed(steps) if step.get("tokens")), {}))
    tokens["policy"] = sum(
        _number(step.get("episodes")) * _number(step.get("completion_tokens")) for step in steps
    )
    return Costs(
        seconds=seconds,
        steps=len(steps),
        episodes=int(sum(_number(step.get("episodes")) for step in steps)),
        parts={part: sum(_number(step.get(part)) for step in steps) for part in TIMING},
        tokens={role: _number(count) for role, count in tokens.items()},
        memory=max((_number(step.get("memory")) for step in steps), default=0.0),
    )


def hash_files(opened: OpenRun) -> dict[str, str]:
    """Return the hashes of a run's files and of its newest adapter."""
    folder = opened.folder
    names = [*HASHED, *(file for files in EPISODES.values() for file in files)]
    adapters = sorted(folder.glob("adapters/*/adapter_model.safetensors"))[-1:]
    paths = [folder / name for name in dict.fromkeys(names)] + adapters
    return {
        str(path.relative_to(folder)): hash_file(path)
        for path in paths
        if path.is_file() and path.resolve().is_relative_to(folder.resolve())
    }


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: if it cannot be read.
    """
    digest = hashlib.sha256()
    with open_file(path, error=lambda why: InputError(f"{path} {why}")) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def config_of(findings: Findings) -> dict[str, Any]:
    """Return the settings of a run by dotted key."""
    return flatten(findings.record.get("config", {}))


def hash_config(findings: Findings) -> str:
    """Return a hash of a run's settings, by which two runs are known to have had the same."""
    told = msgspec.json.encode(findings.record.get("config", {}), order="deterministic")
    return hashlib.sha256(told).hexdigest()


def _number(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and isinstance(value, int | float) else 0.0

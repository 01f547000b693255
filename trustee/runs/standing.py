"""What a run folder is and how it stands, read without changing it.

A folder may be under way, finished, interrupted, from elsewhere or broken in places. Whatever can
be read is told, and what cannot be read is named.
"""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

from trustee.decoding import decode_json, read_file
from trustee.errors import InputError
from trustee.runs.curves import Curves, Row
from trustee.runs.ownership import LOCK
from trustee.types import Record

MOST_RECORD_BYTES = 8 << 20
"""Size of the largest `run.json` or result that is read."""
LATEST = "latest"
"""Name for the newest run of a folder."""
MOST_RUNS = 2000
"""Run folders that one folder is searched for."""
INTERRUPTED = 130
SIGNS = {
    "run.json": "run",
    "sft.json": "sft",
    "collection.json": "collect",
    "build.json": "build",
    "metrics.jsonl": "run",
    "episodes.jsonl": "run",
    "suite-base.jsonl": "suite",
}
"""Files that make a folder a run folder, with the command that writes them."""


class State(StrEnum):
    """How a run stands."""

    RUNNING = "under way"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    KILLED = "killed"
    """Nobody is at work in it, and it has neither a result nor a last word."""
    FOREIGN = "foreign"
    """It has no `run.json` that can be read."""


class Standing(Record, frozen=True):
    """A run folder as a line of a list."""

    folder: Path
    kind: str
    """The command that writes such a folder: run, sft, collect, build or suite."""
    state: State
    why: str
    """What was said at the end, if it did not end well."""
    began: float
    """Seconds since 1970."""
    changed: float
    """Time of the last change."""
    step: int
    steps: int | None
    """Steps that were asked for."""
    seconds: float | None
    """How long it took, if that is known."""
    model: str
    world: str
    before: float | None
    """Held-out success before training."""
    after: float | None
    gain: Row | None
    """`Gain` of the result, in percentage points."""
    reward: tuple[float | None, ...]
    """Reward by step."""
    process: int | None
    """Id of the process that is at work."""
    problems: tuple[str, ...]


def is_run(folder: Path) -> bool:
    """Return whether a folder looks like one that this program writes."""
    return any((folder / name).is_file() for name in SIGNS)


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders in a folder, or itself if it is one; also those inside other runs."""
    found = [folder] if is_run(folder) else []
    try:
        inner = sorted(path for path in folder.iterdir() if path.is_dir())[:MOST_RUNS]
    except OSError:
        inner = []
    for path in inner:
        if is_run(path):
            found.append(path)
            found += [path / name for name in ("teaching", "sft") if is_run(path / name)]
    return found


def find_latest(folder: Path) -> Path:
    """Return the newest run of a folder.

    Raises:
        InputError: if there is none.
    """
    runs = [path for path in find_runs(folder) if path != folder]
    if not runs:
        raise InputError(
            f"latest means the newest run in {folder}, and there is none; name a run folder"
        )
    return max(runs, key=lambda path: (_began(path, []), path.name))


def read_record(path: Path, problems: list[str]) -> Row:
    """Return a file that holds one JSON object; empty, with the problem told, if it is not one."""
    try:
        data = read_file(
            path, error=lambda why: InputError(f"{path.name} {why}"), most=MOST_RECORD_BYTES
        )
        return decode_json(data, Row, error=lambda why: InputError(f"{path.name}: {why}"))
    except InputError as error:
        problems.append(str(error))
        return {}


def read_standing(folder: Path, curves: Curves | None = None) -> Standing:
    """Return how a run folder stands."""
    problems: list[str] = []
    curves = curves or Curves(folder)
    curves.advance()
    kind = next((k for name, k in SIGNS.items() if (folder / name).is_file()), "run")
    for name in ("sft.json", "collection.json"):
        kind = SIGNS[name] if (folder / name).is_file() else kind
    record = read_record(folder / "run.json", problems) if kind != "build" else {}
    config = _table(record, "config")
    result = folder / "outcome.json"
    outcome = read_record(result, problems) if result.is_file() else {}
    process = find_writer(folder)
    steps = curves.steps()
    state, why = _judge(folder, curves, has_record=bool(record) or kind == "build", process=process)
    began = _began(folder, curves.events.rows)
    changed = last_change(folder)
    return Standing(
        folder=folder,
        kind=kind,
        state=state,
        why=why,
        began=began,
        changed=changed,
        step=int(steps[-1]["step"]) if steps else 0,
        steps=_whole(_table(config, "run").get("steps")),
        seconds=_number(outcome.get("seconds")) or (max(0.0, changed - began) or None),
        model=str(_table(config, "model").get("path", "")),
        world=str(_table(config, "env").get("kind", "")),
        before=_number(_table(outcome, "before").get("value")) or _success(folder, "before"),
        after=_number(_table(outcome, "after").get("value")),
        gain=_table(outcome, "gain") or None,
        reward=tuple(_number(step.get("reward")) for step in steps),
        process=process,
        problems=(*problems, *curves.problems),
    )


def _judge(
    folder: Path, curves: Curves, *, has_record: bool, process: int | None
) -> tuple[State, str]:
    """Return the state of a folder, and what was said at its end."""
    if process is not None:
        return State.RUNNING, ""
    ending = _last_word(curves)
    code, why = ending if ending else (None, "")
    if code == 0:
        return State.FINISHED, ""
    if code is not None:
        return (State.INTERRUPTED if code == INTERRUPTED else State.FAILED), why
    if any((folder / name).is_file() for name in ("outcome.json", "collected.json", "report.json")):
        return State.FINISHED, ""
    if not has_record:
        return State.FOREIGN, "there is no run.json that this program can read"
    return State.KILLED, "nobody is at work in it; trustee run --resume continues it"


def _last_word(curves: Curves) -> tuple[int, str] | None:
    """Return the exit code and text with which the last process ended; None if it told none."""
    for row in reversed(curves.events.rows):
        told = _table(row, "told")
        if told.get("event") == "ended":
            return _whole(told.get("code")) or 0, str(told.get("text", ""))
        if told.get("event") == "stage":
            return None
    for row in reversed(curves.log.rows):
        if row.get("event") == "ended":
            return _whole(row.get("code")) or 0, str(row.get("text", ""))
        if row.get("event") == "engine_ready":
            return None
    return None


def _success(folder: Path, label: str) -> float | None:
    """Return held-out success as far as it was measured, before there is a result."""
    path = folder / f"held-out-{label}.jsonl"
    if not path.is_file():
        return None
    from trustee.runs.episode_index import PASSED, EpisodeIndex

    index = EpisodeIndex(path, bare=True)
    index.advance()
    culprits = [
        c for c, f in zip(index.columns.culprit, index.columns.failed, strict=True) if not f
    ]
    return sum(c == PASSED for c in culprits) / len(culprits) if culprits else None


def find_writer(folder: Path) -> int | None:
    """Return the id of the process that is at work in a folder; None if there is none.

    The kernel's list of locks is read. Trying to take the lock would tell the same, but a run that
    begins at that moment would be refused.
    """
    path = folder / LOCK
    try:
        inode = path.stat().st_ino
        locks = read_file(Path("/proc/locks"), error=InputError).decode(errors="replace")
        holder = read_file(path, error=InputError, most=64).decode(errors="replace").strip()
    except (OSError, InputError):
        return None
    for line in locks.splitlines():
        parts = line.split()
        # 1: FLOCK  ADVISORY  WRITE 5828 fe:00:2146322 0 EOF
        if len(parts) >= 6 and parts[1] == "FLOCK" and parts[5].rpartition(":")[2] == str(inode):
            return int(parts[4]) if parts[4].lstrip("-").isdigit() else int(holder or 0)
    return None


def last_change(folder: Path) -> float:
    """Return the time of the last change of a folder's files."""
    times = []
    try:
        with os.scandir(folder) as entries:
            times = [e.stat(follow_symlinks=False).st_mtime for e in entries if e.name != LOCK]
    except OSError:
        pass
    return max(times, default=0.0)


def _began(folder: Path, events: list[Row]) -> float:
    """Return when a run began: by its first event, its name, or its oldest file."""
    for row in events[:1]:
        if (at := _number(row.get("at"))) is not None:
            return at
    try:
        return time.mktime(time.strptime(folder.name[:15], "%Y%m%d-%H%M%S"))
    except (ValueError, OverflowError):
        pass
    try:
        return min(path.stat().st_mtime for path in folder.iterdir() if path.is_file())
    except (OSError, ValueError):
        return 0.0


def _table(row: Row, key: str) -> dict[str, Any]:
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and isinstance(value, int | float) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None

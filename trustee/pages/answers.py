"""What the page asks of a run, as plain data: the answers of `server.py`, without HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.pages.library import EPISODES, Library, OpenRun
from trustee.pages.measured import pair
from trustee.runs.curves import Row
from trustee.runs.episode_index import TaskIndex
from trustee.runs.episode_search import MOST_ROWS, Wanted
from trustee.runs.standing import Standing, read_record

PIECE_SECONDS = 0.25
"""Time for which one request reads on; the page asks again until all is read."""
FIRST_SECONDS = 0.05
"""The same for the first request, so that the page has something to show at once."""
MARKS = {
    "out_of_memory": "memory",
    "checkpoint_broken": "alarm",
    "checkpoint_refused": "alarm",
    "sandbox_breach": "alarm",
    "lines_missing": "alarm",
    "engine_ready": "engine",
}
"""Events of `log.jsonl` that are marks in time, by the kind of mark."""
MOST_MARKS = 400
LONGEST_TEXT = 400
"""Letters of a task's first words in a table."""


def describe_runs(library: Library) -> list[Row]:
    """Return all runs, the newest first."""
    rows = []
    for run, folder in library.list_runs():
        standing = library.open(run).standing()
        rows.append({"id": run, "place": library.show_place(folder), **_show(standing)})
    return sorted(rows, key=lambda row: row["began"], reverse=True)


def _show(standing: Standing) -> Row:
    shown: Row = msgspec.to_builtins(standing, enc_hook=str)
    return shown


def describe_run(library: Library, run: str) -> Row:
    """Return a run: how it stands, what it was started with, what it measured."""
    opened = library.open(run)
    standing = opened.standing()
    problems: list[str] = []
    record = read_record(opened.folder / "run.json", problems)
    measured = {}
    for name in opened.files():
        if name != "episodes":
            results = opened.measured(name)
            results.advance()
            measured[name] = results.share()
    pairing = None
    for first, second in (("base", "adapter"), ("before", "after")):
        if first in measured and second in measured:
            pairing = pair(opened.measured(first).success, opened.measured(second).success)
    torn = [part for part in opened.curves.parts if part.torn]
    return {
        "id": run,
        "place": library.show_place(opened.folder),
        "path": str(opened.folder),
        **_show(standing),
        "record": record,
        "files": opened.files(),
        "measured": measured,
        "pairing": pairing,
        "torn": bool(torn) and standing.process is None,
        "interim": opened.curves.interim(),
        "marks": find_marks(opened),
        "moved": _last_moved(opened),
    }


def describe_steps(library: Library, run: str, after: int) -> Row:
    """Return the figures of the steps after one."""
    opened = library.open(run)
    with opened.lock:
        opened.curves.advance()
        steps = opened.curves.steps()
    return {"steps": [step for step in steps if step["step"] > after], "count": len(steps)}


def find_marks(opened: OpenRun) -> list[Row]:
    """Return what happened in a run besides its steps, in time."""
    marks: list[Row] = []
    for row in opened.curves.events.rows:
        told, at = row.get("told"), row.get("at")
        if not isinstance(told, dict):
            continue
        match told.get("event"):
            case "stage":
                marks.append({"at": at, "kind": "stage", "text": told.get("name", "")})
            case "note":
                kind = told.get("about") or "note"
                marks.append({"at": at, "kind": kind, "text": told.get("text", "")})
            case "rolled_back":
                text = f"rolled back to version {told.get('to')}: {told.get('why', '')}"
                marks.append({"at": at, "kind": "rollback", "text": text, "to": told.get("to")})
            case "ended":
                kind = "stage" if told.get("code") == 0 else "alarm"
                text = told.get("text") or "ended well"
                marks.append({"at": at, "kind": kind, "text": text})
    has_events = bool(marks)
    for row in opened.curves.log.rows:
        event = row.get("event")
        kinds = MARKS | ({} if has_events else {"rolled_back": "rollback", "ended": "alarm"})
        if isinstance(event, str) and event in kinds:
            said = row.get("change") or row.get("why") or row.get("text") or row.get("path") or ""
            text = f"{event.replace('_', ' ')}{': ' if said else ''}{said}"
            at = _seconds_of(row.get("timestamp"))
            marks.append({"at": at, "kind": kinds[event], "text": text})
    marks = [mark for mark in marks if isinstance(mark["at"], int | float)]
    return sorted(marks, key=lambda mark: float(mark["at"]))[-MOST_MARKS:]


def _seconds_of(stamp: object) -> float | None:
    """Return the time of a line of the log, in seconds since 1970."""
    try:
        return datetime.fromisoformat(str(stamp)).timestamp()
    except (ValueError, OverflowError):
        return None


def _last_moved(opened: OpenRun) -> Row | None:
    """Return how far the present stage is, if it tells."""
    for row in reversed(opened.curves.events.rows[-50:]):
        told = row.get("told")
        if isinstance(told, dict) and told.get("event") in ("moved", "stage", "step", "ended"):
            return told if told.get("event") == "moved" else None
    return None


def list_episodes(
    library: Library, run: str, file: str, wanted: Wanted, *, begin: int, count: int
) -> Row:
    """Return a page of the episodes that match, and how much of the file was looked at."""
    opened = library.open(run)
    index, tasks = opened.episodes(file)
    seconds = PIECE_SECONDS if len(index.columns) else FIRST_SECONDS
    complete = index.advance(seconds)
    # Rows are shown before their tasks are found; an order or a text needs all of them.
    complete = tasks.advance(seconds if wanted.needs_no_task else float("inf")) and complete
    search = opened.search(file, wanted)
    searched = search.advance(PIECE_SECONDS)
    rows = [
        {**index.describe(row), **_show_task(tasks, index.columns.group[row])}
        for row in search.page(max(0, begin), min(MOST_ROWS, max(1, count)))
    ]
    return {
        "rows": rows,
        "matching": len(search.rows),
        "episodes": len(index.columns),
        "looked_at": search.looked_at,
        "read_share": round(index.read_share, 4),
        "complete": complete and searched,
        "facets": index.facets(),
        "problem": index.problem,
        "problems": [*index.problems, *tasks.problems],
        "bad": index.bad,
        "torn": index.torn if complete else 0,
    }


def _show_task(tasks: TaskIndex, group: int) -> Row:
    """Return what a table shows of a task."""
    try:
        task = tasks.read(group)
    except InputError:
        task = None
    if task is None:
        return {"difficulty": None, "query": None}
    said = [
        str(message.get("content", ""))
        for message in task.get("messages") or ()
        if isinstance(message, dict) and message.get("role") == "user"
    ]
    query = said[0] if said else ""
    return {"difficulty": task.get("difficulty"), "query": query[:LONGEST_TEXT]}


def read_episode(
    library: Library, run: str, file: str, row: int, *, with_tokens: bool = False
) -> Row:
    """Return one episode with its task and the rows of its group.

    Token ids and logprobs are left out unless they are asked for: they are most of its bytes.

    Raises:
        InputError: if there is no such episode, or its line is damaged.
    """
    opened = library.open(run)
    index, tasks = opened.episodes(file)
    index.advance(PIECE_SECONDS)
    tasks.advance()
    line = decode_json(index.read(row), Row, error=InputError)
    played: Any = line if index.bare else line.get("trajectory")
    if not isinstance(played, dict):
        raise InputError(f"row {row} of {index.path.name} holds no episode")
    group = index.columns.group[row]
    if not with_tokens:
        _leave_out_tokens(played)
    return {
        "figures": index.describe(row),
        "trajectory": played,
        "rejected": line.get("rejected"),
        "task": tasks.read(group),
        "members": [] if index.bare else index.find_group(group),
        "episodes": len(index.columns),
        "others": _same_task(opened, file, str(played.get("task_id", ""))),
    }


def _leave_out_tokens(played: Row) -> None:
    for turn in played.get("turns") or ():
        if isinstance(turn, dict):
            turn.pop("rendered_ids", None)
            completion = turn.get("completion")
            if isinstance(completion, dict):
                completion.pop("ids", None)
                completion.pop("logprobs", None)


def _same_task(opened: OpenRun, file: str, task: str) -> dict[str, int]:
    """Return the row of the same held-out task in the run's other files."""
    others = {}
    for name in opened.files():
        if file != "episodes" and name not in ("episodes", file):
            results = opened.measured(name)
            results.advance()
            if task in results.rows:
                others[name] = results.rows[task]
    return others


def find_task(library: Library, run: str, file: str, task: str) -> Row:
    """Return the row of a held-out task in a file of episodes.

    Raises:
        InputError: if it was not played there.
    """
    opened = library.open(run)
    if file not in opened.files():
        raise InputError(f"this run has no episodes called {file!r}")
    results = opened.measured(file)
    results.advance()
    if task not in results.rows:
        raise InputError(f"{task!r} was not played there")
    return {"row": results.rows[task]}


def compare_runs(library: Library, runs: Sequence[str]) -> Row:
    """Return what runs differ in: settings, and success on the held-out tasks that they share."""
    opened = [library.open(run) for run in runs]
    tables = [flatten(read_record(one.folder / "run.json", []).get("config", {})) for one in opened]
    keys = sorted({key for table in tables for key in table})
    different = [
        {"key": key, "values": [[table[key]] if key in table else [] for table in tables]}
        for key in keys
        if len({repr(table.get(key, tables)) for table in tables}) > 1
    ]
    pairings = []
    results = []
    for one in opened:
        name = next((n for n in ("adapter", "after") if n in one.files()), None)
        measured = one.measured(name) if name else None
        if measured:
            measured.advance()
        results.append(measured)
    for at, measured in enumerate(results[1:], 1):
        first = results[0]
        pairing = pair(first.success, measured.success) if first and measured else None
        pairings.append({"run": runs[at], "pairing": pairing})
    return {
        "runs": [
            {
                "id": run,
                "place": library.show_place(one.folder),
                **_show(one.standing()),
                "trained": result.share() if result else None,
                "interim": one.curves.interim(),
            }
            for run, one, result in zip(runs, opened, results, strict=True)
        ],
        "same": len(keys) - len(different),
        "different": different,
        "pairings": pairings,
    }


def flatten(table: object, path: str = "") -> dict[str, object]:
    """Return the values of nested tables by dotted key."""
    if not isinstance(table, dict):
        return {path: table}
    flat: dict[str, object] = {}
    for key, value in table.items():
        flat |= flatten(value, f"{path}.{key}".removeprefix("."))
    return flat


def signature(opened: OpenRun) -> tuple[object, ...]:
    """Return what changes when a run's files change."""
    names = ["metrics.jsonl", "timing.jsonl", "events.jsonl", "log.jsonl", "outcome.json", ".lock"]
    found: list[object] = []
    for name in (*names, *(file for file, _ in EPISODES.values())):
        try:
            status = (opened.folder / name).stat()
            found.append((status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)

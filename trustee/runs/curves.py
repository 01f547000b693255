"""The figures of a run by step, from `metrics.jsonl`, `timing.jsonl` and `events.jsonl`.

Each file is read once, and then only what it grew by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.runs.event_log import EVENTS
from trustee.runs.following import LineFollower

Row = dict[str, Any]
MOST_PROBLEMS = 20
"""Bad lines of a file that are named."""
TIMING = ("waited_s", "train_s", "publish_s", "checkpoint_s")
"""Parts of a step's time."""


class Rows:
    """The rows of a file of JSON objects, as far as it was written."""

    def __init__(self, path: Path) -> None:
        self._lines = LineFollower(path)
        self.rows: list[Row] = []
        self.problems: list[str] = []

    def advance(self) -> bool:
        """Read what is new; return whether there was anything."""
        if self._lines.look():
            self.rows, self.problems = [], []
        before = len(self.rows), len(self.problems)
        try:
            for line in self._lines.read_new():
                self._add(line.number, line.data)
        except InputError as error:
            self._complain(str(error))
        return before != (len(self.rows), len(self.problems))

    @property
    def torn(self) -> int:
        """Bytes of a last line that is not whole."""
        return self._lines.torn

    def _add(self, number: int, data: bytes | None) -> None:
        name = self._lines.path.name
        if data is None:
            self._complain(f"{name}:{number}: too long")
        elif data.strip():
            try:
                self.rows.append(decode_json(data, Row, error=InputError))
            except InputError as error:
                self._complain(f"{name}:{number}: {error}")

    def _complain(self, problem: str) -> None:
        if len(self.problems) < MOST_PROBLEMS and problem not in self.problems:
            self.problems.append(problem)


class Curves:
    """All figures of a run, one row per step."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Rows(folder / "metrics.jsonl")
        self.timing = Rows(folder / "timing.jsonl")
        self.events = Rows(folder / EVENTS)
        self.log = Rows(folder / "log.jsonl")

    @property
    def parts(self) -> tuple[Rows, ...]:
        """The files."""
        return self.metrics, self.timing, self.events, self.log

    def advance(self) -> bool:
        """Read what is new in all files; return whether there was anything."""
        grown = [part.advance() for part in self.parts]
        return any(grown)

    @property
    def problems(self) -> list[str]:
        """What could not be read."""
        return [problem for part in self.parts for problem in part.problems]

    def steps(self) -> list[Row]:
        """Return a row per step, with its figures, its times and the rates of its tokens.

        Where a step was taken twice, because a run went on from an earlier checkpoint, the later
        one counts.
        """
        timing = {_step_of(row): row for row in self.timing.rows}
        at = {_step_of(row): time for row, time in _told(self.events.rows, "step", "sft_step")}
        by_step: dict[int, Row] = {}
        for row in self.metrics.rows:
            by_step[_step_of(row)] = row
        steps: list[Row] = []
        before: Row = {}
        for number in sorted(by_step):
            if number < 0:
                continue
            spent = timing.get(number, {})
            step = {**by_step[number], "at": at.get(number)}
            step |= {name: spent.get(name) for name in TIMING}
            step["rates"] = _rates(by_step[number], spent, before)
            step["tokens"] = spent.get("tokens")
            step["memory"] = spent.get("memory")
            before = spent.get("tokens") or before
            steps.append(step)
        return steps

    def interim(self) -> list[Row]:
        """Return held-out success by step, from before training on; empty if only ends are known.

        Where a step was measured twice, the later measurement counts.
        """
        by_step: dict[int, Row] = {}
        for told, _ in _told(self.events.rows, "held_out"):
            numbers = [told.get(name) for name in ("success", "low", "high")]
            if all(isinstance(number, int | float) for number in numbers):
                by_step[_step_of(told)] = {
                    "step": _step_of(told),
                    "label": told.get("label"),
                } | dict(zip(("success", "low", "high"), numbers, strict=True))
        rows = [by_step[step] for step in sorted(by_step) if step >= 0]
        return rows if len(rows) > 2 else []


def _step_of(row: Row) -> int:
    step = row.get("step")
    return step if isinstance(step, int) else -1


def _told(rows: list[Row], *kinds: str) -> list[tuple[Row, float]]:
    """Return the events of some kinds with their times."""
    found = []
    for row in rows:
        told, at = row.get("told"), row.get("at")
        if isinstance(told, dict) and told.get("event") in kinds and isinstance(at, int | float):
            found.append((told, float(at)))
    return found


def _rates(figures: Row, spent: Row, before: Row) -> Row:
    """Return tokens a second by role, over the time of one step."""
    seconds = 0.0
    for name in TIMING:
        value = spent.get(name)
        seconds += value if isinstance(value, int | float) else 0.0
    if seconds <= 0:
        return {}
    rates = {}
    counts = spent.get("tokens")
    for role, count in counts.items() if isinstance(counts, dict) else ():
        earlier = before.get(role, 0)
        if isinstance(count, int | float) and isinstance(earlier, int | float):
            rates[str(role)] = round(max(0.0, count - earlier) / seconds, 1)
    episodes, tokens = figures.get("episodes"), figures.get("completion_tokens")
    if isinstance(episodes, int | float) and isinstance(tokens, int | float):
        rates["policy"] = round(episodes * tokens / seconds, 1)
    return rates

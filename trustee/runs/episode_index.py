"""An index of a file of episodes: where each begins, and a few figures to find it by.

A file of 100,000 episodes has hundreds of megabytes; the index has about 60 bytes for each. It is
built a piece at a time, so what was indexed can be shown while the rest is read, and it grows with
the file. Episodes themselves are read from the file when they are asked for.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.runs.curves import MOST_PROBLEMS, Row
from trustee.runs.following import LineFollower, read_span
from trustee.types import Role

ROLES = tuple(Role)
PASSED = len(ROLES)
"""Number that stands for no culprit."""
MOST_TOOLS = 500
"""Tools that are offered as a filter, the most called first."""


class _Call(msgspec.Struct):
    name: str = ""


class _Message(msgspec.Struct):
    calls: tuple[_Call, ...] = ()


class _Completion(msgspec.Struct):
    version: int = 0
    ids: msgspec.Raw = msgspec.Raw(b"[]")


class _Turn(msgspec.Struct):
    completion: _Completion
    message: _Message


class _Outcome(msgspec.Struct, frozen=True):
    success: bool | None = None


class _Failure(msgspec.Struct):
    source: Role


class _Played(msgspec.Struct):
    """What the index needs of a trajectory; the rest of it is passed over."""

    turns: tuple[_Turn, ...]
    rewards: dict[str, float] = {}
    outcome: _Outcome = _Outcome()
    failure: _Failure | None = None


class _Line(msgspec.Struct):
    """A line of `episodes.jsonl`."""

    trajectory: _Played
    group: int = -1
    member: int = -1


class Columns:
    """The figures of all episodes, one array for each; a row is an episode's place in the file."""

    def __init__(self) -> None:
        self.begin = array("Q")
        self.length = array("Q")
        self.group = array("q")
        self.member = array("q")
        self.version = array("q")
        self.reward = array("d")
        self.turns = array("q")
        self.tokens = array("q")
        self.culprit = array("B")
        """Place in `ROLES` of the part that failed, or `PASSED`."""
        self.failed = array("B")
        """Whether a part other than the policy failed, so that there is no reward."""
        self.called = array("L")
        """Place of the set of called tools in `EpisodeIndex.tool_sets`."""

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.begin)


class EpisodeIndex:
    """An index of one file of episodes, bare or each with its group. Threads may share it."""

    def __init__(self, path: Path, *, bare: bool = False) -> None:
        self.path = path
        self.bare = bare
        """Whether lines are trajectories alone, as those of held-out tasks."""
        self.lock = threading.RLock()
        self._lines = LineFollower(path)
        self.generation = 0
        """Number of times that the file was begun anew."""
        self._clear()

    def _clear(self) -> None:
        self.columns = Columns()
        self.tool_sets: list[frozenset[str]] = []
        self._places: dict[frozenset[str], int] = {}
        self.tool_counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.bad = 0

    @property
    def read_share(self) -> float:
        """How much of the file is indexed, from 0 to 1."""
        size, torn = self._lines.size, self._lines.torn
        return 1.0 if size == 0 else (size - torn) / size

    @property
    def torn(self) -> int:
        """Bytes of a last line that is not whole, once the rest is indexed."""
        return self._lines.torn

    @property
    def problem(self) -> str | None:
        """Why the file cannot be read at all."""
        return self._lines.problem

    def advance(self, seconds: float = float("inf")) -> bool:
        """Index what is new for at most about so long; return whether that was all."""
        with self.lock:
            if self._lines.look():
                self.generation += 1
                self._clear()
            until = time.monotonic() + seconds
            try:
                for line in self._lines.read_new():
                    self._add(line.begin, line.number, line.data)
                    if time.monotonic() > until:
                        return False
            except InputError as error:
                self._complain(str(error))
            return True

    def _add(self, begin: int, number: int, data: bytes | None) -> None:
        if data is None:
            self._complain(f"line {number} is too long")
            return
        if not data.strip():
            return
        try:
            line = (
                _Line(trajectory=decode_json(data, _Played, error=InputError))
                if self.bare
                else decode_json(data, _Line, error=InputError)
            )
        except InputError as error:
            self._complain(f"line {number}: {error}")
            return
        columns, played = self.columns, line.trajectory
        group = len(columns) if self.bare else line.group
        reward = sum(played.rewards.values())
        success = reward > 0 if played.outcome.success is None else played.outcome.success
        columns.begin.append(begin)
        columns.length.append(len(data))
        columns.group.append(_bound(group))
        columns.member.append(_bound(line.member))
        versions = [turn.completion.version for turn in played.turns]
        columns.version.append(_bound(min(versions, default=0)))
        columns.reward.append(reward)
        columns.turns.append(len(played.turns))
        columns.tokens.append(sum(_count(turn.completion.ids) for turn in played.turns))
        columns.failed.append(played.failure is not None)
        culprit = PASSED if success else ROLES.index(Role.POLICY)
        columns.culprit.append(ROLES.index(played.failure.source) if played.failure else culprit)
        columns.called.append(self._place_tools(played))

    def _place_tools(self, played: _Played) -> int:
        called = frozenset(c.name for turn in played.turns for c in turn.message.calls if c.name)
        self.tool_counts.update(called)
        place = self._places.get(called)
        if place is None:
            place = self._places[called] = len(self.tool_sets)
            self.tool_sets.append(called)
        return place

    def _complain(self, problem: str) -> None:
        self.bad += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"{self.path.name}: {problem}")

    def read(self, row: int) -> bytes:
        """Return the line of an episode.

        Raises:
            InputError: if there is no such row, or the file has changed.
        """
        with self.lock:
            if not 0 <= row < len(self.columns):
                raise InputError(
                    f"{self.path.name} has {len(self.columns)} episodes; there is no row {row}"
                )
            begin, length = self.columns.begin[row], self.columns.length[row]
        return read_span(self.path, begin, length)

    def describe(self, row: int) -> Row:
        """Return the figures of an episode, as the table shows them."""
        columns = self.columns
        culprit = columns.culprit[row]
        return {
            "row": row,
            "group": columns.group[row],
            "member": columns.member[row],
            "version": columns.version[row],
            "reward": None if columns.failed[row] else columns.reward[row],
            "turns": columns.turns[row],
            "tokens": columns.tokens[row],
            "blame": None if culprit == PASSED else str(ROLES[culprit]),
            "failed": bool(columns.failed[row]),
            "tools": sorted(self.tool_sets[columns.called[row]]),
        }

    def find_group(self, group: int) -> list[int]:
        """Return the rows of a group, by member."""
        with self.lock:
            columns = self.columns
            rows = [row for row, number in enumerate(columns.group) if number == group]
            return sorted(rows, key=columns.member.__getitem__)

    def facets(self) -> Row:
        """Return what the filters can be set to."""
        with self.lock:
            culprits = Counter(self.columns.culprit)
            return {
                "tools": self.tool_counts.most_common(MOST_TOOLS),
                "blame": {str(ROLES[at]): n for at, n in culprits.items() if at != PASSED},
                "versions": [
                    min(self.columns.version, default=0),
                    max(self.columns.version, default=0),
                ],
            }


class _Grouped(msgspec.Struct):
    difficulty: int = 0


class _TaskLine(msgspec.Struct):
    group: int
    task: _Grouped | None = None


class TaskIndex:
    """Where the task of each group is in `tasks.jsonl`, and how difficult it is."""

    def __init__(self, path: Path, *, bare: bool = False) -> None:
        self.path = path
        self.bare = bare
        """Whether lines are tasks alone, as those of held-out tasks."""
        self.lock = threading.RLock()
        self._lines = LineFollower(path)
        self.problems: list[str] = []
        self.places: dict[int, tuple[int, int, int]] = {}
        """Begin, length and difficulty, by group."""

    def advance(self, seconds: float = float("inf")) -> bool:
        """Index what is new for at most about so long; return whether that was all."""
        with self.lock:
            if self._lines.look():
                self.places, self.problems = {}, []
            until = time.monotonic() + seconds
            try:
                for line in self._lines.read_new():
                    if line.data is not None:
                        self._add(line.begin, line.number, line.data)
                    if time.monotonic() > until:
                        return False
            except InputError as error:
                self.problems.append(str(error))
            return True

    def _add(self, begin: int, number: int, data: bytes) -> None:
        try:
            if self.bare:
                group, task = len(self.places), decode_json(data, _Grouped, error=InputError)
            else:
                row = decode_json(data, _TaskLine, error=InputError)
                if row.task is None:
                    return
                group, task = row.group, row.task
        except InputError as error:
            if len(self.problems) < MOST_PROBLEMS:
                self.problems.append(f"{self.path.name}:{number}: {error}")
            return
        self.places[group] = (begin, len(data), task.difficulty)

    def read(self, group: int) -> dict[str, Any] | None:
        """Return the task of a group as it is on disk; None if there is none.

        Raises:
            InputError: if the file has changed.
        """
        with self.lock:
            place = self.places.get(group)
        if place is None:
            return None
        row = decode_json(read_span(self.path, *place[:2]), Row, error=InputError)
        task = row if self.bare else row.get("task")
        return task if isinstance(task, dict) else None

    def difficulty(self, group: int) -> int | None:
        """Return how difficult the task of a group is, if it is known."""
        place = self.places.get(group)
        return None if place is None else place[2]


Pick = Callable[[int], float]
"""Gives the value of a row by which a table is sorted."""


def _bound(number: int) -> int:
    """Return a number that an array holds; strangers' files may have any."""
    return max(-(1 << 62), min(1 << 62, number))


def _count(ids: msgspec.Raw) -> int:
    """Return the number of entries of a flat JSON array."""
    text = bytes(ids).strip()
    return 0 if len(text) <= 2 else text.count(b",") + 1

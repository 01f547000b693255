"""Finding episodes in an index: by figures at once, by text a piece of the file at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.runs.episode_index import PASSED, ROLES, EpisodeIndex, TaskIndex
from trustee.runs.following import read_span
from trustee.runs.view import parse_reward
from trustee.types import Record, Role

SortKey = Literal[
    "row", "group", "version", "reward", "turns", "tokens", "difficulty", "blame", "member"
]
MOST_ROWS = 200
"""Rows of one page."""


class Wanted(Record, frozen=True):
    """Which episodes; a condition of None matches all."""

    version: int | None = None
    group: int | None = None
    reward: str | None = None
    """A reward or a comparison, such as `1` or `>0`."""
    blame: str | None = None
    """A role; `none` for success."""
    tool: str | None = None
    text: str | None = None
    """Words in the conversation, its task or its notes; letters large or small."""
    sort: SortKey = "row"
    descending: bool = True

    def __post_init__(self) -> None:
        """Refuse conditions that cannot match.

        Raises:
            InputError: for an unknown role or an unreadable reward.
        """
        if self.blame is not None and self.blame not in {*Role, "none"}:
            raise InputError(f"blame {self.blame!r}: give none or one of {', '.join(Role)}")
        if self.reward is not None:
            parse_reward(self.reward)

    @property
    def needs_no_task(self) -> bool:
        """Whether matching and order can be told without the episodes' tasks."""
        return self.text is None and self.sort != "difficulty"


class Search:
    """The rows of an index that match, in order; with a text it is found out bit by bit."""

    def __init__(self, index: EpisodeIndex, tasks: TaskIndex, wanted: Wanted) -> None:
        self.wanted = wanted
        self._index = index
        self._tasks = tasks
        self.rows: list[int] = []
        self._next = 0
        """First row that was not looked at."""
        self._generation = index.generation
        self._task_texts: dict[int, str] = {}
        self._sorted = 0

    @property
    def looked_at(self) -> int:
        """Number of episodes that were looked at."""
        return self._next

    def advance(self, seconds: float = float("inf")) -> bool:
        """Look at episodes for at most about so long; return whether all indexed were looked at."""
        with self._index.lock:
            if self._generation != self._index.generation:
                self._generation, self._next, self.rows = self._index.generation, 0, []
                self._task_texts = {}
            fits, until = self._condition(), time.monotonic() + seconds
            text = (self.wanted.text or "").casefold()
            for row in range(self._next, len(self._index.columns)):
                self._next = row + 1
                if fits(row) and (not text or text in self._text_of(row)):
                    self.rows.append(row)
                if row % 64 == 0 and time.monotonic() > until:
                    return False
            return True

    def page(self, begin: int, count: int) -> list[int]:
        """Return a part of the rows found so far, in the order that is wanted."""
        with self._index.lock:
            if self.wanted.sort == "row":
                rows = self.rows[::-1] if self.wanted.descending else self.rows
                return rows[begin : begin + count]
            key = self._key()
            ordered = sorted(self.rows, key=key, reverse=self.wanted.descending)
            return ordered[begin : begin + count]

    def _key(self) -> Callable[[int], float]:
        columns, tasks = self._index.columns, self._tasks
        match self.wanted.sort:
            case "reward":
                # An episode without a reward comes last in both directions of interest: below all.
                return lambda row: -1e308 if columns.failed[row] else columns.reward[row]
            case "difficulty":
                return lambda row: tasks.difficulty(columns.group[row]) or 0
            case "blame":
                return columns.culprit.__getitem__
            case "row":
                return float
            case name:
                column: Callable[[int], float] = getattr(columns, name).__getitem__
                return column

    def _condition(self) -> Callable[[int], bool]:
        wanted, columns = self.wanted, self._index.columns
        tests: list[Callable[[int], bool]] = []
        if wanted.version is not None:
            tests.append(lambda row: columns.version[row] == wanted.version)
        if wanted.group is not None:
            tests.append(lambda row: columns.group[row] == wanted.group)
        if wanted.blame is not None:
            culprit = PASSED if wanted.blame == "none" else ROLES.index(Role(wanted.blame))
            tests.append(lambda row: columns.culprit[row] == culprit)
        if wanted.reward is not None:
            passes = parse_reward(wanted.reward)
            tests.append(lambda row: not columns.failed[row] and passes(columns.reward[row]))
        if wanted.tool is not None:
            tool, sets = wanted.tool, self._index.tool_sets
            tests.append(lambda row: tool in sets[columns.called[row]])
        return lambda row: all(test(row) for test in tests)

    def _text_of(self, row: int) -> str:
        """Return what is searched of an episode."""
        columns, path = self._index.columns, self._index.path
        group = columns.group[row]
        if group not in self._task_texts:
            if len(self._task_texts) > 10_000:
                self._task_texts.clear()
            self._task_texts[group] = "\n".join(self._read_task(group)).casefold()
        try:
            line = read_span(path, columns.begin[row], columns.length[row])
            said = (
                decode_json(line, _Said, error=InputError)
                if self._index.bare
                else decode_json(line, _SaidLine, error=InputError).trajectory
            )
        except InputError:
            return ""
        return self._task_texts[group] + "\n" + "\n".join(said.texts()).casefold()

    def _read_task(self, group: int) -> Iterator[str]:
        try:
            task = self._tasks.read(group) or {}
        except InputError:
            return
        for message in task.get("messages") or ():
            if isinstance(message, dict):
                yield str(message.get("content", ""))
        yield str(task.get("hidden", ""))


class _SaidMessage(msgspec.Struct):
    content: str = ""
    thinking: str = ""
    calls: msgspec.Raw = msgspec.Raw(b"")


class _SaidTurn(msgspec.Struct):
    message: _SaidMessage
    replies: tuple[_SaidMessage, ...] = ()


class _SaidFailure(msgspec.Struct):
    message: str = ""


class _Said(msgspec.Struct):
    """The texts of a trajectory."""

    turns: tuple[_SaidTurn, ...]
    notes: msgspec.Raw = msgspec.Raw(b"")
    failure: _SaidFailure | None = None

    def texts(self) -> Iterator[str]:
        """Yield all texts, in their order."""
        for turn in self.turns:
            for message in (turn.message, *turn.replies):
                yield message.thinking
                yield message.content
                yield bytes(message.calls).decode(errors="replace")
        yield bytes(self.notes).decode(errors="replace")
        yield self.failure.message if self.failure else ""


class _SaidLine(msgspec.Struct):
    trajectory: _Said

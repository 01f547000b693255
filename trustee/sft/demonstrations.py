"""Demonstrations of tasks to imitate: what a row is once it has been read.

`demonstration_files.py` reads them, `forms/` converts those that others wrote, `consistency.py`
checks them, `samples.py` renders them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trustee.types import Message, Record, Tool, Trajectory

SHOWN_ROWS = 3
"""Maximum number of rows that a message about a whole file names."""


class Demonstration(Record, frozen=True):
    """One conversation; every message of role `assistant` is imitated, unless it is only shown."""

    task_id: str
    tools: tuple[Tool, ...]
    messages: tuple[Message, ...]
    """All messages that the policy sees and writes, from the first on."""
    shown_only: tuple[int, ...] = ()
    """Places in `messages` of messages of the assistant that are context and not imitated."""
    notes: dict[str, Any] = {}
    """Information for human readers; the program never reads it."""


Example = Demonstration | Trajectory


class RefusedRow(Record, frozen=True):
    """A row that is not used."""

    row: int
    """Line number in the file, or place in its array, from 1."""
    reason: str


class MendedRow(Record, frozen=True):
    """A row that is used after a change."""

    row: int
    change: str


class ExampleRow(Record, frozen=True):
    """A row that was read."""

    row: int
    example: Example


class ExampleFile(Record, frozen=True):
    """The contents of a file."""

    rows: tuple[ExampleRow, ...]
    refused: tuple[RefusedRow, ...]
    mended: tuple[MendedRow, ...] = ()


def show_refused_rows(refused: Sequence[RefusedRow]) -> str:
    """Return the first reasons as text."""
    return _show([(one.row, one.reason) for one in refused]) if refused else "it is empty"


def show_mended_rows(mended: Sequence[MendedRow]) -> str:
    """Return the first changes as text."""
    return _show([(one.row, one.change) for one in mended])


def _show(rows: Sequence[tuple[int, str]]) -> str:
    text = "; ".join(f"row {row}: {said}" for row, said in rows[:SHOWN_ROWS])
    left = len(rows) - SHOWN_ROWS
    return f"{text}; and {left} more" if left > 0 else text

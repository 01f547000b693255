"""The tasks of a world with a real server: rows that the user writes, each with its solution.

query   what the policy is asked
calls   list of {name, arguments}: what solves it, for the judge
id      name of the row; empty: its place in the file
hidden  anything a checker of the user's needs; the policy never sees it
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from trustee.environments.splits import is_held_out
from trustee.errors import InputError
from trustee.runs.rows import read_rows
from trustee.types import ExpectedCall, Record


class TaskRow(Record, frozen=True):
    """One task of the file."""

    query: str
    calls: tuple[ExpectedCall, ...] = ()
    id: str = ""
    hidden: dict[str, Any] = {}


class HiddenRow(Record, frozen=True):
    """What only the environment knows of a task."""

    query: str
    calls: tuple[ExpectedCall, ...]
    hidden: dict[str, Any]


def read_task_rows(path: Path, *, judged: bool) -> tuple[TaskRow, ...]:
    """Read the rows of a file.

    Args:
        path: JSON lines, an array or parquet.
        judged: whether the judge pays, who compares what was done with the calls of a row.

    Raises:
        InputError: naming the first row that cannot be used.
    """

    def refuse(why: str) -> InputError:
        return InputError(
            f"{path}: {why}; env.tasks is a file of rows such as "
            '{"query": "…", "calls": [{"name": "…", "arguments": {}}]}'
        )

    rows: list[TaskRow] = []
    for number, row in read_rows(path, error=refuse):
        if isinstance(row, InputError):
            raise refuse(f"row {number}: {row}")
        try:
            task = msgspec.convert(row, TaskRow)
        except msgspec.ValidationError as error:
            raise refuse(f"row {number}: {error}") from error
        if not task.query.strip():
            raise refuse(f"row {number}: query is empty")
        if judged and not task.calls:
            raise refuse(
                f"row {number}: calls is empty, and the judge compares what was done with them; "
                "give the calls that solve it, or a world of your own that scores"
            )
        rows.append(msgspec.structs.replace(task, id=task.id or f"row-{number}"))
    if not rows:
        raise refuse("no rows")
    if len({row.id for row in rows}) < len(rows):
        raise refuse("two rows have the same id")
    return tuple(rows)


def split_rows(
    rows: tuple[TaskRow, ...], *, one_in: int, held_out: bool, source: str
) -> tuple[TaskRow, ...]:
    """Return the rows for training, or those for evaluation: one in so many, by their queries.

    Raises:
        InputError: if none is left.
    """
    chosen = tuple(row for row in rows if is_held_out(row.query, one_in=one_in) == held_out)
    if not chosen:
        raise InputError(
            f"{source}: none of its {len(rows)} rows is "
            f"{'kept for evaluation' if held_out else 'left for training'} with "
            f"env.reserve_one_in = {one_in}; add rows or change it"
        )
    return chosen

"""Reading demonstrations from a file or a run folder.

Rows that cannot be imitated are refused with their number and the reason, and the rest is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from trustee.errors import InputError
from trustee.runs.rows import read_rows
from trustee.runs.store import EpisodeLine
from trustee.sft.consistency import mend_demonstration
from trustee.sft.demonstrations import (
    Example,
    ExampleFile,
    ExampleRow,
    MendedRow,
    RefusedRow,
    show_refused_rows,
)
from trustee.sft.forms import convert_row
from trustee.types import Trajectory


def find_demonstrations(path: Path) -> Path:
    """Return the file to read: the path itself, or the episodes or demonstrations in a folder."""
    if not path.is_dir():
        return path
    collected = path / "demonstrations.jsonl"
    return collected if collected.is_file() else path / "episodes.jsonl"


def read_demonstrations(path: Path) -> ExampleFile:
    """Read every row of a file, or of a run folder.

    Raises:
        InputError: if the file cannot be read, or no row of it can be used.
    """
    file = find_demonstrations(path)
    rows: list[ExampleRow] = []
    refused: list[RefusedRow] = []
    mended: list[MendedRow] = []

    def refuse(why: str) -> InputError:
        return InputError(f"{file}: {why}; give a file of demonstrations, or a run folder")

    for number, row in read_rows(file, error=refuse):
        try:
            example, changes = read_example(row)
        except InputError as error:
            refused.append(RefusedRow(row=number, reason=str(error)))
        else:
            rows.append(ExampleRow(row=number, example=example))
            mended += [MendedRow(row=number, change=change) for change in changes]
    if not rows:
        raise InputError(f"{file} holds nothing that can be imitated: {show_refused_rows(refused)}")
    return ExampleFile(rows=tuple(rows), refused=tuple(refused), mended=tuple(mended))


def read_example(row: dict[str, Any] | InputError) -> tuple[Example, list[str]]:
    """Read a demonstration in any form, a trajectory, or an episode, and what was changed in it.

    Raises:
        InputError: if it has none of the known forms or contradicts itself, or if it is an episode
            that failed or was not successful.
    """
    if isinstance(row, InputError):
        raise row
    if "trajectory" not in row and "turns" not in row:
        demonstration, changes = convert_row(row)
        mended, more = mend_demonstration(demonstration)
        return mended, changes + more
    try:
        if "trajectory" in row:
            trajectory = msgspec.convert(row, EpisodeLine).trajectory
        else:
            trajectory = msgspec.convert(row, Trajectory)
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from error
    if trajectory.failure is not None:
        raise InputError(f"the episode failed because of {trajectory.failure.source}")
    if trajectory.reward <= 0:
        raise InputError(f"the episode's reward is {trajectory.reward:g} and must be above 0")
    return trajectory, []

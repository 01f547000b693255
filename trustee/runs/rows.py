"""Rows of a file, whatever holds them: JSON lines, an array, one object, or parquet.

The form is recognised by content, never by the file's name. A row that cannot be read is given as
its error, so that one bad row costs nobody the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from trustee.decoding import BOM, decode_json, read_file
from trustee.errors import InputError

PARQUET = b"PAR1"
"""First bytes of a parquet file."""
MOST_FILE_BYTES = 1 << 40
"""Size of the largest file of rows."""

Row = dict[str, Any] | InputError


def read_rows(path: Path, *, give: str) -> Iterator[tuple[int, Row]]:
    """Yield each row with its number from 1: of its line, or of its place in an array.

    Args:
        path: the file.
        give: what the error about a file that cannot be read tells the user to give.

    Raises:
        InputError: if the file cannot be read.
    """
    data = read_file(
        path, error=lambda why: InputError(f"{path}: {why}; give {give}"), most=MOST_FILE_BYTES
    )
    if data.startswith(PARQUET):
        yield from _read_parquet(path)
        return
    data = data.removeprefix(BOM)
    lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    first = _decode_row(lines[0][1]) if lines else {}
    whole = _decode_whole(data) if isinstance(first, InputError) else None
    if whole is None:
        yield from ((number, _decode_row(line)) for number, line in lines)
    else:
        yield from enumerate(map(_decode_row, whole), 1)


def _decode_whole(data: bytes) -> list[msgspec.Raw] | None:
    """Return the rows of a file that is one array or one object; None where it is neither."""
    try:
        if data.lstrip().startswith(b"["):
            return decode_json(data, list[msgspec.Raw], error=InputError)
        return [decode_json(data, msgspec.Raw, error=InputError)]
    except InputError:
        return None


def _decode_row(data: bytes | msgspec.Raw) -> Row:
    text = data if isinstance(data, bytes) else bytes(data)
    try:
        return _as_row(decode_json(text, error=lambda why: InputError(f"not JSON: {why}")))
    except InputError as error:
        return error


def _as_row(value: Any) -> Row:
    if isinstance(value, dict):
        return value
    return InputError(f"must be a JSON object, is a {type(value).__name__}")


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise InputError(
            f"{path}: parquet needs the package pyarrow, which is not installed; install it, or "
            "give the rows as JSON lines"
        ) from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except arrow.ArrowInvalid as error:
        raise InputError(f"{path}: not a parquet file ({error})") from error
    for number, row in enumerate(rows, 1):
        yield number, _as_row(row)

"""Rows of a file, whatever holds them: JSON lines, an array, one object, or parquet.

The form is recognised by content, never by the file's name. A row that cannot be read is given as
its error, so that one bad row costs nobody the others.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from trustee.decoding import (
    BOM,
    BadLine,
    Failure,
    Line,
    decode_json,
    open_file,
    read_file,
    read_json_lines,
)
from trustee.errors import InputError

PARQUET = b"PAR1"
"""First bytes of a parquet file."""

Row = dict[str, Any] | InputError


def read_rows(path: Path, *, error: Failure) -> Iterator[tuple[int, Row]]:
    """Yield each row with its number from 1: of its line, or of its place in an array.

    Raises:
        Exception: `error` of why the file cannot be read.
    """
    with open_file(path, error=error) as file:
        is_parquet = file.read(len(PARQUET)) == PARQUET
    if is_parquet:
        yield from _read_parquet(path, error=error)
        return
    lines = read_json_lines(path, dict[str, Any], error=error, unended=True)
    first = next(lines, None)
    whole = _read_whole(path) if isinstance(first, BadLine) else None
    if isinstance(whole, InputError):
        # An array that is broken somewhere says where; a line of many says what it is itself.
        first = BadLine(1, str(whole))
    if isinstance(whole, list):
        yield from enumerate(whole, 1)
        return
    for line in itertools.chain([first] if first else [], lines):
        yield line.number, line.value if isinstance(line, Line) else InputError(line.why)


def _read_whole(path: Path) -> list[Row] | InputError | None:
    """Return the rows of a file that is one array or one object; None where it is neither."""
    data = b""
    try:
        data = read_file(path, error=InputError).removeprefix(BOM).strip()
        if not data:
            return []
        if not data.startswith(b"["):
            return [decode_json(data, dict[str, Any], error=InputError)]
        entries = decode_json(data, list[msgspec.Raw], error=InputError)
    except InputError as error:
        is_array = data.startswith(b"[") and data.endswith(b"]")
        return error if is_array and "trailing characters" not in str(error) else None
    return [_decode_row(bytes(entry)) for entry in entries]


def _decode_row(data: bytes) -> Row:
    try:
        return decode_json(data, dict[str, Any], error=InputError)
    except InputError as error:
        return error


def _read_parquet(path: Path, *, error: Failure) -> Iterator[tuple[int, Row]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ImportError as caught:
        raise error(
            "parquet needs the package pyarrow, which is not installed; install it, or give the "
            "rows as JSON lines"
        ) from caught
    try:
        rows = parquet.read_table(path).to_pylist()
    except arrow.ArrowInvalid as caught:
        raise error(f"not a parquet file ({caught})") from caught
    yield from enumerate(rows, 1)

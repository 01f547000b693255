"""Rows of a file: every form, and what one bad row costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trustee.errors import InputError
from trustee.runs.rows import read_rows

BOM = b"\xef\xbb\xbf"


def read(path: Path, data: bytes) -> list[tuple[int, Any]]:
    """Write bytes and read their rows; an error is given as its text."""
    path.write_bytes(data)
    rows = read_rows(path, error=lambda why: InputError(f"file: {why}"))
    return [(n, str(row) if isinstance(row, InputError) else row) for n, row in rows]


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}\n{"a": 2}\n',
        BOM + b'{"a": 1}\r\n{"a": 2}\r\n',
        b'[{"a": 1}, {"a": 2}]',
        BOM + b'\r\n[\r\n {"a": 1},\r\n {"a": 2}\r\n]\r\n',
        b'[{"a": 1},\n{"a": 2}]',
    ],
)
def test_forms(tmp_path: Path, data: bytes) -> None:
    """Lines and arrays, with or without the marks of other editors."""
    # A name says nothing.
    assert [(1, {"a": 1}), (2, {"a": 2})] == read(tmp_path / "x.csv", data)


def test_one_object_over_many_lines(tmp_path: Path) -> None:
    """A file that is one object is one row."""
    assert [(1, {"a": [1, 2]})] == read(
        tmp_path / "x", json.dumps({"a": [1, 2]}, indent=1).encode()
    )


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON|UTF-8"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": ' + b"[" * 5000, "not JSON|deeper"),
        (b'{"a": NaN}', "not JSON"),
        (b"[1]", "Expected `object`"),
        (b'{"a": "\\ud800"}', "not JSON"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_one_bad_line(tmp_path: Path, bad: bytes, why: str, first: bool) -> None:
    """A line that cannot be read is named, and the others are read."""
    lines = [bad, b'{"a": 1}'] if first else [b'{"a": 1}', bad]
    rows = dict(read(tmp_path / "x", b"\n".join(lines)))
    assert {"a": 1} == rows.pop(2 if first else 1)
    (reason,) = rows.values()
    assert any(part in reason for part in why.split("|"))


def test_one_bad_entry_of_an_array(tmp_path: Path) -> None:
    """An entry that is no object is named by its place."""
    (first, second, third) = read(tmp_path / "x", b'[{"a": 1}, 3, {"a": 2}]')
    assert ((1, {"a": 1}), (3, {"a": 2})) == (first, third)
    assert (2, "Expected `object`, got `int`") == second


def test_broken_array(tmp_path: Path) -> None:
    """An array that is no JSON says where it breaks."""
    assert "(line 2 column" in read(tmp_path / "x", b'[{"a": 1},\n{"b" 2}]')[0][1]


def test_empty_file(tmp_path: Path) -> None:
    """No rows are no error of this module's."""
    assert [] == read(tmp_path / "x", BOM + b"\n \n")
    assert [] == read(tmp_path / "x", b"[]")


def test_no_file(tmp_path: Path) -> None:
    """A folder or nothing at all is the caller's error."""
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match="file: "):
            list(read_rows(path, error=lambda why: InputError(f"file: {why}")))

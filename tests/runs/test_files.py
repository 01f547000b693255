"""Files that decide something are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NoReturn

import pytest

from golden_errors import ErrorCheck
from trustee.errors import RunError
from trustee.runs.files import write_file, write_json, write_lines


def test_file_is_replaced(tmp_path: Path) -> None:
    """The new content stands in place of the old one, and nothing else is left."""
    path = tmp_path / "outcome.json"
    for content in ({"steps": 1}, {"steps": 2, "folder": tmp_path}):
        write_json(path, content, indent=2)
    assert {"steps": 2, "folder": str(tmp_path)} == json.loads(path.read_bytes())
    write_lines(tmp_path / "rows.jsonl", [{"a": 1}, {"a": 2}])
    assert '{"a":1}\n{"a":2}\n' == (tmp_path / "rows.jsonl").read_text()
    assert {"outcome.json", "rows.jsonl"} == {entry.name for entry in tmp_path.iterdir()}


def test_file_that_cannot_be_written_whole_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_error: ErrorCheck
) -> None:
    """What was there before is there after a full disk, and the error names the file."""
    path = tmp_path / "outcome.json"
    write_json(path, {"steps": 1})

    def fail(handle: int) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError) as caught:
        write_json(path, {"steps": 2})
    check_error(caught, path, "No space left on device")
    assert {"steps": 1} == json.loads(path.read_bytes())


def test_link_beside_the_file_is_not_followed(tmp_path: Path) -> None:
    """A foreign folder cannot have another file written through the partial one's name."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".outcome.json.partial").symlink_to(victim)
    (tmp_path / "outcome.json").symlink_to(victim)
    write_file(tmp_path / "outcome.json", b"{}")
    assert ("mine", "{}") == (victim.read_text(), (tmp_path / "outcome.json").read_text())

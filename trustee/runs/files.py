"""Writing a file of a run folder completely or not at all.

Whatever later decides something is written this way: beside its place, synced, then renamed. Files
that only grow, line by line, are `store.Store`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from trustee.errors import RunError


def write_file(path: Path, data: bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        OSError: if it cannot be written; what was there before is untouched.
    """
    partial = path.with_name(f".{path.name}.partial")
    # A link under this name, which a foreign folder may hold, must not be followed.
    partial.unlink(missing_ok=True)
    with open(partial, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def write_json(path: Path, content: object, *, indent: int = 0) -> None:
    """Write one JSON value completely or not at all.

    Raises:
        RunError: if it cannot be written; what was there before is untouched.
    """
    data = msgspec.json.encode(content, enc_hook=str)
    _write(path, msgspec.json.format(data, indent=indent) if indent else data)


def write_text(path: Path, text: str) -> None:
    """Write a text completely or not at all.

    Raises:
        RunError: if it cannot be written; what was there before is untouched.
    """
    _write(path, text.encode())


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write a whole file of JSON lines completely or not at all.

    Raises:
        RunError: if it cannot be written; what was there before is untouched.
    """
    _write(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def _write(path: Path, data: bytes) -> None:
    try:
        write_file(path, data)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}; free some disk space or give write access, "
            "then repeat the command"
        ) from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

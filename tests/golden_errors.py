"""Whole error messages, kept in one golden file.

The one idea: a test says what its error must name, the file has the words. `TRUSTEE_GOLDEN=1`
writes what is said now; delete the file before to drop what no test asks for any more.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "data" / "golden" / "errors.json"


@cache
def read_golden() -> dict[str, str]:
    """Read the messages by test; each worker does so once."""
    known: dict[str, str] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return known


def write_golden(key: str, message: str) -> None:
    """Write one message; several workers may do so at once."""
    with GOLDEN.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = json.loads(file.read() or "{}") | {key: message}
        file.truncate(0)
        file.write(json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


class ErrorCheck:
    """Holds the errors of one test against the golden file."""

    def __init__(self, test: str, names_by_path: Mapping[str, str]) -> None:
        """Take the test's id, and names for the paths that differ from run to run."""
        self._test = test.removeprefix("tests/")
        self._names_by_path = names_by_path
        self._count = 0

    def __call__(
        self, caught: pytest.ExceptionInfo[BaseException] | str, named: object, *more: object
    ) -> None:
        """Assert that an error names what it must, and is the one in the golden file."""
        message = caught if isinstance(caught, str) else str(caught.value)
        assert [] == [str(part) for part in (named, *more) if str(part) not in message], message
        self._count += 1
        key = self._test if self._count == 1 else f"{self._test} {self._count}"
        for path, name in self._names_by_path.items():
            message = message.replace(path, name)
        if os.environ.get("TRUSTEE_GOLDEN"):
            write_golden(key, message)
        else:
            assert read_golden().get(key) == message, "TRUSTEE_GOLDEN=1 takes the new words"

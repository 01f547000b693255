"""Checking tools' sources, which strangers write, without giving them this process's time.

Some kilobytes of Python can keep a compiler busy for hours or fill gigabytes. So another process
compiles them, one after the other, and ends at a limit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from trustee.decoding import decode_json
from trustee.errors import InputError

MOST_SOURCE = 1_000_000
"""Maximum characters of one tool's source."""
SECONDS = 5.0
"""Maximum processor time for compiling one source."""
MEMORY = 1 << 30
"""Maximum address space of the process that compiles, in bytes."""
PROGRAM = Path(__file__).with_name("compile_source.py")


class SourceChecker:
    """A process that compiles sources, started at the first one; a context manager."""

    def __init__(self, *, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self._limits = (str(seconds), str(memory))
        self._seconds = seconds
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self._end()

    def check(self, name: str, source: str) -> None:
        """Refuse a source that is too long, does not compile or does not define its tool.

        Raises:
            InputError: naming the problem.
        """
        if len(source) > MOST_SOURCE:
            raise InputError(
                f"the source of {name} has {len(source)} characters; "
                f"at most {MOST_SOURCE} are allowed"
            )
        asked = json.dumps({"name": name, "source": source}).encode()
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(asked + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            self._end()
            raise InputError(
                f"the source of {name} cannot be compiled in {self._seconds:g} s and "
                f"{self._memory >> 20} MiB; make it smaller"
            )
        if flaw := decode_json(answer, str, error=InputError):
            raise InputError(f"the source of {name} {flaw}")

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROGRAM), *self._limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()

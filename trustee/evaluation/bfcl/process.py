"""Asking the benchmark's process: entries, what its tools answer, and whether calls are right."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from trustee.decoding import decode_json
from trustee.errors import InputError, RunError
from trustee.evaluation.bfcl.child import MISSING

VERSION = "2026.3.23"
"""Version of the package whose data and checkers these are."""
SECONDS = 300.0
"""Longest time of one answer; reading a category takes some seconds."""
MOST_BYTES = 512 << 20
"""Size of the longest answer; the largest category has 60 MB."""


class Benchmark:
    """The benchmark's process; one question at a time."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log
        assert process.stdout is not None
        self._answers = BufferedByteReceiveStream(process.stdout)
        self._lock = anyio.Lock()

    async def ask(self, act: str, **given: Any) -> Any:
        """Ask one question of `child.ACTS`.

        Raises:
            RunError: if the process ends or does not answer.
        """
        line = msgspec.json.encode({"act": act, **given}, enc_hook=str) + b"\n"
        async with self._lock:
            assert self._process.stdin is not None
            try:
                await self._process.stdin.send(line)
                found = await self.read()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise self.failure() from error
        return found["answer"]

    async def read(self) -> dict[str, Any]:
        """Read one line.

        Raises:
            RunError: if the process ends or does not answer.
        """
        try:
            with anyio.fail_after(SECONDS):
                line = await self._answers.receive_until(b"\n", MOST_BYTES)
        except (anyio.IncompleteRead, TimeoutError) as error:
            raise self.failure() from error
        return decode_json(line, dict[str, Any], error=RunError)

    def failure(self) -> RunError:
        """Return the error of a process that does not answer."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - 400))
            words = file.read().decode(errors="replace").strip()
        return RunError(f"the process of the benchmark BFCL no longer answers: {words}")


@asynccontextmanager
async def open_benchmark() -> AsyncIterator[Benchmark]:
    """Start the benchmark's process, and end it afterwards.

    Raises:
        InputError: if a package is missing.
    """
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        with log.open("wb") as words:
            process = await anyio.open_process(
                [sys.executable, "-m", "trustee.evaluation.bfcl.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env={**os.environ, "BFCL_PROJECT_ROOT": scratch},
            )
        async with process:
            try:
                benchmark = Benchmark(process, log)
                missing = (await benchmark.read()).get(MISSING)
                if missing:
                    raise InputError(
                        f"BFCL needs the package {missing}, which is not installed; run "
                        f"pip install --no-deps bfcl-eval=={VERSION} mpmath filelock "
                        "(its other dependencies are clients of vendors, which are not used)"
                    )
                yield benchmark
            finally:
                process.kill()


async def list_entries(benchmark: Benchmark, category: str) -> Sequence[dict[str, Any]]:
    """Return the entries of a category."""
    found: Sequence[dict[str, Any]] = await benchmark.ask("list_entries", category=category)
    return found

"""Asking the benchmark's process, several things at once."""

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

CHILD = Path(__file__).with_name("child.py")
START_SECONDS = 300.0
"""Longest time in which the process imports the benchmark."""
MOST_BYTES = 64 << 20
"""Size of the longest answer."""


class Tau2Process:
    """The process of the benchmark."""

    def __init__(self, process: Process, log: Path, *, secrets: Sequence[str]) -> None:
        self._process = process
        self._log = log
        self._secrets = [secret for secret in secrets if secret]
        assert process.stdout is not None
        self._answers = BufferedByteReceiveStream(process.stdout)
        self._pending: dict[int, anyio.Event] = {}
        self._found: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._ended = False

    async def read(self) -> dict[str, Any]:
        """Read one line.

        Raises:
            RunError: if the process has ended.
        """
        try:
            line = await self._answers.receive_until(b"\n", MOST_BYTES)
        except (anyio.IncompleteRead, anyio.EndOfStream) as error:
            raise self.failure() from error
        return decode_json(line, dict[str, Any], error=RunError)

    async def listen(self) -> None:
        """Hand out answers until the process ends; never returns otherwise."""
        try:
            while True:
                found = await self.read()
                self._found[found["number"]] = found
                self._pending[found["number"]].set()
        except RunError:
            self._ended = True
            for event in self._pending.values():
                event.set()

    async def ask(self, act: str, **given: Any) -> Any:
        """Ask one question of `child.ACTS`.

        Raises:
            RunError: if the process ends, or could not answer.
        """
        self._number += 1
        number = self._number
        answered = self._pending[number] = anyio.Event()
        line = msgspec.json.encode({"number": number, "act": act, **given}) + b"\n"
        assert self._process.stdin is not None
        try:
            if self._ended:
                raise self.failure()
            await self._process.stdin.send(line)
            await answered.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise self.failure() from error
        finally:
            del self._pending[number]
        found = self._found.pop(number, None)
        if found is None:
            raise self.failure()
        if "error" in found:
            raise RunError(f"tau2 could not {act}: {self._redact(found['error'])}")
        return found["answer"]

    def failure(self) -> RunError:
        """Return the error of a process that does not answer."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - 400))
            words = file.read().decode(errors="replace").strip()
        return RunError(
            f"the process of the benchmark tau2 no longer answers: {self._redact(words)}"
        )

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "...")
        return text


def find_python(checkout: Path) -> Path:
    """Return the Python that has the benchmark's dependencies: its own, or else this one."""
    own = checkout / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


@asynccontextmanager
async def open_tau2(
    checkout: Path, *, parallel: int, secrets: Sequence[str]
) -> AsyncIterator[Tau2Process]:
    """Start the benchmark's process, and end it afterwards.

    Args:
        checkout: folder of the benchmark's repository.
        parallel: questions that are worked on at once.
        secrets: what no error may show.

    Raises:
        InputError: if the folder is not the benchmark's, or a package is missing.
    """
    if not (checkout / "src" / "tau2").is_dir():
        raise InputError(
            f"--data {checkout} holds no src/tau2; give a checkout of "
            "github.com/sierra-research/tau2-bench (the package tau2 of PyPI is another one)"
        )
    # The process has a working directory of its own.
    checkout, python = checkout.absolute(), find_python(checkout)  # noqa: ASYNC240
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        with log.open("wb") as words:
            process = await anyio.open_process(
                [str(python), str(CHILD), str(checkout), str(parallel)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                cwd=scratch,
                env={
                    **os.environ,
                    "TAU2_DATA_DIR": str(checkout / "data"),
                    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                },
            )
        async with process:
            try:
                found = Tau2Process(process, log, secrets=secrets)
                with anyio.move_on_after(START_SECONDS) as starting:
                    missing = (await found.read()).get("missing")
                if starting.cancelled_caught:
                    raise found.failure()
                if missing:
                    raise InputError(
                        f"tau2 needs the package {missing}, which {python} does not have; run "
                        f"uv sync in {checkout}, which makes {checkout}/.venv"
                    )
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(found.listen)
                    yield found
                    tasks.cancel_scope.cancel()
            finally:
                process.kill()

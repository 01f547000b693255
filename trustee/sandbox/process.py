"""One worker process as the host sees it: frames out, frames in, an answer for every call.

A reader task passes each answer to the call that waits for it. When the process ends, for whatever
reason, every pending call raises `WorkerDied`; starting another process is up to the owner.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from typing import Any

import anyio
from anyio.abc import Process, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from trustee.decoding import decode_json
from trustee.sandbox.calls import SandboxConfig
from trustee.sandbox.isolation import Lock
from trustee.types import Record

HEADER = struct.Struct(">I")
START_SECONDS = 30.0
"""Maximum time for a worker to start; on an idle machine it takes a tenth of a second."""
END_SECONDS = 2.0
"""Maximum time for a worker to end its calls and exit before it is killed."""
SEND_SECONDS = 10.0
"""Maximum time for sending a frame."""


class WorkerAnswer(Record, frozen=True):
    """A worker's answer to a call."""

    id: int
    breach: str
    ok: bool = False
    text: str = ""
    denied: str = ""


class Hello(Record, frozen=True):
    """A worker's first message."""

    ready: bool = False
    refused: str = ""


class WorkerDied(ConnectionError):
    """The worker ended before it answered. Not raised outside this package."""


class WorkerProcess:
    """A started worker."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input = process.stdin
        self._output = BufferedByteReceiveStream(process.stdout)
        self._writing = anyio.Lock()
        self._ids = count()
        self._waiting: dict[int, tuple[anyio.Event, list[WorkerAnswer]]] = {}
        self.alive = True

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def begin(
        self,
        lock: Lock,
        sources: Mapping[str, str],
        *,
        published: bool,
        config: SandboxConfig,
        tasks: TaskGroup,
    ) -> str:
        """Send the tools; return why the worker could not isolate itself, or an empty string."""
        hello = Hello(refused="it did not start in time")
        with anyio.move_on_after(START_SECONDS):
            try:
                await self._send(
                    {
                        **lock.frame(),
                        "sources": dict(sources),
                        "published": published,
                        "seconds": config.seconds,
                        "cpu_seconds": config.cpu_seconds,
                        "memory_bytes": config.memory_mib << 20,
                        "output_bytes": config.output_bytes,
                    }
                )
                hello = decode_json(await self._receive(), Hello, error=WorkerDied)
            except WorkerDied:
                hello = Hello(refused="it ended before it was ready")
        if hello.ready:
            tasks.start_soon(self._read)
        else:
            await self.end()
        return hello.refused

    async def call(
        self, *, name: str, arguments: str, seed: int, seconds: float
    ) -> WorkerAnswer | None:
        """Make one call; return None if no answer comes in time.

        Raises:
            WorkerDied: if the worker ends first.
        """
        number, event = next(self._ids), anyio.Event()
        answers: list[WorkerAnswer] = []
        self._waiting[number] = event, answers
        try:
            with anyio.move_on_after(seconds):
                await self._send({"id": number, "seed": seed, "name": name, "arguments": arguments})
                await event.wait()
                if not answers:
                    raise WorkerDied
                return answers[0]
            return None
        finally:
            del self._waiting[number]

    async def end(self, *, gently: bool = True) -> None:
        """Close its input and wait (if `gently`); kill it on timeout; reap it."""
        self.alive = False
        with anyio.CancelScope(shield=True):
            with suppress(anyio.BrokenResourceError):
                await self._input.aclose()
            with anyio.move_on_after(END_SECONDS if gently else 0):
                await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
            await self._process.aclose()

    async def _send(self, frame: dict[str, Any]) -> None:
        """Write one frame, completely even if the caller is cancelled."""
        body = json.dumps(frame).encode()
        with anyio.CancelScope(shield=True):
            async with self._writing:
                with anyio.move_on_after(SEND_SECONDS):
                    try:
                        await self._input.send(HEADER.pack(len(body)) + body)
                        return
                    except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                        raise WorkerDied from error
        self.alive = False
        raise WorkerDied

    async def _receive(self) -> bytes:
        """Read one frame."""
        try:
            head = await self._output.receive_exactly(HEADER.size)
            return await self._output.receive_exactly(HEADER.unpack(head)[0])
        except (
            anyio.IncompleteRead,
            anyio.EndOfStream,
            anyio.BrokenResourceError,
            anyio.ClosedResourceError,
        ) as error:
            raise WorkerDied from error

    async def _read(self) -> None:
        """Pass answers to their calls until the worker ends."""
        try:
            while True:
                answer = decode_json(await self._receive(), WorkerAnswer, error=WorkerDied)
                event, answers = self._waiting.get(answer.id, (None, []))
                if event is not None:
                    answers.append(answer)
                    event.set()
        except WorkerDied:
            return
        finally:
            self.alive = False
            for event, _ in self._waiting.values():
                event.set()


async def start_process(lock: Lock) -> WorkerProcess:
    """Start a worker without tools; an interrupt from the terminal does not reach it.

    Raises:
        OSError: if its program cannot be started.
    """
    process = await anyio.open_process(
        lock.command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=lock.environment,
        cwd="/",
        start_new_session=True,
    )
    return WorkerProcess(process)

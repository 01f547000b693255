"""Telling trackers what a run measures, without ever waiting for one.

Each tracker has a process of its own, so that what it imports, prints, blocks or breaks stays
there. Between run and process stands a bounded queue: what a tracker cannot take in time is left
out and counted. At the end there is one deadline for all that is still queued.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from trustee.errors import InputError
from trustee.events import Emit, Event, HeldOutPlayed, Note, SftStepTrained, StepTrained
from trustee.sft.secrets import Secrets
from trustee.trackers.messages import (
    Begin,
    End,
    Failed,
    Figures,
    Message,
    Opened,
    Table,
    read_answer,
)
from trustee.trackers.names import name_held_out, name_sft_step, name_step

QUEUED = 1000
"""Messages that wait for a tracker; more are left out."""
END_SECONDS = 30.0
"""Time that trackers have at the end for all that still waits."""
LOG = "trackers.log"
MOST_BYTES = 1 << 16
"""Bytes of the longest answer."""
LOCAL = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
}
"""Environment of trackio, which this program only uses on this machine."""
REMOTE = "TRACKIO_"
KEPT = ("TRACKIO_DIR", "TRACKIO_PROJECT")
"""The variables of trackio that its process sees; others would send figures elsewhere."""
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")


@asynccontextmanager
async def open_trackers(
    names: Sequence[str], begin: Begin | None, *, folder: Path, emit: Emit
) -> AsyncIterator[Emit]:
    """Give an `emit` that also tells trackers what is measured.

    Args:
        names: the trackers, `run.report_to`.
        begin: which run this is; None only without trackers.
        folder: the run folder; what trackers print goes to its `trackers.log`.
        emit: receives every event, and a note about each tracker.
    """
    if not names or begin is None:
        yield emit
        return
    secrets = Secrets(find_secrets(os.environ))
    relays = [Relay(name, folder=folder, emit=emit, secrets=secrets) for name in names]
    told = redact(begin, secrets)

    def tell(event: Event) -> None:
        emit(event)
        for message in messages_of(event, folder.resolve()):
            for relay in relays:
                relay.put(message)

    async with anyio.create_task_group() as tasks:
        for relay in relays:
            relay.put(told)
            tasks.start_soon(relay.run)
        code = 1
        try:
            yield tell
            code = 0
        finally:
            await end_all(relays, code)


async def end_all(relays: Sequence[Relay], code: int) -> None:
    """End all trackers, with one deadline for all of them, even if the run is being cancelled."""
    with anyio.CancelScope(shield=True):
        for relay in relays:
            relay.close(code)
        with anyio.move_on_after(END_SECONDS):
            for relay in relays:
                await relay.ended.wait()
        for relay in relays:
            relay.cut_off()
        for relay in relays:
            await relay.ended.wait()


def messages_of(event: Event, folder: Path) -> Iterator[Message]:
    """Yield what trackers are told of an event."""
    match event:
        case StepTrained():
            yield Figures(step=event.step, values=name_step(event))
        case SftStepTrained():
            yield Figures(step=event.step, values=name_sft_step(event))
        case HeldOutPlayed():
            yield Figures(step=event.step, values=name_held_out(event))
            yield Table(step=event.step, name=f"eval/{event.label}", file=str(folder / event.file))


def find_secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the values of all variables whose names say that they are secret."""
    for name, value in environment.items():
        if value and any(word in name.upper() for word in SECRET_WORDS):
            yield value


def redact(begin: Begin, secrets: Secrets) -> Begin:
    """Return the first message without secrets, in case one stands in a config after all."""
    config = {
        key: secrets.redact(value) if isinstance(value, str) else value
        for key, value in begin.config.items()
    }
    return msgspec.structs.replace(begin, config=config)


class Relay:
    """The way to one tracker: a queue, and the process behind it."""

    def __init__(self, name: str, *, folder: Path, emit: Emit, secrets: Secrets) -> None:
        self.name = name
        self.ended = anyio.Event()
        """Set once nothing of the tracker runs any more."""
        self._folder = folder
        self._emit = emit
        self._secrets = secrets
        self._put, self._queue = anyio.create_memory_object_stream[Message](QUEUED)
        self._scope = anyio.CancelScope(shield=True)
        self._failed = False
        self._left_out = 0
        self._cut_off = False

    def put(self, message: Message) -> None:
        """Queue a message, or leave it out; never waits."""
        if self._failed:
            return
        try:
            self._put.send_nowait(message)
        except anyio.WouldBlock:
            self._left_out += 1
            if self._left_out == 1:
                self._say("does not keep up; what it cannot take is left out, and training goes on")
        except anyio.BrokenResourceError:
            self._failed = True

    def close(self, code: int) -> None:
        """Queue the last message; the tracker ends when it has taken all of them."""
        self.put(End(code=code))
        self._put.close()

    def cut_off(self) -> None:
        """End a tracker that has not ended by itself."""
        self._cut_off = not self.ended.is_set()
        self._scope.cancel()

    async def run(self) -> None:
        """Pass messages on until the last one; shielded, so that `end_all` alone decides."""
        try:
            with self._scope:
                await self._run()
        finally:
            self._queue.close()
            if self._left_out:
                self._say(f"did not get {self._left_out} records, because it was too slow")
            if self._cut_off and not self._failed:
                self._say(
                    f"was not done {END_SECONDS:g} s after the end; what it had not taken is lost"
                )
            self.ended.set()

    async def _run(self) -> None:
        try:
            process = await anyio.open_process(
                command_of(self.name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment_of(self.name, os.environ),
                start_new_session=True,
            )
        except OSError as error:
            self._fail(f"its process cannot be started: {error.strerror}")
            return
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, process.stdout)
                tasks.start_soon(self._keep_words, process.stderr)
                await self._send_all(process.stdin)
            if await process.wait() and not self._failed:
                self._fail(f"its process ended with code {process.returncode}; see {LOG}")
        finally:
            with anyio.CancelScope(shield=True):
                await end_process(process)

    async def _send_all(self, pipe: ByteSendStream) -> None:
        """Send what is queued, then close the pipe."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with pipe:
                async for message in self._queue:
                    await pipe.send(msgspec.json.encode(message) + b"\n")

    async def _listen(self, pipe: ByteReceiveStream) -> None:
        """Pass on what the tracker says."""
        answers = BufferedByteReceiveStream(pipe)
        with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound, InputError):
            while True:
                line = await answers.receive_until(b"\n", MOST_BYTES)
                match read_answer(line):
                    case Opened(where=where):
                        self._say(f"is open: {where}")
                    case Failed(why=why):
                        self._fail(why)

    async def _keep_words(self, pipe: ByteReceiveStream) -> None:
        """Keep what the tracker's library prints."""
        try:
            async with await anyio.open_file(self._folder / LOG, "ab") as log:
                async for words in pipe:
                    text = self._secrets.redact(words.decode(errors="replace"))
                    await log.write(text.encode())
                    await log.flush()
        except OSError:
            # The pipe must be emptied all the same.
            async for _ in pipe:
                pass

    def _fail(self, why: str) -> None:
        self._failed = True
        self._say(f"has failed and gets nothing more: {why}; training goes on")

    def _say(self, text: str) -> None:
        words = " ".join(self._secrets.redact(text).split())
        self._emit(Note(text=f"tracker {self.name} {words}"))


async def end_process(process: Process) -> None:
    """End a tracker's process with all that it has started, and reap it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.aclose()


def command_of(name: str) -> list[str]:
    """Return the command of a tracker's process."""
    return [sys.executable, "-m", "trustee.trackers.child", name]


def environment_of(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a tracker's process."""
    if name != "trackio":
        return dict(environment)
    here = {
        key: value
        for key, value in environment.items()
        if not key.startswith(REMOTE) or key in KEPT
    }
    return {**here, **LOCAL}

"""A server as a process: a line is a message, with limits, and no process outlives the session.

The package's own transport reads lines of any length and waits seconds for a server to leave. Here
a flood ends the session, the last words are kept for the error, and the whole process group is
killed a second after the input was closed.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from trustee.tools.mcp.fate import Fate, ServerFailed

if TYPE_CHECKING:
    from mcp.shared.message import SessionMessage

    Incoming = MemoryObjectSendStream[SessionMessage | Exception]
    Outgoing = MemoryObjectReceiveStream[SessionMessage]
    Streams = tuple[
        MemoryObjectReceiveStream[SessionMessage | Exception],
        MemoryObjectSendStream[SessionMessage],
    ]

MOST_MESSAGE_BYTES = 8 << 20
"""Length of the longest line of a server's output."""
MOST_SESSION_BYTES = 256 << 20
"""All that a server may write in one session."""
MOST_RUBBISH = 1000
"""Lines that are not messages after which a server is given up."""
LEAVE_SECONDS = 1.0
"""Time for a server to end by itself once its input is closed, and again after SIGTERM."""
LAST_WORDS = 2000
"""Bytes of a server's error stream that are kept."""
GONE = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)
"""What reading and writing raise once the other side is gone."""


@asynccontextmanager
async def start_server(
    command: Sequence[str], *, folder: str, environment: dict[str, str], fate: Fate
) -> AsyncIterator[Streams]:
    """Start a server and yield the streams of a session; it is gone when this ends.

    Raises:
        ServerFailed: if it cannot be started.
    """
    try:
        process = await anyio.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder or None,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ServerFailed(
            f"{command[0]} cannot be started ({why}); try the command in a shell first"
        ) from error
    to_session, incoming = anyio.create_memory_object_stream["SessionMessage | Exception"](0)
    outgoing, from_session = anyio.create_memory_object_stream["SessionMessage"](0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_read, process, to_session, fate)
        tasks.start_soon(_write, process, from_session)
        try:
            yield incoming, outgoing
        finally:
            with anyio.CancelScope(shield=True):
                incoming.close()
                outgoing.close()
                await end_process(process)
            tasks.cancel_scope.cancel()


async def _read(process: Process, session: Incoming, fate: Fate) -> None:
    """Pass the server's messages on until it ends or breaks a limit, and note why."""
    async with session, anyio.create_task_group() as tasks:
        tasks.start_soon(_hear, process, fate)
        try:
            await _read_lines(process, session, fate)
        except GONE:
            # Its error stream may say more than its end.
            with anyio.move_on_after(LEAVE_SECONDS):
                code = await process.wait()
                await anyio.lowlevel.checkpoint()
                fate.end(f"it ended {_say_code(code)}")
        fate.end("it closed its output")
        tasks.cancel_scope.cancel()


async def _read_lines(process: Process, session: Incoming, fate: Fate) -> None:
    from mcp.shared.message import SessionMessage
    from mcp.types import jsonrpc_message_adapter

    assert process.stdout is not None
    lines = BufferedByteReceiveStream(process.stdout)
    total = 0
    while True:
        try:
            line = await lines.receive_until(b"\n", MOST_MESSAGE_BYTES)
        except anyio.DelimiterNotFound:
            return fate.end(f"it wrote a line of more than {MOST_MESSAGE_BYTES >> 20} MiB")
        total += len(line) + 1
        if total > MOST_SESSION_BYTES:
            return fate.end(f"it wrote more than {MOST_SESSION_BYTES >> 20} MiB")
        if not line.strip():
            continue
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            # Many servers print what they should log, so this alone ends nothing.
            fate.rubbish += 1
            fate.last_rubbish = line[:LAST_WORDS].decode(errors="replace")
            if fate.rubbish > MOST_RUBBISH:
                return fate.end("it talks rubbish")
            continue
        await session.send(SessionMessage(message))


async def _hear(process: Process, fate: Fate) -> None:
    """Keep the end of what the server writes to its error stream."""
    assert process.stderr is not None
    words = b""
    with suppress(*GONE):
        while True:
            words = (words + await process.stderr.receive())[-LAST_WORDS:]
            fate.last_words = words.decode(errors="replace")


async def _write(process: Process, session: Outgoing) -> None:
    """Pass the session's messages to the server."""
    assert process.stdin is not None
    async with session:
        with suppress(*GONE, OSError):
            async for sent in session:
                text = sent.message.model_dump_json(by_alias=True, exclude_unset=True)
                await process.stdin.send(text.encode() + b"\n")


async def end_process(process: Process) -> None:
    """Close the input, wait a moment, then end the process and all that it has started."""
    assert process.stdin is not None
    with suppress(*GONE, OSError):
        await process.stdin.aclose()
    for sign in (None, signal.SIGTERM, signal.SIGKILL):
        if sign is not None and not _signal_group(process, sign):
            break
        with anyio.move_on_after(LEAVE_SECONDS):
            await process.wait()
    with anyio.move_on_after(LEAVE_SECONDS):
        await process.aclose()


def _signal_group(process: Process, sign: signal.Signals) -> bool:
    """Send a signal to the server's process group; return whether it still has one."""
    try:
        os.killpg(process.pid, sign)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _say_code(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"

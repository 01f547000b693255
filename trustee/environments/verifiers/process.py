"""The program in the other interpreter: one for all episodes of a job, gone at its end.

Importing `verifiers` takes seconds, so the episodes of a job share a process. Each has its own
conversation: a request, what is asked meanwhile, and an answer. A process that ends, hangs or talks
rubbish fails all of them, and the next episode starts another.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import anyio
import msgspec
from anyio.abc import Process, TaskGroup, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from trustee.decoding import decode_json
from trustee.errors import InputError, ServerError, TrusteeError
from trustee.tools.arguments import shorten
from trustee.tools.mcp.address import INHERITED, read_variable
from trustee.tools.mcp.fate import Fate
from trustee.tools.mcp.process import GONE, LAST_WORDS, LEAVE_SECONDS, MOST_RUBBISH, end_process
from trustee.types import Record

CHILD = Path(__file__).with_name("child.py")
MOST_LINE_BYTES = 64 << 20
"""Length of the longest line, which holds the ids of an episode or the tasks of a set."""
SEND_SECONDS = 30.0
"""Time in which the process must have read a line."""
CANCEL_SECONDS = 5.0
"""Time for an episode to end once it was told to; a process that does not do so hangs."""
SETTINGS_OF_TOOLS = ("UV_", "XDG_", "HF_HOME", "HF_ENDPOINT", "SSL_CERT_", "VF_")
"""Beginnings of further variables that the process gets: where its tools find and keep things."""


class Launch(Record, frozen=True):
    """How the process is started, and which environment it loads."""

    python: str
    folder: str
    variables: tuple[tuple[str, str], ...]
    settings: str
    """JSON of the environment's settings."""
    start_seconds: float

    @property
    def name(self) -> str:
        """The interpreter, for messages."""
        return self.python

    def environment(self, given: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment variables of the process.

        Raises:
            InputError: naming a variable that is not set.
        """
        kept = {
            name: value
            for name, value in given.items()
            if name in INHERITED or name.startswith(SETTINGS_OF_TOOLS)
        }
        # Programs that were installed with the interpreter, uv among them, are found first.
        kept["PATH"] = os.pathsep.join([str(Path(self.python).parent), given.get("PATH", "")])
        if self.folder:
            kept["PYTHONPATH"] = self.folder
        named = {
            name: read_variable(value[1:], given) if value.startswith("$") else value
            for name, value in self.variables
        }
        return kept | named


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the process."""

    of: int
    """Number of the conversation."""
    say: Literal["ask", "answer", "error"]
    ask: int = 0
    act: str = ""
    data: Any = None


Event = Line | TrusteeError | None
"""What a conversation waits for: a line, why it failed, or None once an answer was given."""
Answer = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Answers what the process asks: the act and its data."""


class Child:
    """The process; it runs in tasks of the job."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._fate = Fate()
        self._process: Process | None = None
        self._failure: ServerError | None = None
        self._closing = anyio.Event()
        self._ended = anyio.Event()
        self._next = 1
        """Number of the next conversation."""
        self._open: dict[int, MemoryObjectSendStream[Event]] = {}
        self._writing = anyio.Lock()

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._failure is None

    async def begin(self, tasks: TaskGroup) -> None:
        """Start the process and have it load its environment.

        Raises:
            ServerError: if it cannot be started, or cannot load it.
        """
        await tasks.start(self._keep)
        loaded = False
        try:
            settings = decode_json(self._launch.settings, dict[str, Any], error=InputError)
            await self.talk("load", {"settings": settings}, seconds=self._launch.start_seconds)
            loaded = True
        finally:
            if not loaded:
                with anyio.CancelScope(shield=True):
                    await self.end()

    async def end(self) -> None:
        """End the process, whatever has happened."""
        self._closing.set()
        if self._process is not None:
            await self._ended.wait()

    async def talk(
        self,
        act: str,
        given: Mapping[str, Any],
        *,
        seconds: float,
        answer: Answer | None = None,
    ) -> Any:
        """Hold a conversation and return its answer.

        Args:
            act: what is wanted of the process.
            given: what it needs for that.
            seconds: time for each part in which nothing is asked.
            answer: answers what the process asks meanwhile.

        Raises:
            ServerError: if the process fails, or says that it could not do it.
            TrusteeError: as `answer` does.
        """
        if self._failure is not None:
            raise self._failure
        number, self._next = self._next, self._next + 1
        put, events = anyio.create_memory_object_stream[Event](math.inf)
        self._open[number] = put
        found: Event = None
        try:
            await self._send({"of": number, "act": act, **given})
            async with anyio.create_task_group() as tasks:
                found = await self._listen(number, events, tasks, seconds=seconds, answer=answer)
                tasks.cancel_scope.cancel()
        finally:
            del self._open[number]
            put.close()
            events.close()
            if not isinstance(found, Line) and self.alive:
                with anyio.CancelScope(shield=True), suppress(ServerError):
                    await self._send({"of": number, "act": "cancel"})
        if isinstance(found, Line):
            if found.say == "error":
                raise ServerError(f"{self._launch.name}: {shorten(str(found.data))}")
            return found.data
        assert found is not None, "a conversation ends with a line or an error"
        raise found

    async def _listen(
        self,
        number: int,
        events: MemoryObjectReceiveStream[Event],
        tasks: TaskGroup,
        *,
        seconds: float,
        answer: Answer | None,
    ) -> Event:
        """Return what ends a conversation."""
        put, asked = self._open[number], 0

        async def reply(line: Line) -> None:
            assert answer is not None, "checked below"
            try:
                data = await answer(line.act, line.data or {})
                await self._send({"of": number, "reply": line.ask, "data": data})
            except TrusteeError as error:
                put.send_nowait(error)
            else:
                put.send_nowait(None)

        while True:
            with anyio.move_on_after(math.inf if asked else seconds) as waiting:
                event = await events.receive()
            if waiting.cancelled_caught:
                return await self._abandon(number, events, seconds=seconds)
            if event is None:
                asked -= 1
            elif isinstance(event, Line) and event.say == "ask":
                if answer is None or not isinstance(event.data, dict | None):
                    return self._fail(f"it asked what cannot be asked: {shorten(event.act)}")
                asked += 1
                tasks.start_soon(reply, event)
            else:
                return event

    async def _abandon(
        self, number: int, events: MemoryObjectReceiveStream[Event], *, seconds: float
    ) -> ServerError:
        """Have the process give up an episode; end a process that does not."""
        silent = f"{self._launch.name}: it neither asked nor answered for {seconds:g} s"
        with suppress(ServerError), anyio.move_on_after(CANCEL_SECONDS) as waiting:
            await self._send({"of": number, "act": "cancel"})
            while True:
                event = await events.receive()
                if not (event is None or (isinstance(event, Line) and event.say == "ask")):
                    return ServerError(f"{silent} (env.seconds)")
        if waiting.cancelled_caught:
            return self._fail(f"it neither asked nor answered for {seconds:g} s, and hangs")
        return ServerError(f"{silent} (env.seconds)")

    async def _send(self, line: Mapping[str, Any]) -> None:
        assert self._process is not None, "begin() was not called"
        assert self._process.stdin is not None
        try:
            async with self._writing:
                with anyio.fail_after(SEND_SECONDS):
                    await self._process.stdin.send(msgspec.json.encode(line) + b"\n")
        except TimeoutError as error:
            raise self._fail(f"it did not read a line in {SEND_SECONDS:g} s") from error
        except (*GONE, OSError) as error:
            # Why it ended is known a moment later, from its exit code and last words.
            with anyio.move_on_after(LEAVE_SECONDS):
                await self._ended.wait()
            raise self._fail("it closed its input") from error

    def _fail(self, why: str) -> ServerError:
        """Note why the process is of no use any more, tell all who wait, and have it ended."""
        if self._failure is None:
            self._fate.end(why)
            self._failure = ServerError(f"{self._launch.name}: {self._fate.explain(why)}")
            for put in self._open.values():
                put.send_nowait(self._failure)
        self._closing.set()
        return self._failure

    async def _keep(self, *, task_status: TaskStatus[None]) -> None:
        launch = self._launch
        try:
            self._process = await anyio.open_process(
                [launch.python, "-P", "-u", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=launch.environment(),
                cwd=launch.folder or None,
                start_new_session=True,
            )
        except OSError as error:
            self._fail(f"cannot be started ({error.strerror}); is it an interpreter of Python?")
            self._ended.set()
            task_status.started()
            return
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read)
                tasks.start_soon(self._hear)
                task_status.started()
                try:
                    await self._closing.wait()
                finally:
                    with anyio.CancelScope(shield=True):
                        await end_process(self._process)
                        self._fail("it was ended")
                tasks.cancel_scope.cancel()
        finally:
            self._ended.set()

    async def _hear(self) -> None:
        """Keep the end of what it writes to its error stream."""
        assert self._process is not None
        assert self._process.stderr is not None
        words = b""
        with suppress(*GONE):
            while True:
                words = (words + await self._process.stderr.receive())[-LAST_WORDS:]
                self._fate.last_words = words.decode(errors="replace")

    async def _read(self) -> None:
        """Pass its lines to their conversations until it ends or breaks a limit."""
        assert self._process is not None
        assert self._process.stdout is not None
        lines = BufferedByteReceiveStream(self._process.stdout)
        try:
            while self.alive:
                await self._take(await lines.receive_until(b"\n", MOST_LINE_BYTES))
        except anyio.DelimiterNotFound:
            self._fail(f"it wrote a line of more than {MOST_LINE_BYTES >> 20} MiB")
        except GONE:
            code: int | None = None
            with anyio.move_on_after(LEAVE_SECONDS):
                code = await self._process.wait()
                # Its error stream may say more than its end.
                await anyio.lowlevel.checkpoint()
            self._fail("it closed its output" if code is None else f"it ended with code {code}")

    async def _take(self, data: bytes) -> None:
        line: Line | None = None
        with suppress(ServerError):
            line = decode_json(data, Line, error=ServerError)
        if line is not None and line.of in self._open:
            self._open[line.of].send_nowait(line)
            return
        if line is not None and 0 < line.of < self._next:
            # Of an episode that was given up; nothing in the process may wait for an answer.
            if line.say == "ask":
                with suppress(ServerError):
                    await self._send({"of": line.of, "reply": line.ask, "data": None})
            return
        self._fate.rubbish += 1
        self._fate.last_rubbish = data[:LAST_WORDS].decode(errors="replace")
        if self._fate.rubbish > MOST_RUBBISH:
            self._fail("it talks rubbish")


class Children:
    """The processes of a job, by how they are started."""

    def __init__(self) -> None:
        self._found: dict[Launch, Child] = {}
        self._starting = anyio.Lock()

    async def find(self, launch: Launch, tasks: TaskGroup) -> Child:
        """Return the process, started once and again if it has failed.

        Raises:
            ServerError: if it cannot be started.
        """
        async with self._starting:
            child = self._found.get(launch)
            if child is None or not child.alive:
                child = Child(launch)
                await child.begin(tasks)
                self._found[launch] = child
            return child


_children: WeakKeyDictionary[TaskGroup, Children] = WeakKeyDictionary()


async def find_child(launch: Launch, tasks: TaskGroup) -> Child:
    """Return the process of a job that has loaded an environment.

    Raises:
        ServerError: if it cannot be started.
    """
    return await _children.setdefault(tasks, Children()).find(launch, tasks)

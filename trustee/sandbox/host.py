"""The sandbox as environments use it: warm workers, shared by all episodes with the same tools.

Whatever the code does, a call ends with a `CallResult` in bounded time and does not affect other
calls. A worker that died is replaced, and the calls that were running in it are made once more,
which is safe because each call is a fork that keeps no state.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import structlog
from anyio.abc import TaskGroup

from trustee.sandbox.calls import CallResult, Isolation, SandboxConfig, Worker
from trustee.sandbox.isolation import Lock, find_locks, refuse
from trustee.sandbox.process import WorkerAnswer, WorkerDied, WorkerProcess, start_process

log = structlog.get_logger()

LONGEST_ARGUMENTS = 1 << 20
"""Maximum size of a call's arguments, in bytes of JSON."""
LONGEST_SOURCE = 1 << 20
"""Maximum size of a tool's source in bytes; the compiler needs a second and 100 MiB per MiB."""
GRACE_SECONDS = 5.0
"""Extra seconds the host waits beyond the worker's own timeout."""
TRIES = 2
"""Attempts per call; if a second worker dies too, the call is at fault."""

ReportBreach = Callable[[str, str, str], None]
"""Called for every breach with the tool, the limit that was broken, and how."""
TracedResult = tuple[CallResult, str]
"""A result, and for the log how a limit was broken."""
Key = tuple[bool, tuple[tuple[str, str], ...]]


def log_breach(tool: str, breach: str, why: str) -> None:
    """Log a breach."""
    log.warning("sandbox_breach", tool=tool, breach=breach, why=why)


def count_calls(config: SandboxConfig) -> int:
    """Return how many calls may run at once.

    Many more than processors would slow each one down to its time limit.
    """
    by_processors = max(4, 2 * len(os.sched_getaffinity(0)))
    return max(1, min(by_processors, config.total_mib // config.memory_mib))


class ProcessSandbox:
    """Runs tools in locked worker processes."""

    def __init__(self, config: SandboxConfig, *, report: ReportBreach = log_breach) -> None:
        self._config = config
        self._report = report
        self._stack = AsyncExitStack()
        self._tasks: TaskGroup | None = None
        self._lock: Lock | None = None
        self._warm: OrderedDict[Key, WarmWorker] = OrderedDict()
        """Workers by tools, least recently lent first."""
        self._limiter = anyio.CapacityLimiter(count_calls(config))

    @property
    def isolation(self) -> Isolation:
        """The isolation in use; known once the sandbox is open."""
        assert self._lock is not None, "the sandbox is not open"
        return self._lock.isolation

    async def __aenter__(self) -> Self:
        """Find the first lock that works by starting a worker in it.

        Raises:
            InputError: if none works.
        """
        locks = find_locks(self._config.isolation)
        async with AsyncExitStack() as stack:
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.push_async_callback(self._end)
            missing = []
            for lock in locks:
                trial = WarmWorker({}, published=False, sandbox=self)
                self._lock = lock
                missing.append(f"{lock.isolation} does not work: {await trial.start()}")
                if trial.process is not None:
                    await trial.end()
                    break
            else:
                raise refuse(self._config.isolation, missing)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every worker."""
        await self._stack.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def open(
        self, sources: Mapping[str, str], *, seed: int, published: bool = False
    ) -> AsyncIterator[Worker]:
        """Lend the worker of these tools; it starts with the first call and then stays warm."""
        key = (published, tuple(sorted(sources.items())))
        worker = self._warm.get(key)
        if worker is None:
            worker = self._warm[key] = WarmWorker(sources, published=published, sandbox=self)
        self._warm.move_to_end(key)
        worker.lent += 1
        try:
            yield LentWorker(worker, seed)
        finally:
            worker.lent -= 1
            await self._cool()

    async def _cool(self) -> None:
        """End the least recently used idle workers, down to the number to keep."""
        idle = [key for key, worker in self._warm.items() if not worker.lent]
        surplus = len(self._warm) - self._config.workers
        cooled = [self._warm.pop(key) for key in idle[: max(0, surplus)]]
        for worker in cooled:
            await worker.end()

    async def _end(self) -> None:
        """End all workers concurrently."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for worker in self._warm.values():
                    tasks.start_soon(worker.end)
        self._warm.clear()


class WarmWorker:
    """The tools of one environment, and the process that runs them if one is started."""

    def __init__(
        self, sources: Mapping[str, str], *, published: bool, sandbox: ProcessSandbox
    ) -> None:
        self.names = frozenset(sources)
        self.lent = 0
        """Number of episodes that are using it."""
        self.process: WorkerProcess | None = None
        self._sources = {
            name: source for name, source in sources.items() if len(source) <= LONGEST_SOURCE
        }
        self._published = published
        self._sandbox = sandbox
        self._starting = anyio.Lock()
        self._broken = ""
        """Why these tools cannot be loaded, such as a source on which the compiler crashes."""

    async def start(self) -> str:
        """Start the process unless it runs; return why that failed, or an empty string."""
        sandbox = self._sandbox
        assert sandbox._tasks is not None
        assert sandbox._lock is not None
        refused = ""
        # A start that is cancelled halfway would leave a process that is never ended.
        with anyio.CancelScope(shield=True):
            async with self._starting:
                if self.process is None or not self.process.alive:
                    await self.end()
                    refused = await self._start(sandbox._lock, sandbox._tasks)
        return refused

    async def _start(self, lock: Lock, tasks: TaskGroup) -> str:
        """Start the process; return why that failed, or an empty string."""
        try:
            process = await start_process(lock)
        except OSError as error:
            return str(error)
        refused = await process.begin(
            lock,
            self._sources,
            published=self._published,
            config=self._sandbox._config,
            tasks=tasks,
        )
        self.process = None if refused else process
        return refused

    async def end(self) -> None:
        """End the process if it runs."""
        process, self.process = self.process, None
        if process is not None:
            await process.end()

    async def call(self, name: str, arguments: Mapping[str, Any], *, seed: int) -> CallResult:
        """Make one call and report a breach."""
        outcome, why = await self._call(name, arguments, seed=seed)
        if outcome.breach:
            self._sandbox._report(name, outcome.breach, why)
        return outcome

    async def _call(self, name: str, arguments: Mapping[str, Any], *, seed: int) -> TracedResult:
        """Check a call, then make it."""
        if name not in self.names:
            return fail(name, f"there is no tool of that name, only {sorted(self.names)}")
        if name not in self._sources:
            return fail(name, f"its source is longer than {LONGEST_SOURCE} bytes", breach="input")
        try:
            text = json.dumps(arguments)
        except (RecursionError, TypeError, ValueError) as error:
            return fail(name, f"its arguments are not JSON: {error}", breach="input")
        if len(text) > LONGEST_ARGUMENTS:
            why = f"its arguments are longer than {LONGEST_ARGUMENTS} bytes"
            return fail(name, why, breach="input")
        async with self._sandbox._limiter:
            if not self._broken:
                return await self._try(name, text, seed=seed)
        return fail(name, self._broken, breach="died")

    async def _try(self, name: str, arguments: str, *, seed: int) -> TracedResult:
        """Make one call; if the worker dies, try once more in a fresh process."""
        config = self._sandbox._config
        why = ""
        for attempt in range(TRIES):
            why = await self.start()
            process = self.process
            if process is None:
                self._broken = f"it cannot be loaded: {why}" if attempt else ""
                continue
            try:
                answer = await process.call(
                    name=name,
                    arguments=arguments,
                    seed=seed,
                    seconds=config.seconds + GRACE_SECONDS,
                )
            except WorkerDied:
                why = "its worker ended"
                continue
            if answer is not None:
                return read_answer(name, answer, config)
            await process.end(gently=False)
            return fail(
                name, f"its worker did not answer within {config.seconds:g} s", breach="time"
            )
        return fail(name, self._broken or why, breach="died")


class LentWorker:
    """A worker as one episode uses it, with the episode's seed."""

    def __init__(self, worker: WarmWorker, seed: int) -> None:
        self._worker = worker
        self._seed = seed

    async def call(self, name: str, arguments: Mapping[str, Any]) -> CallResult:
        """Call one tool with JSON arguments; it sees nothing that an earlier call left behind."""
        return await self._worker.call(name, arguments, seed=self._seed)


def read_answer(name: str, answer: WorkerAnswer, config: SandboxConfig) -> TracedResult:
    """Turn a worker's answer into the result that the policy reads, and a note for the log."""
    if answer.breach:
        outcome, why = fail(name, explain_breach(answer.breach, config), breach=answer.breach)
        return outcome, answer.text or why
    breach = "denied" if answer.denied else ""
    if answer.ok:
        return CallResult(text=answer.text, ok=True, breach=breach), answer.denied
    return fail(name, answer.text, breach=breach)[0], answer.denied


def explain_breach(kind: str, config: SandboxConfig) -> str:
    """Return a one-line explanation of a breach."""
    match kind:
        case "time":
            return f"it ran longer than {config.seconds:g} s"
        case "cpu":
            return f"it took more than {config.cpu_seconds} s of processor time"
        case "memory":
            return f"it needed more than {config.memory_mib} MiB of memory"
        case "output":
            return f"its answer is longer than {config.output_bytes} bytes"
        case "protocol":
            return "it wrote to the channel of its answer"
        case _:
            return "it ended without an answer"


def fail(name: str, why: str, *, breach: str = "") -> TracedResult:
    """Return the result of a call that failed."""
    text = f"an error occurred when calling {name}: {why}"
    return CallResult(text=text, ok=False, breach=breach), why

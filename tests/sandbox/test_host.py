"""Workers are shared, kept, replaced and ended, and nothing is left of them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import anyio
import pytest

from trustee.errors import InputError
from trustee.sandbox.calls import CallResult, Isolation, SandboxConfig
from trustee.sandbox.host import LONGEST_ARGUMENTS, LONGEST_SOURCE, ProcessSandbox, count_calls
from trustee.sandbox.isolation import Lock
from trustee.sandbox.process import WorkerProcess, start_process

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ADD = {"add": "def add(a, b):\n    return a + b"}
LOOP = {"loop": "def loop():\n    import threading\n    threading.Event().wait()"}


def children() -> set[int]:
    """Give the ids of this process's children, the dead and not buried among them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(path.parent.name))
    return found


def descriptors() -> int:
    """Count the open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def say(text: str) -> CallResult:
    """Expect a result."""
    return CallResult(text=text, ok=True)


@contextmanager
def nothing_left() -> Iterator[None]:
    """Require as many children and descriptors after the block as before."""
    before = children(), descriptors()
    yield
    assert before == (children(), descriptors())


@pytest.fixture
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    """Open a sandbox that keeps two workers, with whatever lock holds here."""
    async with ProcessSandbox(choose(seconds=2, workers=2)) as opened:
        yield opened


def choose(seconds: float = 5, workers: int = 64, isolation: Isolation = "none") -> SandboxConfig:
    """Configure without a lock: these tests run everywhere, and trust their tools."""
    return SandboxConfig(seconds=seconds, workers=workers, isolation=isolation)


def pids(sandbox: ProcessSandbox) -> list[int]:
    """Name the processes of the workers that are warm."""
    return [warm.process.pid for warm in sandbox._warm.values() if warm.process is not None]


@pytest.mark.parametrize(("total", "calls"), [(4096, 32), (1024, 4), (256, 1), (32, 1)])
async def test_calls_at_once_fit_into_the_memory_for_all(
    monkeypatch: pytest.MonkeyPatch, total: int, calls: int
) -> None:
    """On many processors it is the total that limits, but one call may always run."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    config = SandboxConfig(total_mib=total, memory_mib=256 if total < 4096 else 128)
    assert calls == count_calls(config)


async def test_same_tools_share_a_worker(sandbox: ProcessSandbox) -> None:
    """Two loans of the same sources are served by one process, which the next one finds warm."""
    async with sandbox.open(ADD, seed=1) as one, sandbox.open(ADD, seed=2) as other:
        assert [say("3"), say("7")] == [
            await one.call("add", {"a": 1, "b": 2}),
            await other.call("add", {"a": 3, "b": 4}),
        ]
        first = pids(sandbox)
    async with sandbox.open(ADD, seed=3) as third:
        assert say("0") == await third.call("add", {"a": 0, "b": 0})
    assert 1 == len(first)
    assert first == pids(sandbox)


async def test_longest_idle_worker_goes_first(sandbox: ProcessSandbox) -> None:
    """Of three tools two stay warm, and those are the ones used last."""
    tools = [{f"t{i}": f"def t{i}():\n    return {i}"} for i in range(3)]
    used = []
    for source in (tools[0], tools[1], tools[0], tools[2]):
        async with sandbox.open(source, seed=0) as worker:
            await worker.call(next(iter(source)), {})
        used.append(set(pids(sandbox)))
    assert [1, 2, 2, 2] == [len(held) for held in used]
    assert used[0] <= used[3]
    assert not used[1] <= used[3]


async def test_killed_worker_is_replaced_and_no_call_lost(sandbox: ProcessSandbox) -> None:
    """Whoever kills the worker while calls wait: each of them is made again and answered."""
    source = {
        "slow": "def slow(n):\n    import select\n    select.select([], [], [], 0.5)\n    return n"
    }
    outcomes: dict[int, CallResult] = {}
    async with sandbox.open(source, seed=0) as worker:
        assert say("-1") == await worker.call("slow", {"n": -1})
        [first] = pids(sandbox)

        async def ask(number: int) -> None:
            outcomes[number] = await worker.call("slow", {"n": number})

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(ask, number)
            await anyio.sleep(0.2)
            os.kill(first, signal.SIGKILL)
    assert {number: say(str(number)) for number in range(4)} == outcomes
    assert [first] != pids(sandbox)


async def test_worker_that_is_stopped_is_given_up() -> None:
    """A worker that does not answer is killed; the call says so and the next one is answered."""
    async with ProcessSandbox(choose(seconds=0.05)) as sandbox, sandbox.open(ADD, seed=0) as worker:
        await worker.call("add", {"a": 1, "b": 1})
        os.kill(pids(sandbox)[0], signal.SIGSTOP)
        outcome = await worker.call("add", {"a": 1, "b": 1})
        assert "time" == outcome.breach
        assert say("2") == await worker.call("add", {"a": 1, "b": 1})


async def test_breach_harms_no_call_beside_it(sandbox: ProcessSandbox) -> None:
    """While one call of a worker waits for its limit, others of the same worker are answered."""
    outcomes = []
    async with sandbox.open({**ADD, **LOOP}, seed=0) as worker:

        async def loop() -> None:
            outcomes.append((await worker.call("loop", {})).breach)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop)
            for number in range(20):
                outcome = await worker.call("add", {"a": number, "b": 1})
                assert say(str(number + 1)) == outcome
            assert [] == outcomes
    assert ["time"] == outcomes


async def test_cancelled_call_leaves_the_worker_usable(sandbox: ProcessSandbox) -> None:
    """An episode that gives up in the middle of a call takes nothing from the next one."""
    async with sandbox.open({**ADD, **LOOP}, seed=0) as worker:
        with anyio.move_on_after(0.3) as scope:
            await worker.call("loop", {})
        assert scope.cancelled_caught
        assert say("5") == await worker.call("add", {"a": 2, "b": 3})


@pytest.mark.slow
async def test_nothing_is_left_after_many_calls() -> None:
    """A thousand calls from 64 environments at once: every answer right, no process left."""
    with nothing_left():
        lost = []
        async with AsyncExitStack() as stack:
            try:
                config = choose(seconds=60, isolation="auto")
                sandbox = await stack.enter_async_context(ProcessSandbox(config))
            except InputError as error:
                pytest.skip(str(error))

            async def play(number: int) -> None:
                source = {"tool": f"def tool(n):\n    return [n, {number}]"}
                async with sandbox.open(source, seed=number) as worker:
                    for turn in range(16):
                        outcome = await worker.call("tool", {"n": turn})
                        if outcome != say(f"[{turn}, {number}]"):
                            lost.append(outcome)

            async with anyio.create_task_group() as tasks:
                for number in range(64):
                    tasks.start_soon(play, number)
            assert 64 == len(pids(sandbox))
        assert [] == lost


async def test_error_in_the_block_ends_the_workers() -> None:
    """Nothing is left where the user of the sandbox fails, or is cancelled, in the middle."""
    with nothing_left():
        with anyio.move_on_after(1):
            async with ProcessSandbox(choose()) as sandbox, sandbox.open(LOOP, seed=0) as worker:
                await worker.call("loop", {})
        with pytest.raises(BaseExceptionGroup):
            await use_and_fail()


async def test_tools_that_cannot_be_loaded_are_given_up(
    sandbox: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no worker comes up with these sources it is tried twice, not for every call."""
    starts = []

    async def start_slowly(lock: Lock) -> WorkerProcess:
        starts.append(lock)
        return await start_process(lock)

    monkeypatch.setattr("trustee.sandbox.process.START_SECONDS", 0.0)
    monkeypatch.setattr("trustee.sandbox.host.start_process", start_slowly)
    async with sandbox.open(ADD, seed=0) as worker:
        outcomes = [await worker.call("add", {"a": 1, "b": 1}) for _ in range(3)]
    why = "an error occurred when calling add: it cannot be loaded: it did not start in time"
    assert [CallResult(text=why, ok=False, breach="died")] * 3 == outcomes
    assert 2 == len(starts)


async def use_and_fail() -> None:
    """Fail in the middle of an open sandbox."""
    async with ProcessSandbox(choose()) as sandbox, sandbox.open(ADD, seed=0) as worker:
        await worker.call("add", {"a": 1, "b": 2})
        raise RuntimeError


async def test_unusable_calls_say_why(sandbox: ProcessSandbox) -> None:
    """Names, sources and arguments that cannot be run are answered, not raised."""
    huge = f"def huge():\n    return 1\n#{'x' * LONGEST_SOURCE}"
    sources = {**ADD, "huge": huge, "broken": "def broken(:", "absent": "x = 1"}
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    async with sandbox.open(sources, seed=0) as worker:
        outcomes = [
            await worker.call("nope", {}),
            await worker.call("huge", {}),
            await worker.call("broken", {}),
            await worker.call("absent", {}),
            await worker.call("add", {"a": 1}),
            await worker.call("add", {"a": "x" * LONGEST_ARGUMENTS, "b": ""}),
            await worker.call("add", {"a": {1}, "b": ""}),
        ]
        deep = await worker.call("add", {"a": nested, "b": ""})
    begin = "an error occurred when calling "
    assert [
        (
            f"{begin}nope: there is no tool of that name, only ['absent', 'add', 'broken', 'huge']",
            "",
        ),
        (f"{begin}huge: its source is longer than 1048576 bytes", "input"),
        (f"{begin}broken: SyntaxError: invalid syntax (<broken>, line 1)", ""),
        (f"{begin}absent: NameError: name absent is not defined", ""),
        (f"{begin}add: TypeError: add() missing 1 required positional argument: 'b'", ""),
        (f"{begin}add: its arguments are longer than 1048576 bytes", "input"),
        (
            f"{begin}add: its arguments are not JSON: Object of type set is not JSON serializable",
            "input",
        ),
    ] == [(outcome.text, outcome.breach) for outcome in outcomes]
    assert ("input", False) == (deep.breach, deep.ok)
    while nested:
        nested = nested[0]  # type: ignore[assignment]


async def test_missing_lock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no lock can be had the sandbox does not open, and names the switch."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"bwrap is not on the PATH.*--unsafe-local-tools"):
        async with ProcessSandbox(choose(isolation="bubblewrap")):
            raise AssertionError

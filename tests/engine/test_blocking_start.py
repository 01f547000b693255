"""Work that blocks the event loop: a signal ends it at once, with the processes it has started."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from trustee.cli.interrupt import until_interrupted
from trustee.engine import blocking_start
from trustee.engine.blocking_start import (
    SIGNALS,
    Signalled,
    keep_imported,
    limit_start,
    run_blocking,
    signals_raise,
)
from trustee.errors import RunError


def raise_soon(number: signal.Signals, seconds: float = 0.1) -> None:
    """Send this process a signal a little later."""
    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()


@pytest.mark.parametrize("number", SIGNALS)
def test_job_that_blocks_is_interrupted(number: signal.Signals) -> None:
    """The loop never got a turn, and still the job ends at once; its new child does too."""
    children = []

    def start() -> None:
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
        child.start()
        children.append(child)
        raise_soon(number)
        # As libraries do while they import.
        with suppress(Exception):
            time.sleep(60)

    async def job() -> None:
        await run_blocking(start, seconds=60)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        anyio.run(until_interrupted, job)
    assert time.monotonic() - began < 20
    assert [False] == [child.is_alive() for child in children]


def test_signal_that_is_swallowed_comes_again() -> None:
    """A library that catches everything delays the end and does not prevent it."""

    def start() -> None:
        raise_soon(signal.SIGTERM)
        with suppress(BaseException):
            time.sleep(60)
        time.sleep(60)

    async def job() -> None:
        await run_blocking(start, seconds=60)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        anyio.run(until_interrupted, job)
    assert time.monotonic() - began < 20
    assert (0.0, 0.0) == signal.getitimer(signal.ITIMER_REAL)


@pytest.mark.anyio
async def test_result_passes_and_handlers_come_back() -> None:
    """Without a signal the function's result is the result, and nothing stays changed."""
    before = [signal.getsignal(number) for number in SIGNALS]
    assert 7 == await run_blocking(lambda: 7, seconds=60)
    assert before == [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.anyio
async def test_signal_that_cancels_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a handler does nothing, the start has failed all the same, and says why."""
    monkeypatch.setattr(blocking_start, "CANCEL_SECONDS", 0.01)
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with pytest.raises(RunError, match="SIGTERM came while the engine was started"):
            await run_blocking(lambda: os.kill(os.getpid(), signal.SIGTERM), seconds=60)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [signal.SIGTERM] == seen


@pytest.mark.anyio
async def test_child_that_hangs_is_killed_in_time() -> None:
    """Even a stopped child ends, whoever waits for it notices, and the error names the limit."""

    def start() -> None:
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
        child.start()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
        child.join()
        raise RunError("the child ended")

    with pytest.raises(RunError, match=r"within 0.5 s \(engine.start_seconds\)"):
        await run_blocking(start, seconds=0.5)


@pytest.mark.anyio
async def test_start_that_fails_in_time_keeps_its_error() -> None:
    """The limit is not blamed for what went wrong before it."""

    def start() -> None:
        raise RunError("no memory")

    with pytest.raises(RunError, match="no memory"):
        await run_blocking(start, seconds=60)


@pytest.mark.anyio
async def test_rest_of_a_start_is_limited() -> None:
    """What waits on the loop has a limit too."""
    with limit_start(60):
        await anyio.lowlevel.checkpoint()
    with pytest.raises(RunError, match="did not start within"), limit_start(0.01):
        await anyio.sleep(60)


def test_signals_that_nobody_hears_keep_their_meaning() -> None:
    """Neither a default nor an ignored signal is taken."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_raise():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.default_int_handler is signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_error_is_no_exception() -> None:
    """What catches all exceptions does not catch a signal."""
    assert not issubclass(Signalled, Exception)


def test_imports_are_kept_out_of_the_search_for_garbage() -> None:
    """It is off while they last, and on again when they fail; what they left is frozen."""
    before, imported = gc.get_freeze_count(), list[list[int]]()
    with suppress(ImportError), keep_imported():
        assert not gc.isenabled()
        imported += [[number] for number in range(100)]
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(imported)

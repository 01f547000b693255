"""Letting a signal end work that blocks the event loop, such as vLLM's start.

The event loop answers signals between its turns. Code that blocks it for half a minute would make
the user wait that long, so within such code a signal raises at once. The loop gets it too: what the
signal means is decided where it is listened for (`cli/interrupt.py`).
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TypeVar

import anyio

from trustee.errors import RunError

T = TypeVar("T")

CANCEL_SECONDS = 5.0
"""Maximum time for whoever listens for signals to cancel the job."""
AGAIN_SECONDS = 0.3
"""Time after which a signal that has not ended the block is raised once more."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signalled(BaseException):
    """A signal came. Not an `Exception`, because libraries catch those while they import."""


async def run_blocking(start: Callable[[], T], *, seconds: float) -> T:
    """Run a function that blocks; if a signal ends it, kill the processes that it has started.

    They are killed as well if it takes too long, which whoever waits for them notices.

    Raises:
        RunError: if that made it fail, or a signal ended it and nobody cancels the job.
    """
    before = multiprocessing.active_children()
    name = ""
    late = threading.Event()

    def end() -> None:
        # Set first: whoever waits for a child goes on as soon as it is dead.
        late.set()
        kill_children(before)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        with signals_raise():
            return start()
    except RunError as error:
        if late.is_set():
            raise late_start(seconds) from error
        raise
    except Signalled as signalled:
        name = str(signalled)
    finally:
        timer.cancel()
    kill_children(before)
    # Collected now, while finalisers that fail write to the log and not to the screen.
    gc.collect()
    await anyio.sleep(CANCEL_SECONDS)
    raise RunError(f"{name} came while the engine was started")


def kill_children(before: Sequence[BaseProcess]) -> None:
    """Kill the child processes that were not there before."""
    for child in multiprocessing.active_children():
        if child not in before:
            child.kill()
            child.join()


@contextmanager
def keep_imported() -> Iterator[None]:
    """Look for no garbage in this block, and never in what was imported by its end.

    That stays for good. Looking through it makes the import of vLLM a second longer, and later
    delays the answer to a signal.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def limit_start(seconds: float) -> Iterator[None]:
    """Limit the part of a start that does not block.

    Raises:
        RunError: if it takes longer.
    """
    with anyio.move_on_after(seconds) as limit:
        yield
    if limit.cancelled_caught:
        raise late_start(seconds)


def late_start(seconds: float) -> RunError:
    """Return the error of a start that takes too long."""
    return RunError(
        f"the engine did not start within {seconds:g} s (engine.start_seconds); its last output is "
        "in engine.log"
    )


@contextmanager
def signals_raise() -> Iterator[None]:
    """Raise `Signalled` in this block when a signal comes that this process listens for.

    Its former handler is called first. Signals that nobody handles keep their default, and threads
    other than the main one get none. An exception may be lost, in a finaliser or where a library
    catches everything, so it is raised again and again until the block is left.
    """
    before: dict[int, Any] = {}
    first = ""

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        before[number](number, frame)
        first = first or signal.Signals(number).name
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)
        raise Signalled(first)

    def handle_again(number: int, frame: FrameType | None) -> None:
        raise Signalled(first)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
    unheard = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None)
    heard = {number: handler for number, handler in before.items() if handler not in unheard}
    alarm = signal.signal(signal.SIGALRM, handle_again) if heard else None
    try:
        for number in heard:
            signal.signal(number, handle)
        yield
    finally:
        if heard:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
        for number, handler in heard.items():
            signal.signal(number, handler)

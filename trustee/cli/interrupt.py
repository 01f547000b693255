"""Running a job until it ends or a signal interrupts it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite kill, and a terminal that was closed."""


async def until_interrupted(job: Callable[[], Any]) -> Any:
    """Run a job; a signal cancels it, unless it was ignored from the start, as under nohup.

    Raises:
        KeyboardInterrupt: if it was cancelled.
    """
    import anyio

    interrupted = False
    result: Any = None
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    with anyio.open_signal_receiver(*heard) as signals:
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                nonlocal interrupted
                async for _ in signals:
                    interrupted = True
                    tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            result = await job()
            tasks.cancel_scope.cancel()
    if interrupted:
        raise KeyboardInterrupt
    return result


def hang_up() -> None:
    """Do as if the terminal had been closed, where that is listened for; nohup stays nohup."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        signal.raise_signal(signal.SIGHUP)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let every one of the signals raise KeyboardInterrupt in this block, unless it is ignored.

    It covers what comes before and after `until_interrupted`, where no event loop listens.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    try:
        for number in heard:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])

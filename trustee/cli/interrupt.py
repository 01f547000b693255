"""Running a job until it ends or the user interrupts it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import anyio


async def until_interrupted(job: Callable[[], Any]) -> Any:
    """Run a job; SIGINT or SIGTERM cancels it.

    Raises:
        KeyboardInterrupt: if it was cancelled.
    """
    interrupted = False
    result: Any = None
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
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

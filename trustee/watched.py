"""An engine with the watchdog around it, for jobs that are no training run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from trustee.config import Config
from trustee.deadlines import EngineClock
from trustee.engines.vllm import VllmEngine
from trustee.launch import show_place, trainer_spec
from trustee.run import Event
from trustee.watchdog import Watchdog


@asynccontextmanager
async def open_watched(
    config: Config,
    model: Path,
    folder: Path,
    *,
    clock: EngineClock,
    tell: Callable[[Event], None],
) -> AsyncIterator[Watchdog]:
    """Start the engine of a config, and guard the event loop as long as it runs.

    Args:
        config: whose engine and trainer are wanted.
        model: folder of the base.
        folder: where stacks go if something hangs.
        clock: stands still while the trainer works.
        tell: takes progress events.

    Raises:
        RunError: if the engine does not start.
    """
    tell({"event": "stage", "name": f"starting the engine on {show_place(config, model)}"})
    async with VllmEngine(config.engine, trainer_spec(config, model)) as engine:
        core = Watchdog(
            engine,
            engine,
            config=config.watchdog,
            clock=clock,
            folder=folder,
            interrupt=engine.dump_stacks,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(core.guard_loop)
            yield core
            tasks.cancel_scope.cancel()

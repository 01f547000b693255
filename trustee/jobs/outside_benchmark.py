"""`trustee eval --suite tau2` and `lm-eval`: a benchmark that asks our endpoint."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio

from trustee.config import Config
from trustee.endpoint.catalogue import Catalogue
from trustee.endpoint.guard import EndpointLimits
from trustee.endpoint.listening import bind, show_address
from trustee.engine.clock import EngineClock
from trustee.engine.watchdog import Watchdog
from trustee.evaluation.benchmark_report import BenchmarkReport
from trustee.evaluation.outside import OutsideBenchmark, Place
from trustee.events import Emit
from trustee.jobs.assemble import choose_adapter, open_watched, prepare_model
from trustee.jobs.benchmark import ADAPTER, BASE, Scoreboard, score_policies
from trustee.jobs.serve import PORT, Serving, listen
from trustee.jobs.stage_meter import metered
from trustee.rendering.renderer import Renderer


@asynccontextmanager
async def offer(
    config: Config, model: Path, renderer: Renderer, *, run: Path, adapter: Path, emit: Emit
) -> AsyncIterator[tuple[Watchdog, Mapping[str, Place]]]:
    """Offer base and adapter at an address of this machine; yield the engine and both places."""
    key = secrets.token_hex(16)
    # Each request waits for its turn in the engine, however many there are.
    limits = EndpointLimits(requests=1024, seconds=config.rollout.limits.seconds)
    serving = Serving(limits=limits)
    async with AsyncExitStack() as stack:
        versions = stack.enter_context(tempfile.TemporaryDirectory(prefix="trustee-serve-"))
        listening = stack.enter_context(bind(serving.host, 0, first=PORT))
        engine = await stack.enter_async_context(
            open_watched(config, model, run, clock=EngineClock(), emit=emit)
        )
        catalogue = Catalogue(
            engine,
            base=BASE,
            find=lambda: {ADAPTER: adapter},
            check=lambda path: None,
            slots=config.engine.versions,
            folder=Path(versions),
        )
        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(
            partial(listen, catalogue, engine, renderer, listening, serving=serving, key=key)
        )
        url = f"{show_address(listening, serving.host)}/v1"
        yield engine, {label: Place(url=url, model=label, key=key) for label in (BASE, ADAPTER)}
        group.cancel_scope.cancel()


async def play_outside(
    config: Config,
    run: Path,
    benchmark: OutsideBenchmark,
    *,
    rows: int | None,
    adapter: Path | None,
    emit: Emit,
) -> BenchmarkReport:
    """Have a benchmark play with the base and with the adapter; store what came of each task.

    Args:
        config: the run's config, or one changed from it.
        run: the run's folder.
        benchmark: what is played.
        rows: tasks of each category; None is all.
        adapter: PEFT or run folder; None is the run's own newest adapter.
        emit: receives progress events.

    Raises:
        InputError: if the adapter does not fit, or the benchmark is not installed.
    """
    model, renderer = prepare_model(config)
    folder = choose_adapter(config, adapter or run, model, emit=emit)
    async with benchmark.open() as opened:

        async def play(board: Scoreboard) -> None:
            async with offer(config, model, renderer, run=run, adapter=folder, emit=emit) as (
                engine,
                places,
            ):
                for label in board.missing:
                    stage, count = f"playing {benchmark.name}: {label}", len(board.tasks)
                    with metered(
                        stage, emit, of=count, unit="episodes", engine=engine.progress
                    ) as meter:
                        played = await opened.play(
                            board.tasks, policy=places[label], base=places[BASE], done=meter.count
                        )
                    board.keep(label, played)

        return await score_policies(
            benchmark, opened, run=run, adapter=folder, rows=rows, play=play, emit=emit
        )

"""`trustee eval --suite bfcl`: a run's adapter against its base on a published benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Engine
from trustee.environments.protocol import Services
from trustee.evaluation.benchmark_report import BenchmarkReport, report_on
from trustee.evaluation.benchmarks import Benchmark, OpenBenchmark
from trustee.evaluation.bfcl.benchmark import Bfcl
from trustee.events import Emit
from trustee.jobs.assemble import (
    choose_adapter,
    make_simulator,
    open_watched,
    prepare_model,
    restart_once,
)
from trustee.jobs.held_out import make_eval_player, play_metered
from trustee.jobs.stage_meter import metered
from trustee.jobs.suite import publish_policy
from trustee.rendering.renderer import Renderer
from trustee.rollout import EpisodePlayer
from trustee.runs.files import write_lines
from trustee.runs.store import Store
from trustee.types import Trajectory

BENCHMARKS: dict[str, Benchmark] = {"bfcl": Bfcl()}
"""All benchmarks, by their names on the command line."""


class Policy(NamedTuple):
    """What is played: the base, or it with an adapter."""

    label: str
    path: Path | None


def make_player(
    config: Config, engine: Engine, renderer: Renderer, *, opened: OpenBenchmark, clock: EngineClock
) -> EpisodePlayer:
    """Return what plays a benchmark's tasks, with as many messages as the benchmark allows."""
    simulator = make_simulator(config, engine, renderer)
    player = make_eval_player(
        config,
        engine,
        world=opened.world,
        renderer=renderer,
        serve=lambda rng: Services(simulator=simulator, rng=rng),
        clock=clock,
    )
    return replace(player, limits=msgspec.structs.replace(player.limits, turns=opened.turns))


async def play_benchmark(
    config: Config,
    run: Path,
    benchmark: Benchmark,
    *,
    rows: int | None,
    adapter: Path | None,
    emit: Emit,
) -> BenchmarkReport:
    """Play a benchmark with the base and with the adapter; store every episode.

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
    policies: tuple[Policy, ...] = (Policy("base", None), Policy("adapter", folder))
    played: dict[str, Sequence[Trajectory]] = {}
    async with Store(run) as store, benchmark.open() as opened:
        tasks = await opened.read_tasks(rows)
        oracle, floor = await opened.oracle(tasks), await opened.floor(tasks)

        async def play() -> None:
            clock = EngineClock()
            async with open_watched(config, model, run, clock=clock, emit=emit) as engine:
                player = make_player(config, engine, renderer, opened=opened, clock=clock)
                for policy in policies:
                    if policy.label not in played:
                        name = f"playing {len(tasks)} tasks of {benchmark.name}: {policy.label}"
                        count = len(tasks)
                        played[policy.label] = await play_metered(
                            tasks,
                            player,
                            metered(name, emit, of=count, unit="episodes", engine=engine.progress),
                            config=config,
                            adapter=await publish_policy(engine, policy.path, run),
                            label=policy.label,
                        )
                        file = f"benchmark-{benchmark.name}-{policy.label}.jsonl"
                        write_lines(store.folder / file, played[policy.label])

        await restart_once(play, emit=emit)
    return report_on(
        tasks,
        played,
        groups=benchmark.groups,
        oracle=oracle,
        floor=floor,
        benchmark=benchmark.name,
        adapter=str(folder),
    )

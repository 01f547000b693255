"""`trustee eval --suite bfcl`: a run's adapter against its base on a published benchmark."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Engine
from trustee.environments.protocol import Services
from trustee.evaluation.benchmark_report import BenchmarkReport, report_on
from trustee.evaluation.benchmarks import Benchmark, OpenBenchmark, Published, TaskSet
from trustee.evaluation.bfcl.benchmark import Bfcl
from trustee.events import Emit
from trustee.jobs.assemble import (
    choose_adapter,
    make_simulator,
    open_watched,
    prepare_model,
    restart_once,
)
from trustee.jobs.comparison import loaded_policy
from trustee.jobs.held_out import make_eval_player, play_metered
from trustee.jobs.stage_meter import metered
from trustee.rendering.renderer import Renderer
from trustee.rollout import EpisodePlayer
from trustee.runs.files import write_lines
from trustee.runs.store import Store
from trustee.types import Task, Trajectory

BASE, ADAPTER = "base", "adapter"
"""The two policies that play."""
BENCHMARKS: dict[str, Benchmark] = {"bfcl": Bfcl()}
"""All benchmarks that are played here, by their names on the command line."""


class Scoreboard:
    """What each policy has played of a benchmark; on disk as soon as it is known."""

    def __init__(self, run: Path, benchmark: str, *, tasks: Sequence[Task]) -> None:
        self.run = run
        self.benchmark = benchmark
        self.tasks = tasks
        self.played: dict[str, Sequence[Trajectory]] = {}

    @property
    def missing(self) -> list[str]:
        """The policies that have not played yet."""
        return [label for label in (BASE, ADAPTER) if label not in self.played]

    def keep(self, label: str, played: Sequence[Trajectory]) -> None:
        """Keep a policy's episodes."""
        self.played[label] = played
        write_lines(self.run / f"benchmark-{self.benchmark}-{label}.jsonl", played)


async def score_policies(
    benchmark: Published,
    opened: TaskSet,
    *,
    run: Path,
    adapter: Path,
    rows: int | None,
    play: Callable[[Scoreboard], Awaitable[None]],
    emit: Emit,
) -> BenchmarkReport:
    """Have base and adapter play a benchmark, with agents without a model beside; report on it.

    Args:
        benchmark: what is played.
        opened: its tasks.
        run: the run's folder, which gets the episodes.
        adapter: the adapter's folder.
        rows: tasks of each category; None is all.
        play: plays what the scoreboard misses; called once more if the engine died.
        emit: receives progress events.
    """
    async with Store(run):
        tasks = await opened.read_tasks(rows)
        oracle, floor = await opened.oracle(tasks), await opened.floor(tasks)
        board = Scoreboard(run, benchmark.name, tasks=tasks)
        await restart_once(lambda: play(board), emit=emit)
    return report_on(
        tasks,
        board.played,
        groups=benchmark.groups,
        oracle=oracle,
        floor=floor,
        benchmark=benchmark.name,
        adapter=str(adapter),
    )


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
    async with benchmark.open() as opened:

        async def play(board: Scoreboard) -> None:
            clock, count = EngineClock(), len(board.tasks)
            async with open_watched(config, model, run, clock=clock, emit=emit) as engine:
                player = make_player(config, engine, renderer, opened=opened, clock=clock)
                for label in board.missing:
                    stage = f"playing {count} tasks of {benchmark.name}: {label}"
                    path = folder if label == ADAPTER else None
                    async with loaded_policy(engine, run, path) as policy:
                        played = await play_metered(
                            board.tasks,
                            player,
                            metered(stage, emit, of=count, unit="episodes", engine=engine.progress),
                            config=config,
                            adapter=policy,
                            label=label,
                        )
                    board.keep(label, played)

        return await score_policies(
            benchmark, opened, run=run, adapter=folder, rows=rows, play=play, emit=emit
        )

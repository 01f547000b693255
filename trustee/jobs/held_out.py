"""Success of a run on the held-out tasks before and after training, and the difference."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from trustee.checks.judge import check_agreement, compare_judge
from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Engine
from trustee.environments.protocol import Services, World
from trustee.evaluation.evaluate import (
    Gain,
    SuccessRate,
    evaluate,
    gain_between,
    success_of,
    write_tasks,
)
from trustee.events import Note, Stage
from trustee.rl.run import Run
from trustee.rollout import EpisodePlayer, EpisodeRenderer
from trustee.runs.files import write_json, write_lines
from trustee.runs.store import Store, read_lines
from trustee.types import Adapter, Record, Task, Trajectory

HELD_OUT = "held-out-tasks.jsonl"


class RunResult(Record, frozen=True):
    """Final result of a run."""

    folder: Path
    steps: int
    version: int
    before: SuccessRate | None
    after: SuccessRate | None
    gain: Gain | None
    seconds: float


def evaluation_world(config: Config) -> World:
    """Return the world of the held-out tasks."""
    return config.env if config.eval_env is None else config.eval_env


def make_eval_player(
    config: Config,
    engine: Engine,
    *,
    world: World,
    renderer: EpisodeRenderer,
    serve: Callable[[random.Random], Services],
    clock: EngineClock,
) -> EpisodePlayer:
    """Return the player that measures a policy in a world."""
    return EpisodePlayer(
        make_environment=world.environment,
        serve=serve,
        engine=engine,
        renderer=renderer,
        clock=clock,
        limits=config.rollout.limits,
        temperature=config.eval.temperature,
        context=engine.context,
    )


async def measure(
    config: Config, run: Run, adapter: Adapter | None, *, label: str
) -> tuple[Trajectory, ...]:
    """Play the held-out tasks and store the episodes."""
    if not config.eval.tasks:
        return ()
    kept = run.store.folder / f"held-out-{label}.jsonl"
    if kept.exists():
        if label == "before":
            return tuple(read_lines(kept, Trajectory))
        kept.unlink()
    run.emit(Stage(name=f"held-out tasks {label} training: {config.eval.tasks}"))
    player = make_eval_player(
        config,
        run.engine,
        world=evaluation_world(config),
        renderer=run.renderer,
        serve=run.serve,
        clock=run.clock,
    )
    tasks = await held_out_tasks(config, run.store, player)
    played = await evaluate(tasks, player, config=config.eval, adapter=adapter, label=label)
    write_lines(kept, played)
    share = success_of(played)
    run.emit(Note(text=f"held-out success {label}: {show_share(share)}"))
    await judge_the_judge(config, run, tasks, played, label=label)
    return played


async def judge_the_judge(
    config: Config, run: Run, tasks: Sequence[Task], played: Sequence[Trajectory], *, label: str
) -> None:
    """Compare the training judge with a held-out world that knows the true result.

    Raises:
        RunError: if they agree too rarely and training has not started yet.
    """
    verdicts = await compare_judge(
        tasks,
        played,
        held_out=evaluation_world(config),
        training=config.env,
        simulator=run.simulator,
        config=config.gates,
    )
    if verdicts is None:
        return
    text = f"judge against the truth {label}: {verdicts.agreement:.1%} agree, {verdicts.count()}"
    run.emit(Note(text=text))
    if label == "before":
        check_agreement(verdicts, config=config.gates)


async def held_out_tasks(
    config: Config, store: Store, player: EpisodePlayer, *, name: str = HELD_OUT
) -> tuple[Task, ...]:
    """Return the held-out tasks, written once to a file so that every policy gets the same ones."""
    path = store.folder / name
    if path.exists():
        return tuple(read_lines(path, Task))
    source = evaluation_world(config).source(seed=config.eval.seed, held_out=True)
    tasks = await write_tasks(source, player, config=config.eval)
    write_lines(path, tasks)
    return tasks


def conclude(
    config: Config,
    run: Run,
    before: Sequence[Trajectory],
    after: Sequence[Trajectory],
    *,
    seconds: float,
) -> RunResult:
    """Compare before and after, and store the result."""
    measured = bool(before and after)
    outcome = RunResult(
        folder=run.store.folder,
        steps=run.step,
        version=run.versions.version,
        before=success_of(before) if before else None,
        after=success_of(after) if after else None,
        gain=gain_between(before, after) if measured else None,
        seconds=seconds,
    )
    write_json(run.store.folder / "outcome.json", outcome)
    return outcome


def show_share(share: SuccessRate) -> str:
    """Return a success rate with its confidence interval as text."""
    failed = f", {share.failed} failed" if share.failed else ""
    return (
        f"{share.value:.1%} (95 % interval {share.low:.1%} to {share.high:.1%}, "
        f"{share.count} tasks{failed})"
    )

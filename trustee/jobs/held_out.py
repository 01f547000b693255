"""Success of a run on the held-out tasks before and after training, and the difference."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import msgspec

from trustee.checks.judge import check_agreement, compare_judge
from trustee.config import Config
from trustee.decoding import decode_json, read_file
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Engine, EngineProgress
from trustee.environments.protocol import Services, World
from trustee.errors import InputError, RunError
from trustee.evaluation.evaluate import (
    Gain,
    SuccessRate,
    evaluate,
    gain_between,
    success_of,
    write_tasks,
)
from trustee.events import Emit, HeldOutPlayed, Note
from trustee.jobs.resume import progress_of
from trustee.jobs.stage_meter import StageMeter, metered
from trustee.rl.interim import STEP, Measured, name_interim
from trustee.rl.run import Run, RunState
from trustee.rollout import EpisodePlayer, EpisodeRenderer
from trustee.runs.files import write_json, write_lines
from trustee.runs.store import Store
from trustee.types import Adapter, Failure, Record, Task, Trajectory

HELD_OUT, OUTCOME = "held-out-tasks.jsonl", "outcome.json"
BEFORE, AFTER = "before", "after"
"""Labels of the measurements before and after training; others are those of steps."""

T = TypeVar("T")


class RunResult(Record, frozen=True):
    """Final result of a run."""

    folder: Path
    steps: int
    version: int
    before: SuccessRate | None
    after: SuccessRate | None
    gain: Gain | None
    seconds: float
    best: Measured | None = None
    """The best measurement in training, with `eval.every`."""


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
    """Play the held-out tasks, unless that was done already, and store the episodes."""
    if not config.eval.tasks:
        return ()
    if label == BEFORE and (kept := read_played(run.store.folder, label)) is not None:
        return kept
    player = make_eval_player(
        config,
        run.engine,
        world=evaluation_world(config),
        renderer=run.renderer,
        serve=run.serve,
        clock=run.clock,
    )
    engine = run.engine.progress
    tasks = await held_out_tasks(config, run.store, player, emit=run.emit, engine=engine)
    played = find_played(run, label)
    if played is None:
        name = f"held-out tasks {say_when(label)}: {len(tasks)}"
        meter = metered(name, run.emit, of=len(tasks), unit="episodes", engine=engine)
        played = await play_metered(
            tasks, player, meter, config=config, adapter=adapter, label=label
        )
    write_lines(run.store.folder / name_played(label), played)
    tell_share(run, success_of(played), label=label)
    if label in (BEFORE, AFTER):
        await judge_the_judge(config, run, tasks, played, label=label)
    return played


def find_played(run: Run, label: str) -> tuple[Trajectory, ...] | None:
    """Return episodes of the current version that an earlier measurement has left."""
    last = run.interim.last
    if label == BEFORE:
        return None
    if label == AFTER:
        if last is None or (last.step, last.version) != (run.step, run.versions.version):
            return None
        label = name_interim(last.step)
    return read_played(run.store.folder, label)


def tell_share(run: Run, share: SuccessRate, *, label: str) -> None:
    """Tell what was measured."""
    run.emit(
        HeldOutPlayed(
            label=label,
            step=run.step,
            success=share.value,
            low=share.low,
            high=share.high,
            count=share.count,
            failed=share.failed,
            file=name_played(label),
        )
    )
    when = label if label in (BEFORE, AFTER) else say_when(label)
    run.emit(Note(text=f"held-out success {when}: {show_share(share)}"))


async def measure_interim(config: Config, run: Run) -> Measured:
    """Measure the current version between two steps."""
    played = await measure(config, run, run.versions.current, label=name_interim(run.step))
    return measured_as(run, played)


def measured_as(run: Run, played: Sequence[Trajectory]) -> Measured:
    """Return what the current version was measured at."""
    return Measured(success=success_of(played).value, step=run.step, version=run.versions.version)


def say_when(label: str) -> str:
    """Return when a measurement is taken, as text."""
    step = label.removeprefix(STEP)
    return f"after step {int(step)}" if step != label else f"{label} training"


async def play_metered(
    tasks: Sequence[Task],
    player: EpisodePlayer,
    metering: AbstractContextManager[StageMeter],
    *,
    config: Config,
    adapter: Adapter | None,
    label: str,
    repeats: int = 1,
    places: Sequence[int] | None = None,
) -> tuple[Trajectory, ...]:
    """Play each task, as a stage that shows how far it is."""
    with metering as meter:
        return await evaluate(
            tasks,
            player,
            config=config.eval,
            adapter=adapter,
            label=label,
            repeats=repeats,
            places=places,
            done=meter.count,
        )


def name_played(label: str) -> str:
    """Return the file of the held-out episodes of a measurement."""
    return f"held-out-{label}.jsonl"


def read_whole(path: Path, kind: type[T]) -> tuple[T, ...] | None:
    """Return the lines of a file that decides something; None if it is missing or damaged."""
    try:
        data = read_file(path, error=InputError)
        if not data.endswith(b"\n"):
            return None
        return tuple(decode_json(line, kind, error=InputError) for line in data.split(b"\n")[:-1])
    except InputError:
        return None


def read_played(folder: Path, label: str) -> tuple[Trajectory, ...] | None:
    """Return held-out episodes of an earlier call; None unless there is one for every task."""
    tasks = read_whole(folder / HELD_OUT, Task)
    played = read_whole(folder / name_played(label), Trajectory)
    if tasks is None or played is None:
        return None
    # A kill in the middle of a write, or tasks that were made again, must not count as a result.
    return played if [t.task_id for t in played] == [task.id for task in tasks] else None


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
    run.emit(Note(text=text, about="gate"))
    if label == "before":
        check_agreement(verdicts, config=config.gates)


async def held_out_tasks(
    config: Config,
    store: Store,
    player: EpisodePlayer,
    *,
    emit: Emit = lambda event: None,
    engine: Callable[[], EngineProgress] = EngineProgress,
    name: str = HELD_OUT,
) -> tuple[Task, ...]:
    """Return the held-out tasks, written once to a file so that every policy gets the same ones.

    A file that is not whole is written again.

    Raises:
        RunError: if not one task could be written.
    """
    path = store.folder / name
    known = read_whole(path, Task)
    if known:
        return known
    source = evaluation_world(config).source(seed=config.eval.seed, held_out=True)
    count = config.eval.tasks or 0
    stage = f"writing {count} held-out tasks"
    outcomes: list[Task | Failure] = []
    with metered(stage, emit, of=count, unit="tasks", engine=engine) as meter:

        def done(outcome: Task | Failure) -> None:
            outcomes.append(outcome)
            meter.count()

        tasks = await write_tasks(source, player, config=config.eval, done=done)
    if outcomes and not tasks:
        last = outcomes[-1]
        why = last.message if isinstance(last, Failure) else ""
        raise RunError(
            f"none of the {count} held-out tasks could be written, so success cannot be measured; "
            f"the last refusal: {why}; take a more able model, a higher simulator.tries, or "
            "--set eval.tasks=none to train without the measurement"
        )
    write_lines(path, tasks)
    return tasks


def conclude(
    run: Run,
    before: Sequence[Trajectory],
    after: Sequence[Trajectory],
    *,
    seconds: float,
) -> RunResult:
    """Compare before and after, and store the result."""
    outcome = compare(
        run.store.folder,
        before,
        after,
        reached=Reached(steps=run.step, version=run.versions.version, seconds=seconds),
        best=run.interim.best,
    )
    write_json(run.store.folder / OUTCOME, outcome)
    return outcome


class Reached(msgspec.Struct, frozen=True):
    """How far a run has come; `outcome.json` has these fields and more."""

    steps: int
    version: int
    seconds: float


def read_finished(config: Config, folder: Path, state: RunState) -> RunResult | None:
    """Return the result of a run that has nothing left to do; None if it has.

    What was measured is read from the episodes; the run is not finished if some are missing.
    """
    if progress_of(config.run, state) < 1:
        return None
    try:
        data = read_file(folder / OUTCOME, error=InputError)
        reached = decode_json(data, Reached, error=InputError)
    except InputError:
        return None
    if (reached.steps, reached.version) != (state.step, state.version):
        return None
    before, after = (read_played(folder, label) for label in ("before", "after"))
    if config.eval.tasks and (before is None or after is None):
        return None
    return compare(folder, before or (), after or (), reached=reached, best=state.interim.best)


def finished_text(folder: Path, state: RunState) -> str:
    """Say that a run is finished, and how it gets further."""
    return (
        f"this run is finished, after {state.step} steps and {state.seconds / 60:.1f} minutes of "
        f"training; trustee run --resume {folder} --steps N or --minutes M makes it longer"
    )


def compare(
    folder: Path,
    before: Sequence[Trajectory],
    after: Sequence[Trajectory],
    *,
    reached: Reached,
    best: Measured | None = None,
) -> RunResult:
    """Return the result of a run.

    Raises:
        RunError: if before and after were not measured on the same tasks.
    """
    measured = bool(before and after)
    if measured:
        check_same_tasks(before, after)
    return RunResult(
        folder=folder,
        steps=reached.steps,
        version=reached.version,
        before=success_of(before) if before else None,
        after=success_of(after) if after else None,
        gain=gain_between(before, after) if measured else None,
        seconds=reached.seconds,
        best=best,
    )


def check_same_tasks(first: Sequence[Trajectory], second: Sequence[Trajectory]) -> None:
    """Refuse a gain between episodes of different tasks.

    Raises:
        RunError: naming how many tasks each side has alone.
    """
    one, two = (sorted(t.task_id for t in played) for played in (first, second))
    if one != two:
        raise RunError(
            f"no gain can be told: of {len(one)} and {len(two)} held-out episodes "
            f"{len(set(one) & set(two))} are of the same tasks; delete held-out-*.jsonl in the "
            "run folder and continue, then all are played again"
        )


def show_share(share: SuccessRate) -> str:
    """Return a success rate with its confidence interval as text."""
    failed = f", {share.failed} failed" if share.failed else ""
    return (
        f"{share.value:.1%} (95 % interval {share.low:.1%} to {share.high:.1%}, "
        f"{share.count} tasks{failed})"
    )

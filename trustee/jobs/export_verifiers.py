"""`trustee export --verifiers`: a world's tasks and tools as a package for verifiers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.environments.protocol import Package, TaskSource
from trustee.errors import InputError, RunError
from trustee.evaluation.evaluate import EvalConfig, write_tasks
from trustee.events import Emit, Note
from trustee.export.remote_simulator import SimulatedRules
from trustee.export.verifiers_package import check_place, write_package
from trustee.jobs.assemble import (
    make_simulator,
    name_served,
    open_background,
    open_watched,
    prepare_model,
    sampling_of,
    serve_with,
)
from trustee.jobs.held_out import make_eval_player
from trustee.jobs.stage_meter import metered
from trustee.rollout import EpisodePlayer
from trustee.sandbox.calls import NoSandbox
from trustee.types import Failure, Record, Task

TRAIN, TEST = "train", "test"


class ExportedPackage(Record, frozen=True):
    """A package that was written."""

    path: Path
    taskset: str
    """Id of its taskset."""
    tasks: dict[str, int]
    """Number of tasks by split."""


class Side(NamedTuple):
    """Where the tasks of one side come from, and how many."""

    source: TaskSource
    how: EvalConfig


def needs_engine(config: Config) -> bool:
    """Whether a model must write the tasks of a package.

    Raises:
        InputError: if the world cannot be exported.
    """
    return config.env.package_source(seed=config.run.seed, tasks=1, held_out=False) is not None


def export_verifiers(config: Config, place: Path) -> ExportedPackage:
    """Write a package with the tasks of both sides.

    Raises:
        InputError: if the world or the place cannot be used.
        RunError: if the package cannot be written.
    """
    package = config.env.package(seed=config.run.seed)
    if package is None:
        raise InputError(
            f"the tasks of the world {type(config.env).__name__} are not fixed, or its tools are "
            'no code; give a config with env.kind = "executable" and env.unit = "episode", or '
            'with env.kind = "simulated"'
        )
    return _write(package, place)


def _write(package: Package, place: Path) -> ExportedPackage:
    taskset = write_package(place, package)
    counts = {split: len(tasks) for split, tasks in package.splits.items()}
    return ExportedPackage(path=place, taskset=taskset, tasks=counts)


async def export_written(
    config: Config, place: Path, *, count: int, folder: Path, emit: Emit
) -> ExportedPackage:
    """Have the base write tasks for both sides, and write them as a package.

    Args:
        config: the world, the model and the engine.
        place: the package's folder.
        count: number of tasks for each side.
        folder: where stack dumps are written if something hangs.
        emit: receives progress events.

    Raises:
        InputError: if the world or the place cannot be used.
        RunError: if no task of a side could be written.
    """
    check_place(place)
    sides = {
        TRAIN: _find_side(config, config.run.seed, count=count, held_out=False),
        TEST: _find_side(config, config.eval.seed, count=count, held_out=True),
    }
    model, renderer = prepare_model(config)
    clock = EngineClock()
    splits: dict[str, tuple[Task, ...]] = {}
    async with (
        open_background() as background,
        open_watched(config, model, folder, clock=clock, emit=emit) as engine,
    ):
        simulator = make_simulator(config, engine, renderer)
        player = make_eval_player(
            config,
            engine,
            world=config.env,
            renderer=renderer,
            serve=serve_with(simulator, sandbox=NoSandbox(), background=background),
            clock=clock,
        )
        for name, side in sides.items():
            stage = f"writing {count} tasks for {name}"
            with metered(stage, emit, of=count, unit="tasks", engine=engine.progress) as meter:
                splits[name] = await _write_side(side, player, tell=meter.count)
            if missing := count - len(splits[name]):
                emit(Note(text=f"{missing} of {count} tasks for {name} could not be written"))
    rules = msgspec.to_builtins(_rules_of(config, base=name_served(config, model)))
    return _write(Package(splits=splits, rules=rules, simulated=True), place)


def _find_side(config: Config, seed: int, *, count: int, held_out: bool) -> Side:
    source = config.env.package_source(seed=seed, tasks=count, held_out=held_out)
    assert source is not None, "needs_engine() was not asked"
    return Side(source, msgspec.structs.replace(config.eval, tasks=count, seed=seed))


def _rules_of(config: Config, *, base: str) -> SimulatedRules:
    rules = config.env.judge_rules()
    assert rules is not None, "a world whose tasks a model writes has a judge"
    return SimulatedRules(
        rules=rules,
        roles=sampling_of(config),
        tries=config.simulator.tries,
        base=base,
        turns=config.rollout.limits.turns,
    )


async def _write_side(
    side: Side, player: EpisodePlayer, *, tell: Callable[[], None]
) -> tuple[Task, ...]:
    """Return the tasks of one side; those that could not be written are left out.

    Raises:
        RunError: if none could be written.
    """
    refusals: list[str] = []

    def done(outcome: Task | Failure) -> None:
        if isinstance(outcome, Failure):
            refusals.append(outcome.message)
        tell()

    tasks = await write_tasks(side.source, player, config=side.how, done=done)
    if not tasks:
        raise RunError(
            f"none of {side.how.tasks} tasks could be written; the last refusal: {refusals[-1]}; "
            "take a more able model, or a higher simulator.tries"
        )
    return tasks


def package_text(package: ExportedPackage) -> str:
    """Return what was written, and how to go on."""
    counts = ", ".join(f"{count} tasks in {split}" for split, count in package.tasks.items())
    return (
        f"verifiers    {package.path}  {counts}\n"
        f"  pip install {package.path}, then vf-eval {package.taskset}; see its README.md"
    )

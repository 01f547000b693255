"""`trustee eval`: compare a finished run's adapter with its base on the held-out tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from trustee.config import Config
from trustee.environments.protocol import World
from trustee.environments.trial.metrics import figures_of
from trustee.errors import InputError
from trustee.evaluation.evaluate import Gain, SuccessRate, gain_between, success_of
from trustee.events import Compared, Emit
from trustee.jobs.assemble import choose_adapter, prepare_model
from trustee.jobs.comparison import all_tasks, play_policies
from trustee.jobs.held_out import HELD_OUT, check_same_tasks, evaluation_world, show_share
from trustee.jobs.run_metadata import read_metadata
from trustee.types import Record, Task, Trajectory


class Comparison(Record, frozen=True):
    """Results of base and adapter on the same tasks."""

    adapter: Path
    base: SuccessRate
    trained: SuccessRate
    gain: Gain
    by_calls: dict[int, tuple[float, float]]
    """Success of base and adapter, by number of expected calls."""
    trials: dict[str, tuple[float, float]] = {}
    """Trial-phase figures of base and adapter, by name."""


def name_tasks(config: Config, run: Path) -> str:
    """Return the file of the held-out tasks: the run's own, or another one for other tasks."""
    recorded = read_metadata(run).config
    mine, own = ((evaluation_world(c), c.eval.seed, c.eval.tasks) for c in (config, recorded))
    if mine == own:
        return HELD_OUT
    digest = hashlib.sha256(msgspec.json.encode(mine)).hexdigest()[:8]
    return f"held-out-tasks-{digest}.jsonl"


async def run_comparison(
    config: Config, run: Path, *, adapter: Path | None, emit: Emit
) -> Comparison:
    """Play the held-out tasks with the base and with the adapter.

    Args:
        config: the run's config, or one changed from it.
        run: the run's folder.
        adapter: PEFT or run folder; None is the run's own newest adapter.
        emit: receives progress events.
    """
    (folder,), tasks, played = await play_adapters(
        config, run, adapters=[adapter or run], emit=emit
    )
    comparison = compare_played(tasks, played, world=evaluation_world(config), adapter=folder)
    base, trained = comparison.base.value, comparison.trained.value
    emit(Compared(base=base, adapter=trained, gain_points=comparison.gain.points))
    return comparison


async def play_adapters(
    config: Config, run: Path, *, adapters: Sequence[Path], repeats: int = 1, emit: Emit
) -> tuple[Sequence[Path], Sequence[Task], Mapping[str, Sequence[Trajectory]]]:
    """Play the held-out tasks with the base and with some adapters.

    Args:
        config: the run's config, or one changed from it.
        run: the run's folder, which gets the episodes.
        adapters: PEFT or run folders.
        repeats: attempts of each policy at each task.
        emit: receives progress events.

    Returns:
        the adapters' own folders, the tasks, and the episodes by label, first attempts in front.
    """
    if not config.eval.tasks:
        raise InputError("eval.tasks is none, so there are no tasks to play; give --tasks N")
    model, renderer = prepare_model(config)
    folders = [choose_adapter(config, adapter, model, emit=emit) for adapter in adapters]
    tasks, played = await play_policies(
        config,
        run,
        model=model,
        renderer=renderer,
        policies={"base": None, **label_adapters(folders)},
        find_tasks=all_tasks(config, name_tasks(config, run), emit=emit),
        stored_as="eval",
        repeats=repeats,
        emit=emit,
    )
    return folders, tasks, played


def label_adapters(folders: Sequence[Path]) -> dict[str, Path]:
    """Return adapters by their labels."""
    return {name_adapter(place): folder for place, folder in enumerate(folders)}


def name_adapter(place: int) -> str:
    """Return the label of the adapter at a place of the call."""
    return f"adapter-{place + 1}" if place else "adapter"


def compare_played(
    tasks: Sequence[Task],
    played: Mapping[str, Sequence[Trajectory]],
    *,
    world: World,
    adapter: Path,
) -> Comparison:
    """Return the success of base and adapter on the same tasks, and the gain between them."""
    base, trained = played["base"], played["adapter"]
    check_same_tasks(base, trained)
    return Comparison(
        adapter=adapter,
        base=success_of(base),
        trained=success_of(trained),
        gain=gain_between(base, trained),
        by_calls=split_by_calls(world, tasks, base=base, trained=trained),
        trials=pair_figures(figures_of(base), figures_of(trained)),
    )


def split_by_calls(
    world: World,
    tasks: Sequence[Task],
    *,
    base: Sequence[Trajectory],
    trained: Sequence[Trajectory],
) -> dict[int, tuple[float, float]]:
    """Return the success of both policies for each number of expected calls."""
    sizes = {task.id: world.count_expected_calls(task) for task in tasks}

    def share(played: Sequence[Trajectory], size: int) -> float:
        return success_of([t for t in played if sizes[t.task_id] == size]).value

    return {size: (share(base, size), share(trained, size)) for size in sorted(set(sizes.values()))}


def pair_figures(
    base: dict[str, float], trained: dict[str, float]
) -> dict[str, tuple[float, float]]:
    """Return the figures of both policies as pairs, by name."""
    return {name: (base[name], trained[name]) for name in base.keys() & trained.keys()}


def compare_text(comparison: Comparison) -> str:
    """Return a comparison as readable text."""
    gain = comparison.gain
    lines = [
        f"base     {show_share(comparison.base)}",
        f"adapter  {show_share(comparison.trained)}  {comparison.adapter}",
        f"gain     {gain.points:+.1f} points (95 % interval {gain.low:+.1f} to {gain.high:+.1f}); "
        f"{gain.better} tasks won, {gain.worse} lost",
    ]
    lines += [
        f"  {size} expected calls: {base:.1%} -> {after:.1%}"
        for size, (base, after) in comparison.by_calls.items()
    ]
    lines += [
        f"  {name.replace('_', ' ')}: {base:.2f} -> {after:.2f}"
        for name, (base, after) in sorted(comparison.trials.items())
    ]
    return "\n".join(lines)

"""Held-out tasks played through an exported file, against those that the run itself has played."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio.from_thread
import msgspec

from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import EngineProgress
from trustee.errors import InputError, RunError
from trustee.evaluation.evaluate import Gain, SuccessRate, evaluate, gain_between, success_of
from trustee.events import Emit
from trustee.export.llama_engine import POLICY, open_llama
from trustee.jobs.assemble import (
    make_simulator,
    open_background,
    open_sandbox,
    prepare_model,
    serve_with,
)
from trustee.jobs.held_out import (
    HELD_OUT,
    evaluation_world,
    make_eval_player,
    name_played,
    read_whole,
)
from trustee.jobs.stage_meter import metered
from trustee.types import Record, Task, Trajectory

PLAYED = ("eval-adapter.jsonl", name_played("after"))
"""Files of a run with episodes of its adapter, the one that says most first."""


class PlayedFile(Record, frozen=True):
    """Held-out success through a file, beside that of the training's own engine."""

    before: SuccessRate
    """Of the adapter in vLLM, on the same tasks."""
    through: SuccessRate
    gain: Gain
    """Of the file over the adapter in vLLM, paired."""


def read_reference(run: Path, count: int) -> tuple[tuple[Task, ...], tuple[Trajectory, ...]]:
    """Return the first held-out tasks of a run and the adapter's episodes with them.

    Raises:
        InputError: if there are none.
    """
    tasks = read_whole(run / HELD_OUT, Task) or ()
    chosen = tasks[:count]
    for name in PLAYED:
        played = read_whole(run / name, Trajectory) or ()
        by_task = {one.task_id: one for one in played}
        if chosen and all(task.id in by_task for task in chosen):
            return chosen, tuple(by_task[task.id] for task in chosen)
    raise InputError(
        f"{run} holds no episodes of its adapter with its held-out tasks, against which a file "
        "could be compared; run trustee eval on it once, or leave out --play"
    )


async def play_file(
    config: Config,
    run: Path,
    file: Path,
    *,
    count: int,
    stop_ids: Sequence[int],
    final: Path,
    emit: Emit,
) -> PlayedFile:
    """Play held-out tasks through a GGUF file.

    Args:
        config: the run's config.
        run: the run's folder.
        file: the file as it lies there now.
        count: number of tasks.
        stop_ids: what ends an answer, the end of a turn first.
        final: how the file will be called, for messages.
        emit: receives progress events.

    Raises:
        InputError: if the run has nothing to compare with.
        RunError: if success through the file is lower than the run's by more than chance.
    """
    tasks, reference = read_reference(run, count)
    _, renderer = prepare_model(config)
    context = config.engine.context
    async with (
        open_llama(file, context=context, stop_ids=stop_ids) as engine,
        open_sandbox(config) as sandbox,
        open_background() as background,
    ):
        simulator = make_simulator(config, engine, renderer)
        player = make_eval_player(
            config,
            engine,
            world=evaluation_world(config),
            renderer=renderer,
            serve=serve_with(simulator, sandbox=sandbox, background=background),
            clock=EngineClock(),
        )
        name = f"playing {len(tasks)} held-out tasks through {final}"
        with metered(name, emit, of=len(tasks), unit="episodes", engine=EngineProgress) as meter:
            played = await evaluate(
                tasks,
                player,
                config=msgspec.structs.replace(config.eval, parallel=1),
                adapter=POLICY,
                label="file",
                done=meter.count,
            )
    found = PlayedFile(
        before=success_of(reference),
        through=success_of(played),
        gain=gain_between(reference, played),
    )
    demand_success(found, what=str(final))
    return found


def demand_success(found: PlayedFile, *, what: str) -> None:
    """Refuse a file with which fewer tasks are solved than chance allows.

    Raises:
        RunError: with the figures.
    """
    if found.through.failed or found.gain.high < 0:
        raise RunError(
            f"{what} solves {found.through.value:.1%} of {found.before.count} held-out tasks where "
            f"the run's own engine solves {found.before.value:.1%}: a gain of "
            f"{found.gain.points:+.1f} points (95 % interval {found.gain.low:+.1f} to "
            f"{found.gain.high:+.1f}), {found.through.failed} episodes failed; it was deleted"
        )


def play_from_thread(
    config: Config,
    run: Path,
    file: Path,
    *,
    count: int,
    stop_ids: Sequence[int],
    final: Path,
    emit: Emit,
) -> PlayedFile:
    """Play in the event loop of the thread's owner, and wait for the end."""
    return anyio.from_thread.run(
        partial(
            play_file,
            config,
            run,
            file,
            count=count,
            stop_ids=stop_ids,
            final=final,
            emit=emit,
        )
    )

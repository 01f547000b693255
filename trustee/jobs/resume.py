"""Continuing a run: what must be as it was, what may change, and what is cut off."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from trustee.algorithm.fallback import call_with_fallback
from trustee.config import Config, apply_changes
from trustee.decoding import decode_json, read_file
from trustee.errors import InputError
from trustee.events import Emit, Note
from trustee.rl.interim import forget_later
from trustee.rl.run import Run, RunState, share_done
from trustee.runs.checkpoint import find_checkpoints, open_checkpoint
from trustee.runs.config import RunConfig
from trustee.runs.files import write_json
from trustee.runs.inputs import find_input_keys
from trustee.runs.store import count_groups, keep_steps

BINDING = ("model.thinking", "engine.weights", "learn.optimizer", "learn.rank", "run.seed", "env")
"""Keys and sections that a checkpoint depends on. The base itself is known by its weights, so its
folder may move; the inputs are known by their hashes."""

log = structlog.get_logger()


def settings_of(config: Config) -> dict[str, Any]:
    """Return the settings that a checkpoint depends on, flat and as JSON has them."""
    table = decode_json(msgspec.json.encode(config), error=InputError)
    inputs = find_input_keys(config)
    return {
        key: value
        for key, value in flatten(table)
        if key not in inputs and any(f"{key}.".startswith(f"{part}.") for part in BINDING)
    }


def flatten(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the values of nested sections with their paths, such as `run.seed`."""
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        path = f"{prefix}.{key}".removeprefix(".")
        found += flatten(value, path) if isinstance(value, dict) else [(path, value)]
    return found


def find_state(
    config: Config, folder: Path, *, model: Path, tell: Callable[[str], None]
) -> RunState:
    """Find the state that a run continues from, before anything heavy starts.

    Args:
        config: the run's own.
        folder: the run folder.
        model: folder of the base.
        tell: receives a sentence for each checkpoint that is passed over.

    Raises:
        InputError: if no checkpoint can be continued, or if one was made with other settings.
    """
    source = config.env.source(seed=config.run.seed)
    path, state = open_checkpoint(
        folder / "checkpoints",
        RunState,
        accept=lambda state: accept_state(state, config, restore=source.restore),
        tell=tell,
    )
    check_settings(config, state, path=path, record=folder / "run.json")
    if (path / "adapter").is_dir():
        config.engine.check_adapter(path / "adapter", model, rank=config.learn.rank)
    return state


def accept_state(
    state: RunState, config: Config, *, restore: Callable[[msgspec.Raw], None]
) -> None:
    """Have the task source look at its part of a state, if it is of the same world.

    Raises:
        InputError: if it cannot continue from there.
    """
    if not find_changes(config, state):
        restore(state.source)


def find_changes(config: Config, state: RunState) -> list[str]:
    """Return the settings that differ from those that a checkpoint was made with."""
    # Checkpoints of earlier versions of this program recorded none.
    before, now = state.settings, settings_of(config) if state.settings else {}
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def check_settings(config: Config, state: RunState, *, path: Path, record: Path) -> None:
    """Check that a checkpoint was made with the settings that it depends on.

    Raises:
        InputError: naming each key with both values.
    """
    changed = find_changes(config, state)
    if changed:
        now = settings_of(config)
        shown = "; ".join(
            f"{key} is {now.get(key)!r}, and the checkpoint was made with "
            f"{state.settings.get(key)!r}"
            for key in changed
        )
        raise InputError(
            f"{record} does not fit {path}: {shown}; put the old value back, or start a new run"
        )


def progress_of(run: RunConfig, state: RunState) -> float:
    """Return the fraction of a run that is done at a checkpoint."""
    if state.interim.ended:
        return 1.0
    return share_done(
        step=state.step,
        steps=run.steps,
        seconds=state.seconds,
        minutes=run.minutes,
        spoken=state.policy_tokens,
        tokens=run.tokens,
    )


def extend_run(config: Config, folder: Path, lengths: Mapping[str, str]) -> Config:
    """Return the config of a run with another length, counted from its beginning, and record it.

    The learning rate is from then on that of a run of this length.

    Args:
        config: the run's own.
        folder: the run folder.
        lengths: values of keys of `run`, as `--set` takes them.

    Raises:
        InputError: if a length is not possible, or the run has already done as much.
    """
    longer = apply_changes(config, [f"run.{key}={text}" for key, text in lengths.items()]).run
    if find_checkpoints(folder / "checkpoints"):
        _, state = open_checkpoint(folder / "checkpoints", RunState)
        check_longer(longer, state)
    path = folder / "run.json"
    record = decode_json(read_file(path, error=InputError), dict[str, Any], error=InputError)
    record["config"]["run"].update({key: getattr(longer, key) for key in lengths})
    write_json(path, record, indent=2)
    return replace(config, run=longer)


def check_longer(run: RunConfig, state: RunState) -> None:
    """Check that a length leaves something to do.

    Raises:
        InputError: naming each limit that is reached.
    """
    reached = []
    if state.step >= run.steps:
        reached.append(f"{state.step} steps are done and run.steps is {run.steps}: give --steps")
    if state.interim.ended:
        reached.append(
            f"training ended early after {state.step} steps (eval.patience): start a new run with "
            "--adapter"
        )
    if run.minutes is not None and state.seconds >= 60 * run.minutes:
        reached.append(
            f"{state.seconds / 60:.1f} minutes are spent and run.minutes is {run.minutes:g}: give "
            "--minutes, or --minutes none"
        )
    if run.tokens is not None and state.policy_tokens >= run.tokens:
        reached.append(
            f"{state.policy_tokens} tokens are sampled and run.tokens is {run.tokens}: start a "
            "new run with --adapter"
        )
    if reached:
        raise InputError(
            f"there is nothing left to train: {'; '.join(reached)} (lengths count from the "
            "run's beginning)"
        )


async def restore(run: Run, path: Path, state: RunState, *, previous: Run | None = None) -> None:
    """Continue from a checkpoint: weights, optimiser, source and counts; cut off later lines.

    Task specs that were drawn after it are drawn again, under new group numbers. After an engine
    death they are skipped instead, and the previous run's finished groups are kept.
    """
    run.ladder.restore(state.ladder)
    await call_with_fallback(lambda: run.engine.load(path), run.engine, ladder=run.ladder)
    run.source.restore(state.source)
    run.watch.restore(state.watch)
    run.effect.restore(state.effect)
    run.interim.restore(state.interim)
    await run.engine.adjust(run.ladder.level.activation_checkpointing)
    run.episode_limiter.total_tokens = run.ladder.level.parallel
    run.step, run.policy_tokens = state.step, state.policy_tokens
    drawn = state.next_group - state.skipped
    if previous is None:
        run.seconds_before, run.started_at = state.seconds, time.monotonic()
        run.skipped = max(state.skipped, count_groups(run.store.folder) - drawn)
        run.next_group = drawn + run.skipped
    else:
        run.skipped = previous.skipped
        run.next_group = drawn + run.skipped
        run.untrained.remove_newer(state.version)
        while run.next_group < previous.next_group and run.source.draw() is not None:
            run.next_group += 1
    forget_later(run.store.folder, state.step)
    for name in ("metrics.jsonl", "timing.jsonl"):
        cut_lines(run.store.folder / name, state.step, emit=run.emit)
    if state.version and state.version != run.versions.version:
        adapter = run.store.adapter(state.version)
        await call_with_fallback(lambda: run.engine.publish(adapter), run.engine, ladder=run.ladder)
        await run.versions.announce(adapter)
    run.emit(Note(text=f"continuing after step {state.step} from {path}"))


def cut_lines(path: Path, step: int, *, emit: Emit) -> None:
    """Cut off the lines of later steps, and say so where lines of earlier ones are missing."""
    kept = keep_steps(path, step)
    if kept < step:
        text = (
            f"{path} has lines of {kept} of the {step} steps so far; the figures of the others are "
            "lost, and training goes on without them"
        )
        log.warning("lines_missing", path=str(path), kept=kept, steps=step)
        emit(Note(text=text))

"""What an update did: `trustee eval --retention` and `--where`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustee.cli.commands.fitting import fill_engine
from trustee.cli.commands.options import (
    DONE,
    allow_unsafe,
    allow_worlds,
    choose_device,
    find_run,
    show_job,
    warn_unconfined,
)
from trustee.errors import InputError

if TYPE_CHECKING:
    import argparse


def retention_command(options: argparse.Namespace) -> int:
    """Compare a run's adapter with its base on general prompts."""
    from trustee.config import apply_changes
    from trustee.evaluation.retention_report import retention_text
    from trustee.jobs.retention import measure_retention
    from trustee.jobs.run_metadata import read_trusted

    refuse_others(options, "--retention")
    if options.rows is not None and options.rows < 1:
        raise InputError(f"--rows {options.rows} is too few; give 1 or more, or leave it out")
    allow_worlds(options)
    changes = allow_unsafe(options)
    run = find_run(options.run)
    config = apply_changes(read_trusted(run, changes), changes)
    choose_device(config, options.gpu)
    config = fill_engine(config, options.gpu or 0)
    show_job(
        options,
        run,
        lambda emit: measure_retention(
            config, run, adapter=next(iter(options.adapter), None), most=options.rows, emit=emit
        ),
        text=retention_text,
    )
    return DONE


def where_command(options: argparse.Namespace) -> int:
    """Say where a run's update sits and which part of it carries the success."""
    from trustee.config import apply_changes
    from trustee.evaluation.update_report import update_text
    from trustee.jobs.run_metadata import read_trusted
    from trustee.jobs.where import locate_update

    refuse_others(options, "--where")
    allow_worlds(options)
    changes = allow_unsafe(options)
    run = find_run(options.run)
    tasks = [] if options.tasks is None else [f"eval.tasks={options.tasks}"]
    config = apply_changes(read_trusted(run, changes), [*changes, *tasks])
    choose_device(config, options.gpu)
    config = fill_engine(config, options.gpu or 0)
    warn_unconfined(config)
    show_job(
        options,
        run,
        lambda emit: locate_update(
            config, run, adapter=next(iter(options.adapter), None), keep=options.keep, emit=emit
        ),
        text=update_text,
    )
    return DONE


def refuse_others(options: argparse.Namespace, chosen: str) -> None:
    """Refuse options of other ways to measure.

    Raises:
        InputError: naming those that were given.
    """
    given = [
        name
        for name, value in (
            ("--suite", options.suite),
            ("--tasks", options.tasks if chosen != "--where" else None),
            ("--rows", options.rows if chosen != "--retention" else None),
            ("--where", options.where if chosen != "--where" else None),
            ("--config", options.config),
            ("--published", options.published),
            ("--out", options.out),
            ("--world", options.world),
            ("--strip-trial", options.strip_trial),
            ("--permute-names", options.permute_names),
            ("--break-tool", options.break_tool),
        )
        if value
    ]
    if given:
        raise InputError(f"{', '.join(given)} cannot be used with {chosen}; leave one of them out")

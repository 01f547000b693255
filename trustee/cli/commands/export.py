"""`trustee export`: take a run's model away."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.options import (
    DONE,
    Commands,
    add_allow_world,
    add_shared,
    allow_unsafe,
    allow_worlds,
    show_job,
)
from trustee.errors import InputError


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    export = commands.add_parser("export", help="write a run's model for other programs")
    export.add_argument("run", type=Path, metavar="RUN", help="run folder")
    export.add_argument(
        "--merged", type=Path, metavar="DIR", help="base and adapter as one bf16 model folder"
    )
    export.add_argument("--adapter", type=Path, metavar="DIR", help="default: the run's newest")
    export.add_argument(
        "--tests",
        type=int,
        default=8,
        metavar="N",
        help="held-out tasks on which each file is tested; default 8, 0 is no test",
    )
    add_allow_world(export)
    add_shared(export)
    export.set_defaults(act=export_command)


def export_command(options: argparse.Namespace) -> int:
    """Write what was asked for."""
    from trustee.config import apply_changes
    from trustee.jobs.export import Wanted, export, export_text
    from trustee.jobs.run_metadata import read_unplayed

    if options.tests < 0:
        raise InputError(f"--tests {options.tests} is negative; give 0 for no test, or more")
    wanted = Wanted(merged=options.merged, tests=options.tests)
    if wanted.merged is None:
        raise InputError("nothing to export; say what with --merged DIR")
    allow_worlds(options)
    changes = allow_unsafe(options)
    config = apply_changes(read_unplayed(options.run), changes)
    show_job(
        options,
        options.run,
        lambda emit: export(config, options.run, wanted, adapter=options.adapter, emit=emit),
        text=export_text,
    )
    return DONE

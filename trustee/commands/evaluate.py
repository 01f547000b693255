"""`trustee eval`: measure a run's adapter against its base."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.commands.options import (
    DONE,
    Commands,
    add_shared,
    choose_device,
    choose_mode,
    print_text,
)


def add(commands: Commands) -> None:
    """Describe the command."""
    evaluate = commands.add_parser("eval", help="measure a run's adapter against its base")
    evaluate.add_argument("run", type=Path, metavar="RUN")
    evaluate.add_argument("--tasks", type=int, metavar="N", help="held-out tasks")
    evaluate.add_argument("--adapter", type=Path, metavar="DIR", help="default: the run's newest")
    evaluate.add_argument("--gpu", type=int, metavar="N")
    add_shared(evaluate)
    evaluate.set_defaults(act=eval_command)


def eval_command(options: argparse.Namespace) -> int:
    """Measure a run's adapter against its base."""
    import anyio

    from trustee.compare import compare_text, run_comparison
    from trustee.config import apply_changes
    from trustee.launch import until_interrupted
    from trustee.noise import divert_noise
    from trustee.progress import Progress
    from trustee.record import read_record

    changes = list(options.changes)
    if options.tasks is not None:
        changes.append(f"eval.tasks={options.tasks}")
    config = apply_changes(read_record(options.run).config, changes)
    choose_device(config, options.gpu)
    with divert_noise(options.run) as screen:
        with Progress(screen.out, mode=choose_mode(options)) as progress:
            comparison = anyio.run(
                until_interrupted,
                lambda: run_comparison(
                    config, options.run, adapter=options.adapter, tell=progress.tell
                ),
            )
        if not options.json:
            print_text(compare_text(comparison), to_errors=False, screen=screen)
    return DONE

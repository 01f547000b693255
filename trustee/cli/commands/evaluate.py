"""`trustee eval`: compare a run's adapter with its base, or play a published suite."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trustee.cli.commands.fitting import fill_engine
from trustee.cli.commands.options import (
    DONE,
    Commands,
    add_allow_world,
    add_shared,
    allow_unsafe,
    allow_worlds,
    choose_device,
    find_config,
    find_run,
    show_job,
    warn_unconfined,
)
from trustee.errors import InputError

if TYPE_CHECKING:
    from trustee.config import Config


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    evaluate = commands.add_parser("eval", help="compare a run's adapter with its base")
    evaluate.add_argument(
        "run", type=Path, metavar="RUN", help="run folder; with --suite, the suite's file"
    )
    evaluate.add_argument("--tasks", type=int, metavar="N", help="held-out tasks")
    evaluate.add_argument(
        "--adapter", type=Path, metavar="DIR", help="default: the run's newest; none with --suite"
    )
    evaluate.add_argument(
        "--suite",
        choices=("ftrl", "bfcl"),
        help="ftrl: play every environment of a file; bfcl: play the benchmark",
    )
    evaluate.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="tasks of each category of a benchmark, or general prompts; default: all",
    )
    evaluate.add_argument(
        "--config", type=Path, metavar="FILE", help="config of a suite; default: configs/ftrl.toml"
    )
    evaluate.add_argument(
        "--published", action="store_true", help="compare answers exactly as FTRL's own code does"
    )
    evaluate.add_argument(
        "--world", type=Path, metavar="CONFIG", help="play held-out tasks of this config's world"
    )
    evaluate.add_argument(
        "--strip-trial", action="store_true", help="trials: start with the execution phase"
    )
    evaluate.add_argument(
        "--permute-names", action="store_true", help="trials: exchange the names of the tools"
    )
    evaluate.add_argument(
        "--break-tool", action="store_true", help="trials: break a tool that the task needs"
    )
    evaluate.add_argument(
        "--retention", action="store_true", help="compare on general prompts: what was forgotten?"
    )
    evaluate.add_argument(
        "--where", action="store_true", help="size of the update by layer, and success with parts"
    )
    evaluate.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="PART",
        help="with --where: a part to keep, mlp, attention, 0-9 or mlp:0-9; may be repeated",
    )
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="where a suite's episodes go")
    evaluate.add_argument("--gpu", type=int, metavar="N")
    add_allow_world(evaluate)
    add_shared(evaluate)
    evaluate.set_defaults(act=eval_command)


def eval_command(options: argparse.Namespace) -> int:
    """Compare a run's adapter with its base, or play a suite."""
    if options.keep and not options.where:
        raise InputError("--keep names what --where keeps of an update; add --where")
    if options.retention:
        return retention_command(options)
    if options.where:
        return where_command(options)
    if options.suite == "ftrl":
        return suite_command(options)
    if options.suite is not None:
        return benchmark_command(options)
    if options.rows is not None:
        raise InputError("--rows needs a benchmark, such as --suite bfcl; here it is --tasks")
    from trustee.config import apply_changes
    from trustee.jobs.evaluate import compare_text, run_comparison
    from trustee.jobs.run_metadata import read_trusted

    if options.config or options.published or options.out:
        raise InputError("--config, --published and --out need --suite; a run has its own")
    allow_worlds(options)
    changes = allow_unsafe(options)
    run = find_run(options.run)
    config = read_trusted(run, changes)
    if options.world is not None:
        config = move_to(config, options.world)
    tasks = [] if options.tasks is None else [f"eval.tasks={options.tasks}"]
    config = apply_changes(config, [*changes, *tasks])
    config = falsify(config, options)
    choose_device(config, options.gpu)
    config = fill_engine(config, options.gpu or 0)
    warn_unconfined(config)
    show_job(
        options,
        run,
        lambda emit: run_comparison(config, run, adapter=options.adapter, emit=emit),
        text=compare_text,
    )
    return DONE


def benchmark_command(options: argparse.Namespace) -> int:
    """Play a published benchmark with a run's adapter and its base."""
    from trustee.config import apply_changes
    from trustee.evaluation.benchmark_report import benchmark_text
    from trustee.jobs.benchmark import BENCHMARKS, play_benchmark
    from trustee.jobs.run_metadata import read_trusted

    if options.tasks or options.config or options.published or options.out or options.world:
        raise InputError(
            f"--tasks, --config, --published, --out and --world cannot be used with --suite "
            f"{options.suite}; give the run, and --rows N for fewer tasks"
        )
    if options.rows is not None and options.rows < 1:
        raise InputError(f"--rows {options.rows} is too few; give 1 or more, or leave it out")
    allow_worlds(options)
    changes = allow_unsafe(options)
    config = apply_changes(read_trusted(options.run, changes), changes)
    choose_device(config, options.gpu)
    config = fill_engine(config, options.gpu or 0)
    show_job(
        options,
        options.run,
        lambda emit: play_benchmark(
            config,
            options.run,
            BENCHMARKS[options.suite],
            rows=options.rows,
            adapter=options.adapter,
            emit=emit,
        ),
        text=benchmark_text,
    )
    return DONE


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
    show_job(
        options,
        run,
        lambda emit: measure_retention(
            config, run, adapter=options.adapter, most=options.rows, emit=emit
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
    warn_unconfined(config)
    show_job(
        options,
        run,
        lambda emit: locate_update(
            config, run, adapter=options.adapter, keep=options.keep, emit=emit
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


def move_to(config: Config, path: Path) -> Config:
    """Return a run's config with the held-out tasks and limits of another config."""
    import msgspec

    from trustee.config import read_config
    from trustee.jobs.held_out import evaluation_world

    other = read_config(path)
    rollout = msgspec.structs.replace(config.rollout, limits=other.rollout.limits)
    return msgspec.structs.replace(
        config, eval_env=evaluation_world(other), eval=other.eval, rollout=rollout
    )


def falsify(config: Config, options: argparse.Namespace) -> Config:
    """Return the config without what a policy of a trial world may rely on.

    Raises:
        InputError: if the world has no trial phase.
    """
    import msgspec

    from trustee.jobs.held_out import evaluation_world

    if not (options.strip_trial or options.permute_names or options.break_tool):
        return config
    changed = evaluation_world(config).falsify(
        strip_trial=options.strip_trial,
        permute_names=options.permute_names,
        break_tool=options.break_tool,
    )
    return msgspec.structs.replace(config, eval_env=changed)


def suite_command(options: argparse.Namespace) -> int:
    """Play every environment of a file with the base, and with an adapter if one is given."""
    from trustee.config import read_config
    from trustee.evaluation.ftrl_suite import suite_text
    from trustee.jobs.run_metadata import name_folder
    from trustee.jobs.suite import play_suite

    if options.tasks is not None or options.rows is not None:
        raise InputError("--tasks cannot be used with --suite; a suite is played whole")
    if options.world or options.strip_trial or options.permute_names or options.break_tool:
        raise InputError(
            "--world, --strip-trial, --permute-names and --break-tool cannot be used with --suite; "
            "a suite is a world of its own, without trials"
        )
    config = read_config(find_config(options.config, "ftrl.toml"), allow_unsafe(options))
    choose_device(config, options.gpu)
    config = fill_engine(config, options.gpu or 0)
    warn_unconfined(config)
    folder = options.out or name_folder(config)
    if (folder / "suite-base.jsonl").exists():
        raise InputError(f"{folder} already holds a suite's episodes; name another with --out")
    show_job(
        options,
        folder,
        lambda emit: play_suite(
            config,
            options.run,
            folder,
            adapter=options.adapter,
            published=options.published,
            emit=emit,
        ),
        text=lambda result: "\n\n".join(map(suite_text, result.reports)),
    )
    return DONE

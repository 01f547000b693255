"""`trustee eval`: compare a run's adapter with its base, or play a published suite."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trustee.cli.commands.effects import retention_command, where_command
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
from trustee.cli.commands.sharing import add_share, check_shard, play_part
from trustee.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trustee.config import Config
    from trustee.evaluation.benchmark_report import BenchmarkReport
    from trustee.evaluation.outside import OutsideBenchmark
    from trustee.events import Emit

OUTSIDE = ("tau2", "lm-eval")
"""Suites that are programs of their own, which ask our endpoint."""
SUITES = ("ftrl", "bfcl", *OUTSIDE)


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    evaluate = commands.add_parser("eval", help="compare a run's adapter with its base")
    add_policies(evaluate)
    evaluate.add_argument("--tasks", type=int, metavar="N", help="held-out tasks")
    evaluate.add_argument(
        "--suite",
        nargs="+",
        metavar=("NAME", "TASKS"),
        help="ftrl: play every environment of a file; bfcl, tau2: play the benchmark; lm-eval "
        "TASKS: play tasks of the harness, separated by commas",
    )
    add_outside(evaluate)
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
    add_looks(evaluate)
    evaluate.add_argument(
        "--out", type=Path, metavar="DIR", help="where the episodes of a suite or a shard go"
    )
    add_share(evaluate, "held-out tasks")
    evaluate.add_argument("--gpu", type=int, metavar="N")
    add_allow_world(evaluate)
    add_shared(evaluate)
    evaluate.set_defaults(act=eval_command)


def add_looks(evaluate: argparse.ArgumentParser) -> None:
    """Add the options that take something away from a policy, or look at what it forgot."""
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


def add_policies(evaluate: argparse.ArgumentParser) -> None:
    """Add what says whose policies play, and how often."""
    evaluate.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folder; the adapters of further ones play its tasks too; "
        "with --suite ftrl, the suite's file",
    )
    evaluate.add_argument(
        "--adapter",
        type=Path,
        action="append",
        default=[],
        dest="adapters",
        metavar="DIR",
        help="may be given several times; default: the run's newest; none with --suite",
    )
    evaluate.add_argument(
        "--repeats", type=int, metavar="K", help="attempts at each task, for pass^1 to pass^K"
    )


def add_outside(evaluate: argparse.ArgumentParser) -> None:
    """Add the options of benchmarks that are programs of their own."""
    evaluate.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="tau2: checkout of its repository; lm-eval: folder with tasks of your own",
    )
    evaluate.add_argument("--solo", action="store_true", help="tau2: telecom alone, without a user")
    evaluate.add_argument(
        "--user-url",
        metavar="URL",
        help="tau2: endpoint that plays the user, such as https://host/v1; default: the base",
    )
    evaluate.add_argument("--user-model", metavar="NAME", help="tau2: its model")


def eval_command(options: argparse.Namespace) -> int:
    """Compare a run's adapter with its base, or play a suite."""
    options.run, options.adapter = options.runs[0], next(iter(options.adapters), None)
    options.suite, options.lm_tasks = read_suite(options.suite)
    outside = (options.data, options.solo or None, options.user_url, options.user_model)
    if options.suite not in OUTSIDE and any(given is not None for given in outside):
        raise InputError("--data, --solo, --user-url and --user-model need --suite tau2 or lm-eval")
    if options.keep and not options.where:
        raise InputError("--keep names what --where keeps of an update; add --where")
    refuse_several(options)
    check_shard(options)
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
    from trustee.jobs.run_metadata import read_trusted

    if options.repeats is not None and options.repeats < 1:
        raise InputError(f"--repeats {options.repeats} is too few; give 1 or more, or leave it out")
    if options.config or options.published or (options.out and not options.shard):
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
    play_held_out(options, config, run)
    return DONE


def play_held_out(options: argparse.Namespace, config: Config, run: Path) -> None:
    """Play the held-out tasks: as one comparison, or as a table of several policies."""
    from trustee.jobs.evaluate import compare_text, run_comparison
    from trustee.jobs.policies import run_policies, table_text

    others = options.runs[1:]
    # A further run is held against the first one's own adapter.
    own = [run] if others and not options.adapters else []
    adapters = own + [find_run(adapter) for adapter in (*options.adapters, *others)]
    if options.shard:
        play_part(options, config, run, adapters=adapters or [run])
        return
    if len(adapters) < 2 and (options.repeats or 1) == 1:
        adapter = adapters[0] if adapters else None
        show_job(
            options,
            run,
            lambda emit: run_comparison(config, run, adapter=adapter, emit=emit),
            text=compare_text,
        )
        return
    show_job(
        options,
        run,
        lambda emit: run_policies(
            config, run, adapters=adapters or [run], repeats=options.repeats or 1, emit=emit
        ),
        text=table_text,
    )


def refuse_several(options: argparse.Namespace) -> None:
    """Refuse several adapters or attempts where there are no held-out tasks of a run.

    Raises:
        InputError: naming what takes one.
    """
    named = {"--retention": options.retention, "--where": options.where}
    asked = next((name for name, given in named.items() if given), None)
    if options.suite is not None:
        asked = f"--suite {options.suite}"
    is_several = len(options.runs) > 1 or len(options.adapters) > 1 or options.repeats is not None
    if asked is not None and is_several:
        raise InputError(
            f"{asked} plays one adapter once; give one RUN, at most one --adapter and no --repeats"
        )


def read_suite(given: Sequence[str] | None) -> tuple[str | None, str]:
    """Return the name of a suite, and the names of tasks where it takes them.

    Raises:
        InputError: if there is no such suite, or the names are missing or not wanted.
    """
    if given is None:
        return None, ""
    name, *names = given
    if name not in SUITES:
        raise InputError(f"--suite {name}: there are {', '.join(SUITES)}")
    if len(names) != (name == "lm-eval"):
        raise InputError(
            "--suite lm-eval takes the names of tasks, separated by commas, such as gsm8k,ifeval"
            if name == "lm-eval"
            else f"--suite {name} takes nothing behind it, got {' '.join(names)}; RUN comes first"
        )
    return name, ",".join(names)


def choose_benchmark(options: argparse.Namespace) -> OutsideBenchmark:
    """Return the benchmark that asks our endpoint.

    Raises:
        InputError: if what it needs is not given, or cannot be used.
    """
    import os

    from trustee.evaluation.lm_eval import LmEval
    from trustee.evaluation.outside import Place
    from trustee.evaluation.tau2.benchmark import Tau2

    if options.suite == "lm-eval":
        if options.solo or options.user_url or options.user_model:
            raise InputError("--solo, --user-url and --user-model need --suite tau2")
        return LmEval(tasks=tuple(options.lm_tasks.split(",")), folder=options.data)
    if options.data is None:
        raise InputError(
            "--suite tau2 needs --data DIR, a checkout of github.com/sierra-research/tau2-bench"
        )
    if bool(options.user_url) != bool(options.user_model):
        raise InputError("--user-url and --user-model are given together")
    if options.solo and options.user_url:
        raise InputError("--solo has no user, so --user-url has no effect; leave out one of them")
    user = None
    if options.user_url:
        key = os.environ.get("TRUSTEE_USER_KEY", "").strip()
        user = Place(url=options.user_url.rstrip("/"), model=options.user_model, key=key)
    return Tau2(options.data, solo=options.solo, user=user)


def benchmark_command(options: argparse.Namespace) -> int:
    """Play a published benchmark with a run's adapter and its base."""
    from trustee.config import apply_changes
    from trustee.evaluation.benchmark_report import benchmark_text
    from trustee.jobs.benchmark import BENCHMARKS, play_benchmark
    from trustee.jobs.outside_benchmark import play_outside
    from trustee.jobs.run_metadata import read_trusted

    if options.tasks or options.config or options.published or options.out or options.world:
        raise InputError(
            f"--tasks, --config, --published, --out and --world cannot be used with --suite "
            f"{options.suite}; give the run, and --rows N for fewer tasks"
        )
    if options.rows is not None and options.rows < 1:
        raise InputError(f"--rows {options.rows} is too few; give 1 or more, or leave it out")
    outside = choose_benchmark(options) if options.suite in OUTSIDE else None
    allow_worlds(options)
    changes = allow_unsafe(options)
    config = apply_changes(read_trusted(options.run, changes), changes)
    choose_device(config, options.gpu)
    config = fill_engine(config, options.gpu or 0)

    async def play(emit: Emit) -> BenchmarkReport:
        given = {"rows": options.rows, "adapter": options.adapter, "emit": emit}
        if outside is not None:
            return await play_outside(config, options.run, outside, **given)
        return await play_benchmark(config, options.run, BENCHMARKS[options.suite], **given)

    show_job(options, options.run, play, text=benchmark_text)
    return DONE


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

"""`trustee run`: train."""

from __future__ import annotations

import argparse
import json
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from trustee.cli.commands.options import (
    DONE,
    INTERRUPTED,
    Commands,
    add_allow_world,
    add_shared,
    allow_unsafe,
    choose_device,
    choose_mode,
    error_code,
    find_config,
    find_run,
    print_text,
    read_resumed,
    single_error,
    warn_unconfined,
)
from trustee.errors import EngineDied, InputError, TrusteeError

if TYPE_CHECKING:
    from trustee.config import Config
    from trustee.jobs.held_out import RunResult
    from trustee.rl.interim import Measured

from trustee.cli.terminal import barred, complain, say


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    run = commands.add_parser("run", help="train")
    run.add_argument("--config", type=Path, metavar="FILE", help="default: configs/qwen3-8b.toml")
    run.add_argument("--gpu", type=int, metavar="N", help="CUDA device to use; default 0")
    run.add_argument("--tools", type=Path, metavar="FILE", help="train on these tools")
    run.add_argument("--resume", type=Path, metavar="RUN", help="continue a run folder")
    run.add_argument("--model", metavar="DIR", help="base model, in place of model.path")
    run.add_argument("--seed", type=int, metavar="N", help="in place of run.seed")
    run.add_argument(
        "--steps", type=int, metavar="N", help="steps in all; a finished run goes on with more"
    )
    run.add_argument("--minutes", metavar="M", help="minutes of training in all, or none; likewise")
    run.add_argument("--out", type=Path, metavar="RUN", help="folder of the new run")
    run.add_argument("--name", metavar="NAME", help="name of the new run in the folder of runs")
    run.add_argument(
        "--adapter", type=Path, metavar="DIR", help="start from this adapter, or a run's newest"
    )
    run.add_argument(
        "--yes",
        action="store_true",
        help="take the smaller model where the wanted one is too large",
    )
    run.add_argument(
        "--force", action="store_true", help="start even if the plan says that it does not fit"
    )
    run.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would happen, end"
    )
    run.add_argument(
        "--profile",
        action="store_true",
        help="write timeline-N.json for chrome://tracing, Perfetto",
    )
    add_allow_world(run)
    add_shared(run)
    run.set_defaults(act=run_command)


def load_config(options: argparse.Namespace) -> Config:
    """Read the config that the options name, and apply their changes."""
    from trustee.config import read_config

    path = find_config(options.config, default="qwen3-8b.toml")
    changes = allow_unsafe(options)
    if options.tools is not None:
        changes.append(set_path("env.tools", options.tools))
    if options.model is not None:
        changes.append(set_path("model.path", Path(options.model)))
    if options.seed is not None:
        changes.append(f"run.seed={options.seed}")
    changes += [f"run.{key}={value}" for key, value in lengths_of(options).items()]
    if options.adapter is not None:
        changes.append(set_path("run.adapter", options.adapter.absolute()))
    return read_config(path, changes)


def lengths_of(options: argparse.Namespace) -> dict[str, str]:
    """Return the length that the options give a run, by key."""
    given = {"steps": options.steps, "minutes": options.minutes}
    return {key: str(value) for key, value in given.items() if value is not None}


def set_path(key: str, path: Path) -> str:
    """Return a config change that sets a key to a path, with special characters quoted."""
    return f"{key}={json.dumps(str(path))}"


def run_command(options: argparse.Namespace) -> int:
    """Train."""
    from trustee.jobs.resume import extend_run
    from trustee.jobs.run_metadata import name_folder
    from trustee.runs.ownership import own_folder
    from trustee.trackers.extras import require_trackers

    if options.resume is not None:
        given = (options.config, options.tools, options.adapter, options.out)
        if any((*given, options.model, options.name)) or options.seed is not None:
            raise InputError(
                "--resume continues a run with its own config; leave out --config, --tools, "
                "--adapter, --out, --model, --name and --seed; --set changes only what protects"
            )
        folder = find_run(options.resume)
        config = read_resumed(options, folder)
    else:
        if options.gpu is not None:
            from trustee.planning.cards import require_card

            require_card(options.gpu)
        config = load_config(options)
        folder = options.out or name_folder(config, options.name)
        refuse_taken(folder)
    require_trackers(config.run.report_to)
    choose_device(config, options.gpu)
    warn_unconfined(config)
    check_worlds(config)
    if config.engine.on_gpu:
        config = fit_to_card(config, options)
    if options.dry_run:
        from trustee.jobs.stages import foretell

        say(f"nothing was started; {foretell(config, folder)}")
        return DONE
    with own_folder(folder):
        if options.resume is None:
            # Again, because another call may have begun a run here a moment ago.
            refuse_taken(folder)
        elif lengths_of(options):
            config = extend_run(config, folder, lengths_of(options))
        return train_here(options, config, folder)


def refuse_taken(folder: Path) -> None:
    """Refuse a folder that already holds a run.

    Raises:
        InputError: naming the two ways out.
    """
    if (folder / "run.json").exists():
        raise InputError(
            f"{folder} already holds a run; continue it with --resume {folder} or name another"
        )


def fit_to_card(config: Config, options: argparse.Namespace) -> Config:
    """Return the config with settings that fit the GPU, as far as the options allow."""
    from trustee.cli.commands.fitting import fit_run, take_settings

    gpu = options.gpu or 0
    if options.force:
        return take_settings(config, gpu)
    return fit_run(config, gpu, yes=options.yes, may_change=options.resume is None)


def check_worlds(config: Config) -> None:
    """Read all parts of the worlds before anything heavy starts; report what is left out."""
    from trustee.jobs.held_out import evaluation_world

    for text in config.env.check(seed=config.run.seed):
        complain(text)
    if config.eval.tasks:
        evaluation_world(config).check(seed=config.eval.seed, held_out=True)


def train_here(options: argparse.Namespace, config: Config, folder: Path) -> int:
    """Train in this process and show the result."""
    import anyio
    import structlog

    from trustee.cli.capture import divert_noise
    from trustee.cli.interrupt import until_interrupted
    from trustee.cli.progress import ProgressDisplay
    from trustee.jobs.assemble import prepare_model
    from trustee.jobs.stages import run_stages_of
    from trustee.runs.event_log import EventLog

    prepare_model(config)
    mode = choose_mode(options)
    code, text = DONE, ""
    with divert_noise(folder) as screen, ExitStack() as recording:
        try:
            with ProgressDisplay(screen.out, mode=mode) as progress:
                events = recording.enter_context(EventLog(folder, progress.emit))
                outcome = anyio.run(
                    until_interrupted,
                    lambda: run_stages_of(
                        config,
                        folder,
                        emit=events.emit,
                        resume=options.resume is not None,
                        profile=options.profile,
                    ),
                )
            text = conclude_text(outcome)
        except BaseExceptionGroup as group:
            error = single_error(group)
            if not isinstance(error, TrusteeError):
                raise
            code, text = error_code(error), failed_text(error, folder, config)
        except TrusteeError as error:
            code, text = error_code(error), failed_text(error, folder, config)
        except KeyboardInterrupt:
            code, text = INTERRUPTED, f"interrupted; {next_text(folder, config)}"
        if code:
            structlog.get_logger().warning("ended", code=code, text=text)
        events.end(code, text if code else "")
        if mode != "json" or code:
            print_text(text, to_errors=bool(code), screen=screen)
    return code


def next_text(folder: Path, config: Config) -> str:
    """Return how an ended run goes on."""
    from trustee.environments.registry import outside_worlds
    from trustee.jobs.protections import show_weakened

    if not (folder / "run.json").exists():
        return "nothing was begun yet; start it again"
    allowed = "".join(f" --allow-world {shlex.quote(name)}" for name in outside_worlds())
    return f"continue with: trustee run --resume {folder}{allowed}{show_weakened(config)}"


def failed_text(error: TrusteeError, folder: Path, config: Config) -> str:
    """Return an error's text; after an engine's death, also how the run goes on."""
    goes_on = f"; {next_text(folder, config)}" if isinstance(error, EngineDied) else ""
    return f"trustee: {barred(str(error))}{goes_on}"


def conclude_text(outcome: RunResult) -> str:
    """Return a readable summary of a run, its folder and the command to run next."""
    from trustee.jobs.held_out import show_share

    lines = [f"trained {outcome.steps} steps in {outcome.seconds / 60:.1f} minutes"]
    if outcome.before and outcome.after and outcome.gain:
        gain = outcome.gain
        lines += [
            f"held-out success before  {show_share(outcome.before)}",
            f"held-out success after   {show_share(outcome.after)}",
            f"gain {gain.points:+.1f} points (95 % interval {gain.low:+.1f} to {gain.high:+.1f}); "
            f"{gain.better} tasks won, {gain.worse} lost",
        ]
    if outcome.best is not None:
        lines.append(show_best(outcome.best, outcome.folder))
    lines += [
        f"run folder  {outcome.folder}",
        f"next  trustee view {outcome.folder} --reward -1",
    ]
    return "\n".join(lines)


def show_best(best: Measured, folder: Path) -> str:
    """Return the best measurement in training, and where its adapter is."""
    where = f"adapters/policy-{best.version:06d}" if best.version else "the base"
    return (
        f"best in training  {best.success:.1%} after step {best.step}, {folder / where}"
        if best.version
        else f"best in training  {best.success:.1%}, {where}: no later version was better"
    )

"""What each command of the command line does. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trustee.errors import InputError, TrusteeError

if TYPE_CHECKING:
    from trustee.config import Config
    from trustee.outcome import Outcome
    from trustee.progress import Mode

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done, failed, bad input, interrupted and resumable."""


def error_code(error: TrusteeError) -> int:
    """Give the exit code of an error."""
    return BAD_INPUT if isinstance(error, InputError) else FAILED


def single_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Give the one error inside nested groups, or the group where there are several kinds."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        ours, _ = error.split(TrusteeError)
        if ours is None:
            return error
        error = ours.exceptions[0]
    return error


def find_default(name: str) -> Path:
    """Find a config of this project, in the working directory or beside the package."""
    for root in (Path(), Path(__file__).parents[1]):
        path = root / "configs" / name
        if path.is_file():
            return path
    raise InputError(f"configs/{name} was not found; name a config with --config FILE")


def load_config(options: argparse.Namespace) -> Config:
    """Read the config that the options name, with their changes."""
    from trustee.config import read_config

    path = options.config or find_default("qwen3-8b.toml")
    changes = list(options.changes)
    if options.tools is not None:
        changes.append(f"env.tools='{options.tools}'")
    return read_config(path, changes)


def choose_device(config: Config, gpu: int | None) -> None:
    """Check that the card is there, and show the engine only that one.

    Raises:
        InputError: if it is not there, or the config wants none.
    """
    from trustee.launch import use_card
    from trustee.models import require_card

    if config.engine.device == "cpu" and gpu is not None:
        raise InputError(
            f"--gpu {gpu} was given but engine.device is cpu in the config; "
            "add --set engine.device=cuda or leave out --gpu"
        )
    if gpu is not None or config.engine.device == "cuda":
        require_card(gpu or 0)
        use_card(gpu or 0)


def choose_mode(options: argparse.Namespace) -> Mode:
    """Choose how progress is shown."""
    if options.json:
        return "json"
    return "live" if sys.stdout.isatty() else "lines"


def run_command(options: argparse.Namespace) -> int:
    """Train."""
    from trustee.record import name_folder, read_record

    if options.resume is not None:
        if options.config or options.tools or options.out or options.changes:
            raise InputError(
                "--resume continues a run with its own config; leave out --config, --tools, --out "
                "and --set"
            )
        folder: Path = options.resume
        config = read_record(folder).config
    else:
        if options.gpu is not None:
            from trustee.models import require_card

            require_card(options.gpu)
        config = load_config(options)
        folder = options.out or name_folder(config)
        if (folder / "run.json").exists():
            raise InputError(
                f"{folder} holds a run already; continue it with --resume {folder} or name another"
            )
    choose_device(config, options.gpu)
    check_tools(config)
    if config.engine.device == "cuda" and not options.force:
        check_plan(config, options.gpu or 0)
    return train_here(options, config, folder)


def check_plan(config: Config, gpu: int) -> None:
    """Refuse a run that cannot fit the card as it is now.

    Raises:
        InputError: with the changes that make it fit.
    """
    from trustee.machine import GIB
    from trustee.planning.cards import read_card
    from trustee.planning.room import advise, plan_on, show_holders

    found = read_card(gpu)
    if found is None:
        return
    plan = plan_on(found, config)
    if plan.fits:
        return
    raise InputError(
        f"this run needs {plan.peak_gib:.1f} GiB and {found.name} has {found.free / GIB:.1f} GiB "
        f"free{show_holders(found)}; {advise(plan, found)}; "
        "trustee plan says where the memory goes, --force starts it all the same"
    )


def check_tools(config: Config) -> None:
    """Read the tools file before anything heavy starts."""
    from trustee.environments.simulated import Simulated

    if isinstance(config.env, Simulated):
        config.env.repository()


def train_here(options: argparse.Namespace, config: Config, folder: Path) -> int:
    """Train in this process and say what came of it."""
    import anyio

    from trustee.launch import prepare_model, run_training, until_interrupted
    from trustee.noise import divert_noise
    from trustee.progress import Progress

    prepare_model(config)
    mode = choose_mode(options)
    code, text = DONE, ""
    with divert_noise(folder) as screen:
        try:
            with Progress(screen.out, mode=mode) as progress:
                outcome = anyio.run(
                    until_interrupted,
                    lambda: run_training(
                        config,
                        folder,
                        tell=progress.tell,
                        resume=options.resume is not None,
                        profile=options.profile,
                    ),
                )
            text = conclude_text(outcome)
        except BaseExceptionGroup as group:
            error = single_error(group)
            if not isinstance(error, TrusteeError):
                raise
            code, text = error_code(error), f"trustee: {error}"
        except TrusteeError as error:
            code, text = error_code(error), f"trustee: {error}"
        except KeyboardInterrupt:
            code = INTERRUPTED
            text = f"interrupted; continue with: trustee run --resume {folder}"
        if mode != "json" or code:
            print_text(text, to_errors=bool(code), screen=screen)
    return code


def print_text(text: str, *, to_errors: bool, screen: object) -> None:
    """Write a closing text where it belongs."""
    stream = getattr(screen, "err" if to_errors else "out")
    stream.write(text + "\n")
    stream.flush()


def conclude_text(outcome: Outcome) -> str:
    """Say what a run came to, where it lies and what to do next."""
    from trustee.outcome import show_share

    lines = [f"trained {outcome.steps} steps in {outcome.seconds / 60:.1f} minutes"]
    if outcome.before and outcome.after and outcome.gain:
        gain = outcome.gain
        lines += [
            f"held-out success before  {show_share(outcome.before)}",
            f"held-out success after   {show_share(outcome.after)}",
            f"gain {gain.points:+.1f} points (95 % interval {gain.low:+.1f} to {gain.high:+.1f}); "
            f"{gain.better} tasks won, {gain.worse} lost",
        ]
    lines += [
        f"run folder  {outcome.folder}",
        f"next  trustee view {outcome.folder} --reward -1",
    ]
    return "\n".join(lines)


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


def plan_command(options: argparse.Namespace) -> int:
    """Say whether a run fits a card; exit code 1 where it does not."""
    from trustee.config import read_config
    from trustee.planning.plan import run_plan

    config = read_config(options.config or find_default("qwen3-8b.toml"), options.changes)
    text, fits = run_plan(
        config,
        model=options.model,
        vram=options.vram,
        card=options.card,
        as_json=options.json,
    )
    sys.stdout.write(f"{text}\n")
    return DONE if fits else FAILED


def doctor_command(options: argparse.Namespace) -> int:
    """Try all that a run does; exit code 1 where something failed, and the engine's log is kept."""
    from shutil import rmtree
    from tempfile import mkdtemp

    import anyio

    from trustee.config import read_config
    from trustee.doctor import examination_json, examine, finding_text
    from trustee.launch import until_interrupted
    from trustee.models import count_cards
    from trustee.noise import divert_noise
    from trustee.planning.room import look_at_card

    on_card = options.gpu is not None or count_cards() > 0
    name = "qwen3-8b.toml" if on_card else "tiny.toml"
    config = read_config(options.config or find_default(name), options.changes)
    choose_device(config, options.gpu)
    folder = Path(mkdtemp(prefix="trustee-doctor-"))
    with divert_noise(folder) as to:

        def tell(text: str) -> None:
            to.out.write(f"{text}\n")
            to.out.flush()

        found = anyio.run(
            until_interrupted,
            lambda: examine(
                config,
                extra=look_at_card(config, options.gpu or 0),
                soak=options.soak,
                tell=lambda finding: None if options.json else tell(finding_text(finding)),
            ),
        )
        if options.json:
            tell(examination_json(found))
        else:
            tell("all well" if found.healthy else "something failed; see above")
        kept = not found.healthy and (folder / "engine.log").stat().st_size > 0
        if kept:
            to.err.write(f"what the engine said is in {folder / 'engine.log'}\n")
    if not kept:
        rmtree(folder)
    return DONE if found.healthy else FAILED


def view_command(options: argparse.Namespace) -> int:
    """Read trajectories."""
    from trustee.view import Filter, show_trajectories

    wanted = Filter(
        step=options.step,
        group=options.group,
        reward=options.reward,
        blame=options.blame,
        tool=options.tool,
        limit=options.limit,
    )
    show_trajectories(options.run, wanted, out=sys.stdout, as_json=options.json)
    return DONE


def tools_command(options: argparse.Namespace) -> int:
    """List or import tools."""
    from trustee.tool_files import dump_tools, import_tools
    from trustee.tools import Repository

    if options.action == "import":
        tools = import_tools(options.file)
        if options.out is not None:
            options.out.write_bytes(dump_tools(tools))
            sys.stdout.write(
                f"{len(tools)} tools written to {options.out}; "
                f"train on them with: trustee run --tools {options.out}\n"
            )
            return DONE
    else:
        repository = Repository.load()
        if options.category is not None and options.category not in repository.categories:
            raise InputError(
                f"no category {options.category!r}; there are {', '.join(repository.categories)}"
            )
        tools = (
            repository.tools
            if options.category is None
            else repository.categories[options.category]
        )
    for tool in tools:
        sys.stdout.write(f"{tool.category:<18} {tool.effect:<6} {tool.signature}\n")
    sys.stdout.write(f"{len(tools)} tools\n")
    return DONE

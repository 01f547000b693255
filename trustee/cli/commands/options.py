"""What the commands share: exit codes, options, and the display of errors and results."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trustee.cli.terminal import complain, is_interactive, say, say_json
from trustee.errors import EngineDied, InputError, OutOfMemory, TrusteeError

if TYPE_CHECKING:
    from trustee.cli.capture import Screen
    from trustee.cli.progress import DisplayMode
    from trustee.config import Config
    from trustee.events import Emit

T = TypeVar("T")

Commands = Any
"""Return type of `argparse.ArgumentParser.add_subparsers`, which has no public name."""

DONE, FAILED, BAD_INPUT, NO_MEMORY, STALLED, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_CODES = {
    DONE: "done",
    FAILED: "failed; the last lines say why",
    BAD_INPUT: "bad input: an option, a config or a file cannot be used",
    NO_MEMORY: "out of memory, at the end of the memory ladder",
    STALLED: "the engine died or stood still, twice; the run can be resumed",
    INTERRUPTED: "interrupted; the run can be resumed",
}
"""What the exit codes mean."""
NOISE = ("engine.log", "log.jsonl", "events.jsonl", "trackers.json", "trackers.log")
"""Files that a job writes before it has begun anything."""


def error_code(error: TrusteeError) -> int:
    """Return the exit code of an error."""
    match error:
        case InputError():
            return BAD_INPUT
        case OutOfMemory():
            return NO_MEMORY
        case EngineDied():
            return STALLED
        case _:
            return FAILED


def single_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the only error inside nested groups, or the group if there are several kinds."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        ours, _ = error.split(TrusteeError)
        if ours is None:
            return error
        error = ours.exceptions[0]
    return error


def find_config(given: Path | None, default: str) -> Path:
    """Return the config that a call names, or the default one.

    A config of the package is found by its name from any folder: `tiny`, `tiny.toml`,
    `configs/tiny.toml`, and an example likewise. A file that is there comes first.
    """
    from trustee.config import CONFIGS, EXAMPLES, PACKAGED

    path = given or CONFIGS / default
    if path.exists():
        return path
    places = {Path(): (PACKAGED, PACKAGED / EXAMPLES), CONFIGS: (PACKAGED,)}
    places |= {EXAMPLES: (PACKAGED / EXAMPLES,)}
    for place in places.get(path.parent, ()):
        for packaged in (place / path.name, place / f"{path.name}.toml"):
            if packaged.is_file():
                return packaged
    return path


def find_run(given: Path) -> Path:
    """Return the run folder that a call names; `latest` is the newest one in `runs`.

    Raises:
        InputError: if there is none.
    """
    from trustee.runs.standing import LATEST, find_latest

    if str(given) == LATEST and not given.exists():
        return find_latest(Path("runs"))
    return given


def choose_device(config: Config, gpu: int | None) -> None:
    """Check that the GPU exists, and hide all others from the engine.

    Raises:
        InputError: if it does not exist, or the config uses the CPU.
    """
    from trustee.planning.cards import require_card, use_card

    if config.engine.device == "cpu" and gpu is not None:
        raise InputError(
            f"--gpu {gpu} was given but engine.device is cpu in the config; "
            "add --set engine.device=cuda or leave out --gpu"
        )
    if gpu is not None or config.engine.on_gpu:
        require_card(gpu or 0)
        use_card(gpu or 0)


def choose_mode(options: argparse.Namespace) -> DisplayMode:
    """Return how progress is shown."""
    if options.json:
        return "json"
    return "live" if is_interactive() else "lines"


def show_job(
    options: argparse.Namespace,
    folder: Path,
    job: Callable[[Emit], Awaitable[T]],
    *,
    text: Callable[[T], str],
    again: str = "run the same command again",
) -> T:
    """Run a job that emits events, log its noise to `folder`, and show its result.

    If the input was bad and the folder holds nothing else, the folder is removed again.

    Raises:
        KeyboardInterrupt: if it was interrupted, with a text that says how to go on, `again`.
    """
    from trustee.runs.ownership import own_folder

    is_new = not folder.exists()
    with own_folder(folder):
        try:
            return show_events(options, folder, job, text=text, again=again)
        except (InputError, BaseExceptionGroup) as error:
            ours = single_error(error) if isinstance(error, BaseExceptionGroup) else error
            if is_new and isinstance(ours, InputError):
                drop_noise(folder)
            raise


def drop_noise(folder: Path) -> None:
    """Empty a folder that only holds the logs of a job that never started."""
    from trustee.runs.ownership import LOCK

    if {path.name for path in folder.iterdir()} <= {*NOISE, LOCK}:
        for name in NOISE:
            (folder / name).unlink(missing_ok=True)


def show_events(
    options: argparse.Namespace,
    folder: Path,
    job: Callable[[Emit], Awaitable[T]],
    *,
    text: Callable[[T], str],
    again: str,
) -> T:
    """Run a job and show its events, then its result."""
    import anyio
    import structlog

    from trustee.cli.capture import divert_noise
    from trustee.cli.interrupt import until_interrupted
    from trustee.cli.progress import ProgressDisplay
    from trustee.runs.event_log import EventLog

    with divert_noise(folder) as screen:
        with (
            ProgressDisplay(screen.out, mode=choose_mode(options)) as progress,
            EventLog(folder, progress.emit) as events,
        ):
            try:
                result: T = anyio.run(until_interrupted, lambda: job(events.emit))
                events.end(DONE)
            except KeyboardInterrupt:
                structlog.get_logger().warning("interrupted", again=again)
                events.end(INTERRUPTED, f"interrupted; to continue, {again}")
                raise KeyboardInterrupt(f"interrupted; to continue, {again}") from None
            except (TrusteeError, BaseExceptionGroup) as error:
                ours = single_error(error) if isinstance(error, BaseExceptionGroup) else error
                if isinstance(ours, TrusteeError):
                    events.end(error_code(ours), str(ours))
                raise
        if options.json:
            say_json(show_json(result), to=screen.out)
        else:
            print_text(text(result), to_errors=False, screen=screen)
    return result


def show_json(result: object) -> bytes:
    """Return a result as the last JSON event of a job."""
    import msgspec

    fields = msgspec.to_builtins(result, enc_hook=str, str_keys=True)
    return msgspec.json.encode({"event": "result", **fields})


def allow_unsafe(options: argparse.Namespace) -> list[str]:
    """Return the config changes, including the one that `--unsafe-local-tools` stands for."""
    unsafe = ["sandbox.isolation='none'"] if options.unsafe_local_tools else []
    return [*options.changes, *unsafe]


def read_resumed(options: argparse.Namespace, folder: Path) -> Config:
    """Return the config of a run that is resumed, with the protections that this call changes.

    Raises:
        InputError: if the call changes anything else, or the record weakens a protection.
    """
    from trustee.jobs.protections import only_protections
    from trustee.jobs.run_metadata import read_trusted

    only_protections(options.changes)
    allow_worlds(options)
    return read_trusted(folder, allow_unsafe(options))


def add_allow_world(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets a run's record name a world outside the package."""
    parser.add_argument(
        "--allow-world",
        action="append",
        default=[],
        metavar="WORLD",
        help="use this world outside the package (MODULE:CLASS) or this server (mcp:COMMAND, an"
        " address), which the run's record names",
    )


def allow_worlds(options: argparse.Namespace) -> None:
    """Load the worlds outside the package that this call allows a run's record to name."""
    from trustee.environments.registry import allow_world

    for name in options.allow_world:
        allow_world(name, folders=(Path(),))


def warn_unconfined(config: Config) -> None:
    """Warn if the worlds have executable tools and nothing confines them."""
    from trustee.jobs.held_out import evaluation_world

    unconfined = config.sandbox.isolation == "none"
    if unconfined and (config.env.needs_sandbox() or evaluation_world(config).needs_sandbox()):
        complain(
            "sandbox.isolation is 'none': code that a model wrote runs unconfined, with your rights"
        )


def print_text(text: str, *, to_errors: bool, screen: Screen) -> None:
    """Write a closing text to the error stream or the output."""
    say(text, to=screen.err if to_errors else screen.out)


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add the options that most commands take."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="change one key of the config, such as rollout.group_size=16",
    )
    parser.add_argument(
        "--unsafe-local-tools",
        action="store_true",
        help="run executable tools even if nothing on this machine can confine them",
    )
    parser.add_argument("--json", action="store_true", help="JSON events instead of a panel")

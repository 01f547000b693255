"""`trustee watch`: the panel of a run, from a second terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.options import DONE, Commands, choose_mode, find_run
from trustee.cli.terminal import barred, find_output, say
from trustee.errors import InputError

LOOK_SECONDS = 1.0
"""Time between two looks at the run's events."""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    watch = commands.add_parser("watch", help="follow a run from a second terminal")
    watch.add_argument(
        "run", type=Path, nargs="?", default=Path("latest"), metavar="RUN", help="default: latest"
    )
    watch.add_argument("--json", action="store_true", help="JSON events instead of a panel")
    watch.set_defaults(act=watch_command)


def watch_command(options: argparse.Namespace) -> int:
    """Show the events of a run until it ends; the code is that of the run."""
    import anyio

    from trustee.cli.interrupt import until_interrupted
    from trustee.cli.progress import ProgressDisplay
    from trustee.runs.event_log import EVENTS
    from trustee.runs.watching import RecordedClock, watch_events

    folder = find_run(options.run)
    if not (folder / EVENTS).is_file():
        raise InputError(f"{folder} has no {EVENTS}: it is not a run folder, or an old one")
    clock = RecordedClock()
    with ProgressDisplay(find_output(), mode=choose_mode(options), recorded=clock.now) as shown:
        try:
            ended = anyio.run(
                until_interrupted,
                lambda: watch_events(
                    folder, tell=shown.emit, look_seconds=LOOK_SECONDS, clock=clock
                ),
            )
        except KeyboardInterrupt:
            return DONE
    if ended is None:
        say(f"nobody is at work in {folder}")
        return DONE
    if not options.json:
        say(barred(ended.text or f"{folder} ended well"))
    code: int = ended.code
    return code

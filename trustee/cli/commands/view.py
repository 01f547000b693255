"""`trustee view`: read trajectories."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.options import DONE, FAILED, Commands, find_run


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    view = commands.add_parser("view", help="read trajectories")
    view.add_argument("run", type=Path, metavar="RUN", help="run folder, or latest")
    view.add_argument(
        "--step", type=int, metavar="N", help="played by the version before this step"
    )
    view.add_argument("--group", type=int, metavar="N")
    view.add_argument("--reward", metavar="R", help="such as 1, -1, '>0'")
    view.add_argument("--failed-by", metavar="WHO", help="culprit, such as policy, user or judge")
    view.add_argument("--tool", metavar="NAME", help="episodes that called this tool")
    view.add_argument(
        "--limit", type=int, default=5, metavar="N", help="how many; default 5, 0 is all"
    )
    view.add_argument("--json", action="store_true", help="JSON lines")
    view.set_defaults(act=view_command)


def view_command(options: argparse.Namespace) -> int:
    """Print trajectories; return exit code 1 if lines cannot be read."""
    from trustee.cli.episodes import show_trajectories
    from trustee.runs.view import Filter

    wanted = Filter(
        step=options.step,
        group=options.group,
        reward=options.reward,
        failed_by=options.failed_by,
        tool=options.tool,
        limit=options.limit,
    )
    bad = show_trajectories(find_run(options.run), wanted, as_json=options.json)
    return FAILED if bad else DONE

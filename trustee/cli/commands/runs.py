"""`trustee runs`: the runs of a folder, one a line."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from trustee.cli.commands.options import DONE, Commands
from trustee.cli.terminal import Page, say, say_json
from trustee.errors import InputError

if TYPE_CHECKING:
    from trustee.runs.standing import Standing

TONES = {"under way": "cyan", "finished": "green", "failed": "red"}


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    runs = commands.add_parser("runs", help="list runs with their state, success and cost")
    runs.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), metavar="FOLDER", help="default: runs"
    )
    runs.add_argument("--json", action="store_true", help="JSON lines")
    runs.set_defaults(act=runs_command)


def runs_command(options: argparse.Namespace) -> int:
    """List the runs of a folder, the newest first."""
    import msgspec

    from trustee.runs.standing import find_runs, read_standing

    folder: Path = options.folder
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the folder that holds the runs")
    found = [read_standing(run) for run in find_runs(folder)]
    found.sort(key=lambda run: run.began, reverse=True)
    if options.json:
        for run in found:
            say_json(msgspec.json.encode(run, enc_hook=str))
        return DONE
    if not found:
        say(f"no run in {folder}; trustee run starts one")
        return DONE
    rows = [show_run(run, folder) for run in found]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    page = Page()
    for run, row in zip(found, rows, strict=True):
        name, state, *rest = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        page.line((name, "bold"), "  ", (state, TONES.get(run.state, "yellow")), *_join(rest))
    return DONE


def _join(cells: list[str]) -> list[str]:
    return [f"  {cell}" for cell in cells]


def show_run(run: Standing, folder: Path) -> list[str]:
    """Return the cells of a run's line: name, state, success, steps, time, model, age."""
    inside = run.folder != folder and run.folder.is_relative_to(folder)
    success = "" if run.before is None else f"{run.before:.0%}"
    if run.after is not None:
        gain = f" ({run.gain['points']:+.1f})" if run.gain and "points" in run.gain else ""
        success += f" -> {run.after:.0%}{gain}"
    return [
        str(run.folder.relative_to(folder)) if inside else str(run.folder),
        run.state,
        success,
        f"step {run.step}" + (f" of {run.steps}" if run.steps else ""),
        "" if run.seconds is None else f"{run.seconds / 60:.1f} min",
        Path(run.model).name,
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run.began)),
    ]

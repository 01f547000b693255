"""`trustee report`: runs as one HTML file, to show to somebody else."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.options import DONE, Commands, find_run
from trustee.cli.terminal import say
from trustee.errors import InputError


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    report = commands.add_parser(
        "report", help="write one HTML file that shows what runs did, and whether they helped"
    )
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or latest")
    report.add_argument(
        "--out", type=Path, required=True, metavar="FILE.html", help="file to write; must not exist"
    )
    report.set_defaults(act=report_command)


def report_command(options: argparse.Namespace) -> int:
    """Write the report."""
    import time

    from trustee.pages.report.findings import find_out
    from trustee.pages.report.page import write_report
    from trustee.runs.files import write_file

    out: Path = options.out
    if out.exists():
        raise InputError(f"--out {out} is there already; name a new file, or remove it")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    data = write_report([find_out(find_run(run)) for run in options.runs], now=time.time())
    try:
        write_file(out, data)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from error
    say(f"{out}  {len(data) / 1e6:.2f} MB; it opens in any browser, without a network")
    return DONE

"""`trustee merge`: join the parts that `build`, `collect` or `eval` made with `--shard`."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.options import (
    DONE,
    FAILED,
    Commands,
    add_allow_world,
    allow_worlds,
    show_json,
)
from trustee.cli.terminal import say, say_json


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    merge = commands.add_parser(
        "merge", help="join the parts of a build, collection or evaluation made with --shard"
    )
    merge.add_argument("out", type=Path, metavar="OUT", help="folder of the whole; must be new")
    merge.add_argument("shards", type=Path, nargs="+", metavar="SHARD", help="folders of all parts")
    add_allow_world(merge)
    merge.add_argument("--json", action="store_true", help="JSON instead of text")
    merge.set_defaults(act=merge_command)


def merge_command(options: argparse.Namespace) -> int:
    """Join the parts; return exit code 1 if a build has fewer environments than were wanted."""
    from trustee.jobs.merge import merge

    allow_worlds(options)
    merged = merge(options.shards, options.out)
    if options.json:
        say_json(show_json(merged.result))
    else:
        say(merged.text)
    return DONE if merged.complete else FAILED

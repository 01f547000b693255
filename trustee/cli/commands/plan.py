"""`trustee plan`: report whether a run fits a GPU and how long it takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.options import DONE, FAILED, Commands, add_shared, find_config
from trustee.cli.terminal import say, say_json


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    plan = commands.add_parser("plan", help="report whether a run fits a GPU and how long it takes")
    plan.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG", help="default: configs/qwen3-8b.toml"
    )
    plan.add_argument("--model", metavar="NAME", help="replaces the config's model.path")
    plan.add_argument("--vram", type=float, metavar="GIB", help="memory of the GPU")
    plan.add_argument("--card", metavar="NAME", help="such as 'RTX 4090'; default: this machine's")
    add_shared(plan)
    plan.set_defaults(act=plan_command)


def plan_command(options: argparse.Namespace) -> int:
    """Report whether a run fits a GPU; return exit code 1 if it does not."""
    from trustee.config import read_config
    from trustee.planning.plan_text import run_plan

    config = read_config(find_config(options.config, "qwen3-8b.toml"), options.changes)
    text, fits = run_plan(
        config,
        model=options.model,
        vram=options.vram,
        card=options.card,
        as_json=options.json,
    )
    if options.json:
        say_json(text.encode())
    else:
        say(text)
    return DONE if fits else FAILED

"""The command line. Nothing heavy is imported before a command needs it.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trustee import __version__
from trustee.commands import (
    DONE,
    INTERRUPTED,
    doctor_command,
    error_code,
    eval_command,
    plan_command,
    run_command,
    single_error,
    tools_command,
    view_command,
)
from trustee.errors import TrusteeError

Commands = Any
"""What `argparse.ArgumentParser.add_subparsers` gives; its type has no public name."""


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="trustee",
        description="Train a tool-calling agent on one card, in a world that its base simulates.",
    )
    parser.add_argument("--version", action="version", version=f"trustee {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for add in (_add_run, _add_eval, _add_plan, _add_doctor, _add_view, _add_tools):
        add(commands)
    return parser


def _add_run(commands: Commands) -> None:
    run = commands.add_parser("run", help="train")
    run.add_argument("--config", type=Path, metavar="FILE", help="default: configs/qwen3-8b.toml")
    run.add_argument("--gpu", type=int, metavar="N", help="CUDA device to use; default 0")
    run.add_argument("--tools", type=Path, metavar="FILE", help="train on these tools")
    run.add_argument("--resume", type=Path, metavar="RUN", help="continue a run folder")
    run.add_argument("--out", type=Path, metavar="RUN", help="folder of the new run")
    run.add_argument(
        "--force", action="store_true", help="start although the plan says that it does not fit"
    )
    run.add_argument(
        "--profile", action="store_true", help="write timeline.json for chrome://tracing, Perfetto"
    )
    _add_shared(run)


def _add_eval(commands: Commands) -> None:
    evaluate = commands.add_parser("eval", help="measure a run's adapter against its base")
    evaluate.add_argument("run", type=Path, metavar="RUN")
    evaluate.add_argument("--tasks", type=int, metavar="N", help="held-out tasks")
    evaluate.add_argument("--adapter", type=Path, metavar="DIR", help="default: the run's newest")
    evaluate.add_argument("--gpu", type=int, metavar="N")
    _add_shared(evaluate)


def _add_plan(commands: Commands) -> None:
    plan = commands.add_parser("plan", help="say whether a run fits a card, and how long it takes")
    plan.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG", help="default: configs/qwen3-8b.toml"
    )
    plan.add_argument("--model", metavar="NAME", help="instead of the config's model.path")
    plan.add_argument("--vram", type=float, metavar="GIB", help="memory of the card")
    plan.add_argument("--card", metavar="NAME", help="such as 'RTX 4090'; default: this machine's")
    _add_shared(plan)


def _add_doctor(commands: Commands) -> None:
    doctor = commands.add_parser("doctor", help="try all that a run does on this machine")
    doctor.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="default: configs/qwen3-8b.toml with a card, else configs/tiny.toml",
    )
    doctor.add_argument("--gpu", type=int, metavar="N", help="CUDA device to use; default 0")
    doctor.add_argument(
        "--soak", type=int, default=0, metavar="N", help="rounds to go on after the first"
    )
    _add_shared(doctor)


def _add_view(commands: Commands) -> None:
    view = commands.add_parser("view", help="read trajectories")
    view.add_argument("run", type=Path, metavar="RUN")
    view.add_argument(
        "--step", type=int, metavar="N", help="played by the version before this step"
    )
    view.add_argument("--group", type=int, metavar="N")
    view.add_argument("--reward", metavar="R", help="such as 1, -1, '>0'")
    view.add_argument("--blame", metavar="WHO", help="such as policy, user or judge")
    view.add_argument("--tool", metavar="NAME", help="episodes that called this tool")
    view.add_argument(
        "--limit", type=int, default=5, metavar="N", help="how many; default 5, 0 is all"
    )
    view.add_argument("--json", action="store_true", help="JSON lines")


def _add_tools(commands: Commands) -> None:
    tools = commands.add_parser("tools", help="look at tools, or import your own")
    actions = tools.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list the packaged tools")
    listed.add_argument("--category", metavar="NAME")
    imported = actions.add_parser(
        "import", help="read OpenAI JSON, a Python module or an OpenAPI document"
    )
    imported.add_argument("file", type=Path, metavar="FILE")
    imported.add_argument("--out", type=Path, metavar="FILE", help="write them as OpenAI JSON")


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="change one key of the config, such as rollout.group_size=16",
    )
    parser.add_argument("--json", action="store_true", help="JSON events instead of a panel")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    options = make_parser().parse_args(arguments)
    commands = {
        "run": run_command,
        "eval": eval_command,
        "plan": plan_command,
        "doctor": doctor_command,
        "view": view_command,
        "tools": tools_command,
    }
    try:
        return commands[options.command](options)
    except BaseExceptionGroup as group:
        error = single_error(group)
        if not isinstance(error, TrusteeError):
            raise
    except TrusteeError as ours:
        error = ours
    except KeyboardInterrupt:
        sys.stderr.write("trustee: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return DONE
    sys.stderr.write(f"trustee: {error}\n")
    return error_code(error)

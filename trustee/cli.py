"""The command line. Nothing heavy is imported before a command needs it.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trustee import __version__
from trustee.commands import (
    DONE,
    INTERRUPTED,
    error_code,
    eval_command,
    run_command,
    single_error,
    tools_command,
    view_command,
)
from trustee.errors import TrusteeError


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="trustee",
        description="Train a tool-calling agent on one card, in a world that its base simulates.",
    )
    parser.add_argument("--version", action="version", version=f"trustee {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="train")
    run.add_argument("--config", type=Path, metavar="FILE", help="default: configs/qwen3-8b.toml")
    run.add_argument("--gpu", type=int, metavar="N", help="CUDA device to use; default 0")
    run.add_argument("--tools", type=Path, metavar="FILE", help="train on these tools")
    run.add_argument("--resume", type=Path, metavar="RUN", help="continue a run folder")
    run.add_argument("--out", type=Path, metavar="RUN", help="folder of the new run")
    _add_shared(run)

    evaluate = commands.add_parser("eval", help="measure a run's adapter against its base")
    evaluate.add_argument("run", type=Path, metavar="RUN")
    evaluate.add_argument("--tasks", type=int, metavar="N", help="held-out tasks")
    evaluate.add_argument("--adapter", type=Path, metavar="DIR", help="default: the run's newest")
    evaluate.add_argument("--gpu", type=int, metavar="N")
    _add_shared(evaluate)

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

    tools = commands.add_parser("tools", help="look at tools, or import your own")
    actions = tools.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list the packaged tools")
    listed.add_argument("--category", metavar="NAME")
    imported = actions.add_parser(
        "import", help="read OpenAI JSON, a Python module or an OpenAPI document"
    )
    imported.add_argument("file", type=Path, metavar="FILE")
    imported.add_argument("--out", type=Path, metavar="FILE", help="write them as OpenAI JSON")
    return parser


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
    commands = {"run": run_command, "eval": eval_command, "view": view_command}
    try:
        return commands.get(options.command, tools_command)(options)
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

"""The command line. Heavy modules are only imported by the command that needs them.

What the exit codes mean is `commands.options.EXIT_CODES`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from trustee import __version__
from trustee.cli.commands import COMMANDS
from trustee.cli.commands.options import DONE, EXIT_CODES, INTERRUPTED, error_code, single_error
from trustee.cli.interrupt import signals_interrupt
from trustee.cli.terminal import complain, show_bug, silence, visible
from trustee.errors import TrusteeError


class Parser(argparse.ArgumentParser):
    """A parser whose errors quote what was given visibly."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end."""
        super().error(visible(message))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="trustee",
        description="Train a tool-calling agent on one GPU, in a world that its base simulates.",
        epilog="exit codes:\n" + "\n".join(f"  {n:>3}  {text}" for n, text in EXIT_CODES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trustee {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    sys.excepthook = show_bug
    options = make_parser().parse_args(arguments)
    from trustee.cli.capture import log_to_screen

    log_to_screen()
    try:
        with signals_interrupt():
            return int(options.act(options))
    except BaseExceptionGroup as group:
        error = single_error(group)
        if not isinstance(error, TrusteeError):
            raise
    except TrusteeError as ours:
        error = ours
    except KeyboardInterrupt as interrupt:
        with suppress(OSError):
            complain(str(interrupt) or "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        silence()
        return DONE
    complain(str(error))
    return error_code(error)

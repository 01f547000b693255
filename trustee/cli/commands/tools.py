"""`trustee tools`: list tools, or import your own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trustee.cli.commands.options import DONE, Commands
from trustee.cli.terminal import barred, complain, say
from trustee.errors import InputError
from trustee.tools.selection import MOST_CHARACTERS, Selection
from trustee.types import Tool


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    tools = commands.add_parser("tools", help="list tools, or import your own")
    actions = tools.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list the packaged tools")
    listed.add_argument("--category", metavar="NAME")
    imported = actions.add_parser(
        "import", help="read a list of tools, a Python module or an OpenAPI document"
    )
    imported.add_argument("file", type=Path, metavar="FILE")
    imported.add_argument("--out", type=Path, metavar="FILE", help="write them as OpenAI JSON")
    imported.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="take only tools whose name or place fits, such as 'get_*' or 'GET /pets*'",
    )
    imported.add_argument(
        "--skip", action="append", default=[], metavar="PATTERN", help="leave out tools that fit"
    )
    imported.add_argument(
        "--most-characters",
        type=int,
        default=MOST_CHARACTERS,
        metavar="N",
        help="length to which an operation's schema is shortened; four characters are about a"
        " token (default: %(default)s)",
    )
    imported.add_argument(
        "--all-notices", action="store_true", help="name every tool that was left out or changed"
    )
    tools.set_defaults(act=tools_command)


def tools_command(options: argparse.Namespace) -> int:
    """List or import tools."""
    from trustee.tools.files import dump_tools
    from trustee.tools.repository import Repository

    if options.action == "import":
        if options.out is not None and options.out.exists():
            raise InputError(f"{options.out} exists and is kept; give another name with --out")
        tools = read_tools_of(options)
        if options.out is not None:
            write_new(options.out, dump_tools(tools))
            say(
                f"{len(tools)} tools written to {options.out}; "
                f"train on them with: trustee run --tools {options.out}"
            )
            return DONE
    else:
        repository = Repository.load()
        if options.category is not None and options.category not in repository.categories:
            raise InputError(
                f"no category {options.category!r}; there are {', '.join(repository.categories)}"
            )
        tools = (
            repository.tools
            if options.category is None
            else repository.categories[options.category]
        )
    for tool in tools:
        say(barred(f"{tool.category:<18} {tool.effect:<6} {tool.signature}"))
    say(f"{len(tools)} tools")
    return DONE


def write_new(path: Path, data: bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        InputError: if its folder is not there or cannot be written.
    """
    from trustee.runs.files import write_file

    try:
        write_file(path, data)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); give a file in a folder that exists"
            " and can be written, with --out"
        ) from error


def read_tools_of(options: argparse.Namespace) -> tuple[Tool, ...]:
    """Read the file that was given, and say on stderr what was left out or changed."""
    from trustee.tools.files import import_tools
    from trustee.tools.files.notices import SHOWN, Notices

    if options.most_characters < 1:
        raise InputError(f"--most-characters must be at least 1, got {options.most_characters}")
    selection = Selection(
        only=tuple(options.only),
        skip=tuple(options.skip),
        most_characters=options.most_characters,
    )
    notices = Notices()
    tools = import_tools(options.file, selection, notices=notices)
    for line in notices.lines(most=sys.maxsize if options.all_notices else SHOWN):
        complain(line)
    return tools

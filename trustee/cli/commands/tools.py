"""`trustee tools`: list tools, or import your own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trustee.cli.commands.options import DONE, Commands
from trustee.cli.terminal import barred, complain, say
from trustee.errors import InputError
from trustee.tools.selection import MOST_CHARACTERS, Selection
from trustee.types import Tool

if TYPE_CHECKING:
    from trustee.tools.files.notices import Notices


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    tools = commands.add_parser("tools", help="list tools, or import your own")
    actions = tools.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list the packaged tools")
    listed.add_argument("--category", metavar="NAME")
    imported = actions.add_parser(
        "import",
        help="read a list of tools, a Python module, an OpenAPI document or an MCP server",
    )
    imported.add_argument(
        "source",
        metavar="FILE",
        help="a file or folder, mcp:COMMAND to start an MCP server, or the address of one; it is"
        " asked for its list of tools, and no tool is ever called",
    )
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
    imported.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="environment variable that a started MCP server gets besides HOME, PATH and the like",
    )
    imported.add_argument(
        "--bearer", metavar="NAME", help="environment variable with the token for an address"
    )
    imported.add_argument(
        "--seconds", type=float, metavar="S", help="how long an MCP server may take (default: 60)"
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
    """Read the file or server that was given, and say on stderr what was left out or changed."""
    from trustee.tools.files import import_tools
    from trustee.tools.files.notices import SHOWN, Notices
    from trustee.tools.mcp.address import is_server

    if options.most_characters < 1:
        raise InputError(f"--most-characters must be at least 1, got {options.most_characters}")
    selection = Selection(
        only=tuple(options.only),
        skip=tuple(options.skip),
        most_characters=options.most_characters,
    )
    notices = Notices()
    if is_server(options.source):
        tools = ask_server(options, selection, notices=notices)
    else:
        refuse_server_options(options)
        tools = import_tools(Path(options.source), selection, notices=notices)
    for line in notices.lines(most=sys.maxsize if options.all_notices else SHOWN):
        complain(line)
    return tools


def ask_server(
    options: argparse.Namespace, selection: Selection, *, notices: Notices
) -> tuple[Tool, ...]:
    """Have an MCP server list its tools."""
    from trustee.tools.mcp.address import parse_server
    from trustee.tools.mcp.listing import LIST_SECONDS, import_from_server

    seconds = LIST_SECONDS if options.seconds is None else options.seconds
    if seconds <= 0:
        raise InputError(f"--seconds must be more than 0, got {seconds:g}")
    given = (word.partition("=") for word in options.env)
    variables = {name: value if equals else f"${name}" for name, equals, value in given}
    server = parse_server(options.source, variables=variables, bearer=options.bearer or "")
    if server.url and options.env:
        raise InputError("--env is for a server that is started; an address takes --bearer NAME")
    if server.command and options.bearer:
        raise InputError("--bearer is for an address; a server that is started takes --env NAME")
    return import_from_server(server, selection, notices=notices, seconds=seconds)


def refuse_server_options(options: argparse.Namespace) -> None:
    """Refuse options of an MCP server where there is none."""
    given = {"--env": options.env, "--bearer": options.bearer, "--seconds": options.seconds}
    for name, value in given.items():
        if value:
            raise InputError(
                f"{name} is for an MCP server, and {options.source} is not one; give "
                "mcp:COMMAND or an address"
            )

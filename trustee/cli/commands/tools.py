"""`trustee tools`: list tools, or import your own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trustee.cli.commands.options import DONE, Commands
from trustee.errors import InputError


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    tools = commands.add_parser("tools", help="list tools, or import your own")
    actions = tools.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list the packaged tools")
    listed.add_argument("--category", metavar="NAME")
    imported = actions.add_parser(
        "import", help="read OpenAI JSON, a Python module or an OpenAPI document"
    )
    imported.add_argument("file", type=Path, metavar="FILE")
    imported.add_argument("--out", type=Path, metavar="FILE", help="write them as OpenAI JSON")
    tools.set_defaults(act=tools_command)


def tools_command(options: argparse.Namespace) -> int:
    """List or import tools."""
    from trustee.tools.files import dump_tools, import_tools
    from trustee.tools.repository import Repository

    if options.action == "import":
        tools = import_tools(options.file)
        if options.out is not None:
            options.out.write_bytes(dump_tools(tools))
            sys.stdout.write(
                f"{len(tools)} tools written to {options.out}; "
                f"train on them with: trustee run --tools {options.out}\n"
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
        sys.stdout.write(f"{tool.category:<18} {tool.effect:<6} {tool.signature}\n")
    sys.stdout.write(f"{len(tools)} tools\n")
    return DONE

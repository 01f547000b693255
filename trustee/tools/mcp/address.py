"""Where an MCP server is: a command that starts it, or the address of one that runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from msgspec.structs import replace

from trustee.errors import InputError
from trustee.types import Record

PREFIX = "mcp:"
"""What stands before a server's command where a file could be given, too."""
SCHEMES = ("http://", "https://")
EXAMPLE = "mcp:npx -y @modelcontextprotocol/server-memory, or https://host/mcp"
FOLDER = "{folder}"
"""Stands for the folder of an episode, in a command and in the values of variables."""
INHERITED = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG", "TMPDIR")
"""Environment variables that every server gets: none of them is a secret."""


class McpServer(Record, frozen=True):
    """A server of the Model Context Protocol: exactly one of `command` and `url` is given."""

    command: tuple[str, ...] = ()
    """Program and arguments that start the server, which speaks through its input and output."""
    url: str = ""
    """Address of a server that speaks streamable HTTP."""
    variables: dict[str, str] = {}
    """Environment variables that a started server gets besides `INHERITED`; `$NAME` is the value of
    a variable of this process, so that no secret need be written down."""
    bearer: str = ""
    """Name of the environment variable with the token that the address asks for."""
    folder: str = ""
    """Working directory of a started server; empty is the one of this process."""

    def __post_init__(self) -> None:
        """Refuse a server that is nowhere or in two places.

        Raises:
            InputError: naming what was given.
        """
        if bool(self.command) == bool(self.url):
            given = "both" if self.command else "neither"
            raise InputError(f"an MCP server has a command or an address, got {given}")
        if self.url and not self.url.startswith(SCHEMES):
            raise InputError(f"the address of an MCP server begins with http://, got {self.url!r}")

    @property
    def name(self) -> str:
        """The server with all that decides what is run or told, as an option names it."""
        if self.url:
            return f"{self.url}#bearer={self.bearer}" if self.bearer else self.url
        given = [f"{name}={value}" for name, value in sorted(self.variables.items())]
        return PREFIX + " ".join([*map(_quote, given), shlex.join(self.command)])

    def environment(self, given: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment variables of a started server.

        Raises:
            InputError: naming a variable that is not set.
        """
        named = {
            name: read_variable(value[1:], given) if value.startswith("$") else value
            for name, value in self.variables.items()
        }
        return {name: given[name] for name in INHERITED if name in given} | named

    def token(self, given: Mapping[str, str] = os.environ) -> str:
        """Return the token that the address asks for; empty if it asks for none.

        Raises:
            InputError: if the variable that holds it is not set.
        """
        return read_variable(self.bearer, given) if self.bearer else ""


def _quote(assignment: str) -> str:
    name, _, value = assignment.partition("=")
    return f"{name}={shlex.quote(value)}"


def read_variable(name: str, given: Mapping[str, str]) -> str:
    """Return an environment variable.

    Raises:
        InputError: if it is not set.
    """
    if not given.get(name):
        raise InputError(f"the environment variable {name} is not set; set it, or do not name it")
    return given[name]


def is_server(text: str) -> bool:
    """Whether a text names an MCP server and no file."""
    return text.startswith((PREFIX, *SCHEMES))


def parse_server(
    text: str, *, variables: Mapping[str, str] = MappingProxyType({}), bearer: str = ""
) -> McpServer:
    """Read `mcp:COMMAND` or an address; a command is split as a shell does, and no shell runs it.

    Raises:
        InputError: if there is no command, or its quotes do not close.
    """
    rest = text.removeprefix(PREFIX).strip()
    if rest.startswith(SCHEMES):
        return McpServer(url=rest, bearer=bearer)
    try:
        command = tuple(shlex.split(rest))
    except ValueError as error:
        raise InputError(
            f"{text}: the command cannot be split ({error}); give {EXAMPLE}"
        ) from error
    if not command:
        raise InputError(f"{text!r} names no command; give {EXAMPLE}")
    return McpServer(command=command, variables=dict(variables), bearer=bearer)


def place_server(server: McpServer, folder: Path) -> McpServer:
    """Return a server that works in a folder, which `{folder}` in command and variables names."""
    return replace(
        server,
        command=tuple(word.replace(FOLDER, str(folder)) for word in server.command),
        variables={n: v.replace(FOLDER, str(folder)) for n, v in server.variables.items()},
        folder=str(folder),
    )

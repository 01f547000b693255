"""Where an MCP server is: a command that starts it, or the address of one that runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from trustee.errors import InputError
from trustee.types import Record

PREFIX = "mcp:"
"""What stands before a server's command where a file could be given, too."""
SCHEMES = ("http://", "https://")
EXAMPLE = "mcp:npx -y @modelcontextprotocol/server-memory, or https://host/mcp"
INHERITED = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG", "TMPDIR")
"""Environment variables that every server gets: none of them is a secret."""


class McpServer(Record, frozen=True):
    """A server of the Model Context Protocol: exactly one of `command` and `url` is given."""

    command: tuple[str, ...] = ()
    """Program and arguments that start the server, which speaks through its input and output."""
    url: str = ""
    """Address of a server that speaks streamable HTTP."""
    variables: tuple[str, ...] = ()
    """Names of environment variables that a started server gets besides `INHERITED`."""
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
        """The server as an option names it."""
        return self.url or PREFIX + shlex.join(self.command)

    def environment(self, given: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment variables of a started server.

        Raises:
            InputError: naming a variable that is not set.
        """
        for name in self.variables:
            read_variable(name, given)
        return {name: given[name] for name in (*INHERITED, *self.variables) if name in given}

    def token(self, given: Mapping[str, str] = os.environ) -> str:
        """Return the token that the address asks for; empty if it asks for none.

        Raises:
            InputError: if the variable that holds it is not set.
        """
        return read_variable(self.bearer, given) if self.bearer else ""


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


def parse_server(text: str, *, variables: tuple[str, ...] = (), bearer: str = "") -> McpServer:
    """Read `mcp:COMMAND` or an address; a command is split as a shell does, and no shell runs it.

    Raises:
        InputError: if there is no command, or its quotes do not close.
    """
    rest = text.removeprefix(PREFIX).strip()
    if rest.startswith(SCHEMES):
        return McpServer(url=rest, variables=variables, bearer=bearer)
    try:
        command = tuple(shlex.split(rest))
    except ValueError as error:
        raise InputError(
            f"{text}: the command cannot be split ({error}); give {EXAMPLE}"
        ) from error
    if not command:
        raise InputError(f"{text!r} names no command; give {EXAMPLE}")
    return McpServer(command=command, variables=variables, bearer=bearer)


def expand_folder(command: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Return a command in which `{folder}` stands for a folder."""
    return tuple(word.replace("{folder}", str(folder)) for word in command)

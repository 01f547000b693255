"""Tools of an MCP server for simulation: only `tools/list` is asked, and no call ever goes out."""

from __future__ import annotations

import anyio

from trustee.errors import InputError
from trustee.tools.files.lists import read_document
from trustee.tools.files.notices import Notices
from trustee.tools.files.rules import select_tools
from trustee.tools.mcp.address import McpServer
from trustee.tools.mcp.fate import ServerFailed
from trustee.tools.mcp.session import Session, use_server
from trustee.tools.selection import Selection
from trustee.types import Tool

LIST_SECONDS = 60.0
"""Time for an answer of a server: at its first start it may have to be downloaded."""
SPARE_SECONDS = 5.0
"""What the whole list may take longer than one answer."""


def import_from_server(
    server: McpServer, selection: Selection, *, notices: Notices, seconds: float = LIST_SECONDS
) -> tuple[Tool, ...]:
    """Start or reach a server, take the wanted tools of its list, and end the session.

    Whether a tool reads or writes is what its annotations say, or else the first word of its name.

    Args:
        server: where the server is.
        selection: which tools are taken.
        notices: gets what was left out or changed.
        seconds: deadline of every answer, and almost that of the whole list.

    Raises:
        InputError: if the server gives no usable tools; the message says why.
    """
    entries = anyio.run(_list_entries, server, seconds)
    found = read_document({"tools": entries}, source=server.name, notices=notices)
    tools = select_tools(found, selection, notices=notices)
    if tools:
        return tools
    if notices.left_out:
        others = len(notices.left_out) - 1
        more = f"; {others:,} more cannot be used, and nothing is left" if others else ""
        raise InputError(f"{notices.left_out[0]}{more}")
    if entries:
        raise InputError(f"{server.name}: no tool is left by {selection.describe()}")
    raise InputError(f"{server.name}: the server lists no tools")


async def _list_entries(server: McpServer, seconds: float) -> list[dict[str, object]]:
    async def list_tools(session: Session) -> list[dict[str, object]]:
        return await session.list_tools()

    try:
        with anyio.fail_after(seconds + SPARE_SECONDS):
            return await use_server(server, list_tools, seconds=seconds)
    except ServerFailed as error:
        raise InputError(f"{server.name}: {error}") from error
    except TimeoutError as error:
        raise InputError(
            f"{server.name}: it did not list its tools in {seconds:g} s; give it longer with"
            " --seconds"
        ) from error

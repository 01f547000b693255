"""A small MCP server made with the `mcp` package itself: the other side of the contract.

python library_mcp_server.py            through input and output
python library_mcp_server.py FD         streamable HTTP on a socket that listens already
"""

from __future__ import annotations

import sys
from typing import Annotated

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

server = MCPServer("shelf", log_level="ERROR")
shelf: dict[str, int] = {"bolt": 3}


class Part(BaseModel):
    """A kind of part."""

    name: str
    count: Annotated[int, Field(ge=1)] = 1


class Stock(BaseModel):
    """What lies on the shelf."""

    count: int


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def look_up(name: str, near: str | None = None) -> Stock:
    """Say how many of a part there are."""
    return Stock(count=shelf.get(name, 0))


@server.tool(annotations=ToolAnnotations(read_only_hint=False))
def put(parts: list[Part]) -> str:
    """Put parts on the shelf."""
    for part in parts:
        shelf[part.name] = shelf.get(part.name, 0) + part.count
    return f"{len(parts)} kinds put"


@server.tool()
def get_broken() -> str:
    """Raise an error."""
    raise ValueError("the drawer is stuck")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        app = server.streamable_http_app()
        uvicorn.run(app, fd=int(sys.argv[1]), log_level="error")
    else:
        server.run(transport="stdio")

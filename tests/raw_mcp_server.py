"""An MCP server without the `mcp` package, so that it can break the protocol on purpose.

    python raw_mcp_server.py [MODE]

Its tools are listed in pages of two. A call of `die`, `hang`, `flood` or `chatter` does what it is
called; a mode does so at the start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

PLACE = {
    "type": "object",
    "properties": {
        "at": {"$ref": "#/$defs/At"},
        "near": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["at"],
    "$defs": {
        "At": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    },
}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS: list[dict[str, Any]] = [
    {
        "name": "find_place",
        "description": "Finds a place.",
        "inputSchema": PLACE,
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "get_rid_of",
        "description": "Deletes a text, whatever its name begins with.",
        "inputSchema": TEXT,
        "annotations": {"readOnlyHint": False, "destructiveHint": True},
    },
    {"name": "list_notes", "description": "Lists notes.", "inputSchema": NOTHING},
    {"name": "add_note", "description": "Adds a note.", "inputSchema": TEXT},
    *(
        {
            "name": name,
            "description": f"Will {name}.",
            "inputSchema": NOTHING,
            "annotations": {"readOnlyHint": True},
        }
        for name in ("die", "hang", "flood", "chatter", "refuse", "count", "picture", "long")
    ),
]
PAGE = 2


def say(line: str) -> None:
    """Write one line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def send(**message: Any) -> None:
    """Write one message."""
    say(json.dumps({"jsonrpc": "2.0", **message}))


def flood() -> None:
    """Write a line without an end."""
    while True:
        sys.stdout.write("x" * (1 << 20))


def chatter() -> None:
    """Write lines that are not messages, without an end."""
    while True:
        say("listening on stdio ...")


def die() -> None:
    """End at once, with some words."""
    os.write(2, b"no disk left\n")
    os._exit(3)


def hang() -> None:
    """Do nothing, not even when asked to end."""
    time.sleep(3600)


FAULTS = {"die": die, "hang": hang, "flood": flood, "chatter": chatter}


class Notes:
    """The state of one process: what was noted, and how often it was called."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.calls = 0

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a call."""
        self.calls += 1
        if name in FAULTS:
            FAULTS[name]()
        if name == "picture":
            return {"content": [{"type": "image", "data": "AAAA", "mimeType": "image/png"}]}
        if name == "refuse":
            return {"content": [{"type": "text", "text": "not today"}], "isError": True}
        if name == "add_note":
            self.notes.append(arguments["text"])
        texts = {
            "count": str(self.calls),
            "long": "ab" * 50_000,
            "list_notes": json.dumps(self.notes),
            "find_place": f"at {arguments}",
        }
        return {"content": [{"type": "text", "text": texts.get(name, "done")}]}


def list_page(cursor: str | None, mode: str) -> dict[str, Any]:
    """Return one page of the tools."""
    start = int(cursor or 0)
    page: dict[str, Any] = {"tools": TOOLS[start : start + PAGE]}
    if mode == "endless":
        return {"tools": [], "nextCursor": "0"}
    if mode == "empty":
        return {"tools": []}
    if mode == "writes":
        return {"tools": TOOLS[1:4]}
    if mode == "nonsense":
        return {"tools": "none"}
    if start + PAGE < len(TOOLS):
        page["nextCursor"] = str(start + PAGE)
    return page


def serve(mode: str) -> None:
    """Answer requests until the input ends; a hanging server does not even then."""
    notes = Notes()
    if mode in FAULTS:
        FAULTS[mode]()
    for line in sys.stdin:
        request = json.loads(line)
        number, method = request.get("id"), request["method"]
        params = request.get("params") or {}
        if mode == "noisy":
            say("a log line on the wrong stream")
        if number is None:
            continue
        if method == "initialize":
            send(
                id=number,
                result={
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "raw", "version": "1"},
                },
            )
        elif method == "tools/list":
            send(id=number, result=list_page(params.get("cursor"), mode))
        elif method == "tools/call" and params["name"] == "broken":
            send(id=number, error={"code": -32602, "message": "no such tool"})
        elif method == "tools/call":
            send(id=number, result=notes.call(params["name"], params.get("arguments") or {}))
        else:
            send(id=number, error={"code": -32601, "message": "no such method"})
    if mode == "stays":
        hang()


if __name__ == "__main__":
    serve(sys.argv[1] if len(sys.argv) > 1 else "")

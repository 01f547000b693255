"""An OpenEnv server without the `openenv` package, so that it can break the protocol on purpose.

    python raw_openenv_server.py FD

It serves on a socket that listens already. The tools `hang`, `die`, `garble` and `fault` do what
they are called; `count` says how many sessions are open now and how many there have been.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
GUESS = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
NAMES = ("hang", "die", "garble", "fault", "refuse", "count", "nan")
TOOLS = [
    {"name": "guess", "description": "Guess the number.", "input_schema": GUESS},
    *({"name": name, "description": f"Will {name}.", "input_schema": NOTHING} for name in NAMES),
]
TASKS = {"train": 20, "test": 10}
MOST_SESSIONS = 4
HANG_SECONDS = 15
"""Longer than any test waits for an answer; then the server sees that nobody is there."""


class Sessions:
    """How many sessions are open, and how many there have been."""

    def __init__(self) -> None:
        self.now = 0
        self.ever = 0


sessions = Sessions()


def seen(reward: float | None = None, *, done: bool = False, **fields: Any) -> dict[str, Any]:
    """Write an observation."""
    data = {"observation": {"metadata": {}, **fields}, "reward": reward, "done": done}
    return {"type": "observation", "data": data}


class Session:
    """One episode: guess the number that the reset has chosen."""

    def __init__(self) -> None:
        self.number = 0

    async def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Answer one message."""
        data = message.get("data", {})
        if message["type"] == "reset":
            if "seed" in data:
                self.number = data["seed"]
                return seen(text=f"guess {data['seed']}")
            self.number = data["index"] + (1000 if data["split"] == "test" else 0)
            return seen(text=f"guess {self.number}")
        if data["type"] == "list_tools":
            return seen(tools=TOOLS)
        return await self.call(data["tool_name"], data["arguments"])

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool."""
        texts = {"count": f"{sessions.now} of {sessions.ever}"}
        result = {"content": [{"type": "text", "text": texts.get(name, "done")}]}
        match name:
            case "guess":
                right = arguments["number"] == self.number
                text = {"content": [{"type": "text", "text": "right" if right else "wrong"}]}
                return seen(1.0 if right else -0.25, done=right, tool_name=name, result=text)
            case "hang":
                await asyncio.sleep(HANG_SECONDS)
            case "die":
                os._exit(1)
            case "garble":
                return {"type": "observation", "data": "none"}
            case "refuse":
                error = {"error_type": "execution_error", "message": "not today"}
                return seen(tool_name=name, error=error)
            case "fault":
                error = {"error_type": "timeout", "message": "timed out after 30 seconds"}
                return seen(tool_name=name, error=error)
            case "nan":
                return {"type": "error", "data": {"code": "EXECUTION_ERROR", "message": "bug"}}
        return seen(tool_name=name, result=result)


async def talk(socket: WebSocket) -> None:
    """Serve one session."""
    await socket.accept()
    if sessions.now == MOST_SESSIONS:
        await socket.send_json(
            {
                "type": "error",
                "data": {"code": "CAPACITY_REACHED", "message": "", "max_sessions": MOST_SESSIONS},
            }
        )
        await socket.close()
        return
    sessions.now += 1
    sessions.ever += 1
    session = Session()
    try:
        while (message := await socket.receive_json())["type"] != "close":
            await socket.send_json(await session.answer(message))
    except WebSocketDisconnect:
        sessions.now -= 1
    else:
        sessions.now -= 1
        await socket.close()


async def schema(request: Request) -> JSONResponse:
    """Describe the actions: calls of tools."""
    fields: dict[str, Any] = {key: {} for key in ("type", "tool_name", "arguments", "metadata")}
    return JSONResponse({"action": {"type": "object", "properties": fields}})


async def environments(request: Request) -> JSONResponse:
    """Name the environment."""
    return JSONResponse(["guessing"])


async def splits(request: Request) -> JSONResponse:
    """Name the splits."""
    return JSONResponse([{"name": name, "type": name} for name in TASKS])


async def num_tasks(request: Request) -> JSONResponse:
    """Count the tasks of a split."""
    return JSONResponse({"num_tasks": TASKS[(await request.json())["split"]]})


async def open_sessions(request: Request) -> JSONResponse:
    """Say how many sessions are open."""
    return JSONResponse({"now": sessions.now, "ever": sessions.ever})


app = Starlette(
    routes=[
        Route("/schema", schema),
        Route("/list_environments", environments),
        Route("/guessing/splits", splits),
        Route("/guessing/num_tasks", num_tasks, methods=["POST"]),
        Route("/open_sessions", open_sessions),
        WebSocketRoute("/ws", talk),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, fd=int(sys.argv[1]), ws="wsproto", log_level="error")

"""The messages of OpenEnv: one socket is one session, and every request has one answer.

A tool is called as a step, `{"type": "call_tool", …}`, which the server answers like any other. Its
direct way, messages of type `mcp`, can stand still for 30 seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import anyio
import httpx2
from anyio.abc import TaskGroup, TaskStatus

from trustee.decoding import decode_json
from trustee.errors import ServerError
from trustee.tools.arguments import shorten
from trustee.tools.values import render_json
from trustee.types import Record

MOST_MESSAGE_BYTES = 8 << 20
"""Length of the longest message of a server."""
CLOSE_SECONDS = 2.0
"""Time for saying that the session ends."""


class Observed(Record, frozen=True):
    """What a reset or a step brought."""

    observation: dict[str, Any]
    reward: float | None = None
    done: bool = False


def socket_address(url: str) -> str:
    """Return the address of a server's sessions."""
    scheme, _, rest = url.partition("://")
    return f"{'wss' if scheme == 'https' else 'ws'}://{rest.rstrip('/')}/ws"


class KeptSocket:
    """A session that stays open from an episode's beginning to its end.

    The socket runs in tasks of the job, where it answers the server's pings whatever the episode
    waits for, a training step included. It sends none itself: each answer has a deadline.
    """

    def __init__(self, url: str, *, seconds: float) -> None:
        self._url = url
        self._seconds = seconds
        self._socket: Any = None
        self._failure: ServerError | None = None
        self._closing = anyio.Event()
        self._ended = anyio.Event()

    async def begin(self, tasks: TaskGroup) -> None:
        """Open the session.

        Raises:
            ServerError: if the server cannot be reached.
        """
        await tasks.start(self._keep)
        if self._failure is not None:
            raise self._failure

    async def reset(self, settings: Mapping[str, Any]) -> Observed:
        """Begin an episode.

        Raises:
            ServerError: if the server gives no answer, or an error; likewise below.
        """
        return await self._ask("reset", dict(settings))

    async def step(self, action: Mapping[str, Any]) -> Observed:
        """Take a step."""
        return await self._ask("step", dict(action))

    async def end(self) -> None:
        """Close the session, whatever has happened in it."""
        self._closing.set()
        if self._socket is not None:
            await self._ended.wait()

    async def _keep(self, *, task_status: TaskStatus[None]) -> None:
        from httpx2.websockets import HTTPXWSException

        broken = (httpx2.HTTPError, HTTPXWSException)
        try:
            await self._hold(task_status)
        except broken as error:
            self._fail(f"the connection failed ({error or type(error).__name__})")
        except BaseExceptionGroup as error:
            found, others = error.split(broken)
            if found is None or others is not None:
                raise
            self._fail("the connection broke")
        finally:
            self._ended.set()
            if self._socket is None and self._failure is not None:
                task_status.started()

    async def _hold(self, task_status: TaskStatus[None]) -> None:
        from httpx2.websockets import HTTPXWSException
        from wsproto.utilities import LocalProtocolError

        async with (
            httpx2.AsyncClient(timeout=self._seconds) as client,
            client.websocket(
                socket_address(self._url),
                max_message_size_bytes=MOST_MESSAGE_BYTES,
                keepalive_ping_interval_seconds=None,
            ) as socket,
        ):
            self._socket = socket
            task_status.started()
            try:
                await self._closing.wait()
            finally:
                # The server frees a session that says so, another one perhaps never; and only once
                # it has closed the socket is there room for the next one.
                with (
                    anyio.move_on_after(CLOSE_SECONDS, shield=True),
                    suppress(LocalProtocolError, HTTPXWSException, anyio.EndOfStream),
                ):
                    await socket.send_text(render_json({"type": "close"}))
                    while True:
                        await socket.receive()

    async def _ask(self, kind: str, data: dict[str, Any]) -> Observed:
        from httpx2.websockets import HTTPXWSException
        from wsproto.utilities import LocalProtocolError

        if self._failure is not None:
            raise self._failure
        try:
            with anyio.fail_after(self._seconds):
                await self._socket.send_text(render_json({"type": kind, "data": data}))
                text = await self._socket.receive_text()
        except TimeoutError as error:
            # A late answer would be taken for that of the next request.
            raise self._fail(f"no answer to {kind} in {self._seconds:g} s") from error
        except (
            *(HTTPXWSException, LocalProtocolError, anyio.EndOfStream),
            *(anyio.ClosedResourceError, anyio.BrokenResourceError),
        ) as error:
            raise self._fail(f"the connection ended at a {kind}") from error
        return self._read(text, kind)

    def _read(self, text: str, kind: str) -> Observed:
        answer = decode_json(
            text,
            dict[str, Any],
            error=lambda why: self._fail(f"the answer to {kind} cannot be read: {why}"),
        )
        data = answer.get("data")
        if answer.get("type") == "error" and isinstance(data, dict):
            raise self._fail(_explain(kind, data))
        observation = data.get("observation") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(observation, dict):
            raise self._fail(f"the answer to {kind} is not an observation: {shorten(answer)}")
        reward, done = data.get("reward"), data.get("done", False)
        if not isinstance(reward, int | float | None) or not isinstance(done, bool):
            raise self._fail(f"reward {shorten(reward)} or done {shorten(done)} is not one")
        return Observed(
            observation=observation, reward=None if reward is None else float(reward), done=done
        )

    def _fail(self, why: str) -> ServerError:
        self._failure = self._failure or ServerError(f"{self._url}: {why}")
        return self._failure


def _explain(kind: str, data: Mapping[str, Any]) -> str:
    code, said = data.get("code"), shorten(str(data.get("message", "")))
    if code == "CAPACITY_REACHED":
        return (
            f"it takes no more sessions ({data.get('max_sessions', said)} at once); start it with "
            "more (max_concurrent_envs), or lower rollout.parallel and rollout.write_ahead"
        )
    return f"it answered {kind} with the error {code}: {said}"

"""One request and its answer over HTTP: read within limits, answered whole or as a stream.

Whatever ends a request early, the client is told in OpenAI's form, within the stream where one has
begun. A client that hangs up ends its request in the engine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from trustee.endpoint.chat_answer import END, as_event
from trustee.endpoint.guard import Turnstile
from trustee.endpoint.refusals import Refused, refuse
from trustee.errors import EngineDied, InputError, RequestError, TrusteeError

Handle = Callable[[bytes, Mapping[str, str], "Reply"], Awaitable[None]]
"""Answers a request: its body, its headers, and where the answer goes."""


class Reply:
    """Where an answer goes; it is whole, or begins with the first event of a stream."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._streams = False
        self._done = False

    async def whole(self, value: object) -> None:
        """Send a whole answer."""
        await self._whole(msgspec.json.encode(value))

    async def _whole(self, body: bytes) -> None:
        self._done = True
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def event(self, data: bytes) -> None:
        """Send an event of a stream."""
        if not self._streams:
            self._streams = True
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End a stream."""
        self._done = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, refused: Refused) -> None:
        """Say why there is no answer, or no more of it."""
        if self._done:
            return
        if not self._streams:
            self._done = True
            await refuse(refused)(self._scope, self._receive, self._send)
            return
        await self.event(as_event(refused.form))
        await self.event(END)
        await self.end()


def explain(error: TrusteeError) -> Refused:
    """Return what a client is told of an error."""
    match error:
        case RequestError() | InputError():
            return Refused(400, str(error))
        case EngineDied():
            return Refused(503, "the engine has stopped, and is being started again")
        case _:
            return Refused(500, str(error))


class Exchange:
    """A route that takes a JSON body."""

    def __init__(
        self, handle: Handle, turnstile: Turnstile, *, died: Callable[[EngineDied], None]
    ) -> None:
        self._handle = handle
        self._turnstile = turnstile
        self._died = died
        """Is told when the engine has died."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request within its limits."""
        reply = Reply(scope, receive, send)
        try:
            with self._turnstile.enter() as limit:
                body = await self._read(scope, receive)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_cancel_at_hang_up, receive, tasks.cancel_scope)
                    await self._answer(body, dict(Headers(scope=scope)), reply)
                    tasks.cancel_scope.cancel()
            if limit.cancelled_caught:
                await reply.fail(self._turnstile.explain_end())
        except Refused as refused:
            await reply.fail(refused)

    async def _answer(self, body: bytes, headers: Mapping[str, str], reply: Reply) -> None:
        try:
            await self._handle(body, headers, reply)
        except Refused as refused:
            await reply.fail(refused)
        except TrusteeError as error:
            if isinstance(error, EngineDied):
                self._died(error)
            await reply.fail(explain(error))

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Read the body.

        Raises:
            Refused: if it is not JSON, too large, or does not come.
        """
        headers = Headers(scope=scope)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, f"the body must be application/json, not {kind or 'untyped'}")
        limits = self._turnstile.limits
        too_large = Refused(413, f"the body has more than {limits.body_bytes} bytes")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limits.body_bytes:
            raise too_large
        body = bytearray()
        with anyio.move_on_after(limits.read_seconds) as waiting:
            more = True
            while more:
                message: Any = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the request was not sent whole")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > limits.body_bytes:
                    raise too_large
        if waiting.cancelled_caught:
            raise Refused(408, f"the request was not sent whole in {limits.read_seconds:g} s")
        return bytes(body)


async def _cancel_at_hang_up(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()

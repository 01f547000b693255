"""A server at an address: streamable HTTP by the `mcp` package, with a limit on what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx2

from trustee.tools.mcp.fate import Fate
from trustee.tools.mcp.process import MOST_MESSAGE_BYTES

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

CONNECT_SECONDS = 10.0
"""Time for a connection to be made; the session has deadlines for answers."""


@asynccontextmanager
async def reach_server(url: str, *, token: str, fate: Fate) -> AsyncIterator[TransportStreams]:
    """Yield the streams of a session with the server at an address."""
    from mcp.client.streamable_http import streamable_http_client

    headers = {"accept-encoding": "identity"} | (
        {"authorization": f"Bearer {token}"} if token else {}
    )
    async with (
        httpx2.AsyncClient(
            transport=BoundedTransport(fate),
            headers=headers,
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        ) as client,
        streamable_http_client(
            url, http_client=client, max_sse_event_size=MOST_MESSAGE_BYTES
        ) as streams,
    ):
        yield streams


class BoundedTransport(httpx2.AsyncHTTPTransport):
    """Sends requests, and notes in a session's fate what its errors do not say."""

    def __init__(self, fate: Fate) -> None:
        super().__init__()
        self._fate = fate

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; what comes back is read up to a limit."""
        try:
            response = await super().handle_async_request(request)
        except httpx2.TransportError as error:
            self._fate.end(f"it cannot be reached ({error or type(error).__name__})")
            raise
        if response.status_code >= 400 and response.status_code not in (404, 405):
            self._fate.last_words = f"HTTP {response.status_code}"
        if response.headers.get("content-encoding", "identity") != "identity":
            self._fate.end("it answers with compressed content, which was not asked for")
            raise httpx2.ReadError(self._fate.reason)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        is_stream = "text/event-stream" in response.headers.get("content-type", "")
        if not is_stream:
            response.stream = BoundedStream(response.stream, self._fate)
        return response


class BoundedStream(httpx2.AsyncByteStream):
    """The body of an answer, which breaks off behind a limit."""

    def __init__(self, stream: httpx2.AsyncByteStream, fate: Fate) -> None:
        self._stream = stream
        self._fate = fate

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body's pieces."""
        total = 0
        async for piece in self._stream:
            total += len(piece)
            if total > MOST_MESSAGE_BYTES:
                self._fate.end(f"it answered with more than {MOST_MESSAGE_BYTES >> 20} MiB")
                raise httpx2.ReadError(self._fate.reason)
            yield piece

    async def aclose(self) -> None:
        """Close the body."""
        await self._stream.aclose()

"""One session with an MCP server: begin, list the tools, make calls, each within a deadline."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import httpx2

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.tools.mcp.address import McpServer
from trustee.tools.mcp.fate import Fate, ServerFailed, quote
from trustee.tools.mcp.process import start_server
from trustee.tools.mcp.web import reach_server
from trustee.tools.values import render_json
from trustee.types import Record

if TYPE_CHECKING:
    from mcp import ClientSession

T = TypeVar("T")

MOST_TOOLS = 5000
"""Tools that one server may list."""


class Answer(Record, frozen=True):
    """What a tool of a server answered."""

    text: str
    failed: bool
    """Whether the server says that the call went wrong."""


class Session:
    """A session that has begun; used by one episode or one import."""

    def __init__(self, client: ClientSession, fate: Fate, *, seconds: float) -> None:
        self._client = client
        self._fate = fate
        self.seconds = seconds
        """Deadline of every answer."""

    async def list_tools(self) -> list[dict[str, Any]]:
        """Return the entries of all pages of `tools/list`, as they are written.

        Raises:
            ServerFailed: if the server does not give them.
        """
        from mcp.types import PaginatedRequestParams

        entries: list[dict[str, Any]] = []
        cursors: set[str] = set()
        cursor = None
        while True:
            params = PaginatedRequestParams(cursor=cursor)
            page = await self._ask("tools/list", lambda p=params: self._client.list_tools(params=p))  # type: ignore[misc]
            text = page.model_dump_json(by_alias=True, exclude_none=True, include={"tools"})
            entries += decode_json(text, error=self._refuse_list)["tools"]
            cursor = page.next_cursor
            if cursor is None:
                return entries
            if cursor in cursors or len(entries) > MOST_TOOLS:
                raise ServerFailed(f"its list of tools has no end: {len(entries):,} so far")
            cursors.add(cursor)

    async def call(self, name: str, arguments: dict[str, Any]) -> Answer:
        """Make one call; an error that the server answers with is an answer, too.

        Raises:
            ServerFailed: if the server gives no answer.
        """
        from mcp.types import CallToolRequest, CallToolRequestParams, CallToolResult

        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        # What a server promised of its output's form is nothing that a policy should pay for.
        result = await self._ask(
            f"the call of {name}",
            lambda: self._client.send_request(request, CallToolResult),
            refused=lambda why: Answer(text=why, failed=True),
        )
        return result if isinstance(result, Answer) else read_result(result)

    async def begin(self) -> None:
        """Agree on a version of the protocol, by the handshake if the server has one.

        Raises:
            ServerFailed: if the server does not answer, or knows no version that we know.
        """
        try:
            await self._ask("initialize", self._client.initialize, refused=_Refused)
        except _Refused:
            await self._ask("server/discover", self._client.discover)

    async def _ask(
        self,
        what: str,
        request: Callable[[], Awaitable[T]],
        *,
        refused: Callable[[str], Any] | None = None,
    ) -> Any:
        """Wait for the answer to a request; an error by which a server refuses one may be used."""
        from mcp.shared.exceptions import MCPError
        from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT
        from pydantic import ValidationError

        try:
            with anyio.fail_after(self.seconds):
                return await request()
        except TimeoutError as error:
            why = f"it did not answer {what} in {self.seconds:g} s"
            raise ServerFailed(self._fate.explain(why)) from error
        except ValidationError as error:
            why = f"its answer to {what} is not one of the protocol: {_say_invalid(error)}"
            raise ServerFailed(self._fate.explain(why)) from error
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            raise ServerFailed(self._fate.explain("it closed the connection")) from error
        except MCPError as error:
            if self._fate.reason or error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT):
                raise ServerFailed(self._fate.explain(error.message)) from error
            if refused is None:
                why = f"it refused {what}: {quote(error.message)}"
                raise ServerFailed(self._fate.explain(why)) from error
            answer = refused(error.message)
            if isinstance(answer, _Refused):
                raise answer from error
            return answer

    def _refuse_list(self, why: str) -> ServerFailed:
        return ServerFailed(f"its list of tools cannot be read: {why}")


class _Refused(Exception):
    """A server refused a request that need not be granted."""


async def use_server(
    server: McpServer, act: Callable[[Session], Awaitable[T]], *, seconds: float
) -> T:
    """Begin a session, act in it and end it, whatever happens.

    Args:
        server: where the server is.
        act: what is done in the session.
        seconds: deadline of the beginning and of every answer.

    Raises:
        ServerFailed: if the server does not start, or fails while `act` waits for it.
        InputError: if the `mcp` package is not installed, or a variable is not set.
    """
    check_installed()
    from mcp import ClientSession

    # The package logs what a session raises, and its own log would go to the screen.
    logging.getLogger("mcp").addHandler(logging.NullHandler())
    logging.getLogger("mcp").propagate = False
    fate = Fate()
    failure: ServerFailed | None = None
    done: list[T] = []
    try:
        async with (
            _connect(server, fate) as (reading, writing),
            ClientSession(reading, writing) as client,
        ):
            session = Session(client, fate, seconds=seconds)
            try:
                await session.begin()
                done.append(await act(session))
            except ServerFailed as error:
                # Raised here, it would come out as a group of the tasks behind the session.
                failure = error
    except BaseExceptionGroup as error:
        if error.split(httpx2.HTTPError)[1] is not None:
            raise
        failure = ServerFailed(fate.explain("the connection broke"))
    if failure is not None:
        raise failure
    return done[0]


def _connect(server: McpServer, fate: Fate) -> AbstractAsyncContextManager[Any]:
    if server.url:
        return reach_server(server.url, token=server.token(), fate=fate)
    return start_server(
        server.command, folder=server.folder, environment=server.environment(), fate=fate
    )


def check_installed() -> None:
    """Check that the package is there that speaks the protocol.

    Raises:
        InputError: with what to install.
    """
    if find_spec("mcp") is None:
        raise InputError(
            "MCP servers need the package mcp, which is not installed; install it with: "
            "pip install 'trustee[mcp]'"
        )


def read_result(result: Any) -> Answer:
    """Return what a tool answered as text: what has no text is named by kind and size."""
    parts = [_read_block(block) for block in result.content]
    text = "\n".join(part for part in parts if part)
    if not text and result.structured_content is not None:
        text = render_json(result.structured_content)
    return Answer(text=text, failed=bool(result.is_error))


def _read_block(block: Any) -> str:
    match block.type:
        case "text":
            return str(block.text)
        case "resource":
            resource = block.resource
            return str(getattr(resource, "text", "")) or f"[resource {resource.uri}]"
        case "resource_link":
            return f"[resource {block.uri}]"
        case kind:
            return f"[{kind} of type {block.mime_type}, {len(block.data) * 3 // 4:,} bytes]"


def _say_invalid(error: Any) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])

"""A session that stays open from an episode's beginning to its end.

What a session needs runs in tasks of the job, because an episode's own calls each have a deadline,
and nothing that is begun within one may outlive it.
"""

from __future__ import annotations

import anyio
from anyio.abc import TaskGroup, TaskStatus

from trustee.errors import ServerError
from trustee.tools.mcp.address import McpServer
from trustee.tools.mcp.fate import ServerFailed
from trustee.tools.mcp.session import Answer, Session, use_server


class KeptSession:
    """A session with a server; used by one episode."""

    def __init__(self, server: McpServer, *, start_seconds: float, seconds: float) -> None:
        self._server = server
        self._start_seconds = start_seconds
        self._seconds = seconds
        self._session: Session | None = None
        self._failure: ServerFailed | None = None
        self._closing = anyio.Event()
        self._ended = anyio.Event()

    async def begin(self, tasks: TaskGroup) -> None:
        """Begin the session.

        Raises:
            ServerError: if the server does not start or answer.
        """
        await tasks.start(self._keep)
        self._check()

    async def call(self, name: str, arguments: dict[str, object]) -> Answer:
        """Make a call.

        Raises:
            ServerError: if the server gives no answer.
        """
        self._check()
        assert self._session is not None, "begin() was not called"
        try:
            return await self._session.call(name, arguments)
        except ServerFailed as error:
            raise self._blame(self._failure or error) from error

    async def end(self) -> None:
        """End the session; a server that was started is gone then."""
        self._closing.set()
        if self._session is not None:
            await self._ended.wait()

    async def _keep(self, *, task_status: TaskStatus[None]) -> None:
        async def wait(session: Session) -> None:
            self._session = session
            session.seconds = self._seconds
            task_status.started()
            await self._closing.wait()

        try:
            await use_server(self._server, wait, seconds=self._start_seconds)
        except ServerFailed as error:
            self._failure = error
            if self._session is None:
                task_status.started()
        finally:
            self._ended.set()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._blame(self._failure) from self._failure

    def _blame(self, error: ServerFailed) -> ServerError:
        return ServerError(f"{self._server.name}: {error}")

"""Who may ask the endpoint, how much at once and for how long.

Without a key it is for programs on this machine: another page in a browser, which can reach the
same address, is told apart by the name that it asks for and by what the browser says of it.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated
from urllib.parse import urlsplit

import anyio
from msgspec import Meta
from starlette.types import ASGIApp, Receive, Scope, Send

from trustee.endpoint.listening import name_in
from trustee.endpoint.refusals import Refused, refuse
from trustee.errors import InputError
from trustee.types import MIB, Record

KEY = "TRUSTEE_SERVE_KEY"
"""Environment variable with the key that requests must bear; unset or empty: none."""
LEAST_KEY = 16
"""Length of the shortest key that is taken."""


class EndpointLimits(Record, frozen=True):
    """What a client may ask for."""

    requests: Annotated[int, Meta(ge=1)] = 64
    """Requests that are answered at once; one more is told to come again."""
    seconds: Annotated[float, Meta(gt=0)] = 600.0
    """Time for one answer."""
    body_bytes: Annotated[int, Meta(ge=1024)] = 4 * MIB
    """Size of a request."""
    read_seconds: Annotated[float, Meta(gt=0)] = 30.0
    """Time in which a request must have been sent."""


def read_serve_key() -> str:
    """Return the key that requests must bear; empty for none.

    Raises:
        InputError: if it is too short, or cannot stand in a header; the message does not hold it.
    """
    key = os.environ.get(KEY, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise InputError(
            f"{KEY} holds a space, a line feed or a letter outside ASCII, so it is not a key; "
            "set it to the key alone"
        )
    if 0 < len(key) < LEAST_KEY:
        raise InputError(
            f"{KEY} has {len(key)} letters, which can be guessed; give at least {LEAST_KEY}"
        )
    return key


class Guard:
    """Refuses what may not be asked, before anything of a request is read."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str], key: str) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        """Names under which the server may be asked; empty means any."""
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return
        try:
            self._check(scope)
        except Refused as refused:
            await refuse(refused)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        host = name_in(headers.get("host", b"").decode("latin-1"))
        if self._hosts and host not in self._hosts:
            raise Refused(421, "this server has another name")
        origin = headers.get("origin", b"").decode("latin-1")
        if origin and (urlsplit(origin).hostname or "") != host:
            raise Refused(403, "asked by the page of another site")
        if headers.get("sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise Refused(403, "asked by the page of another site")
        kind, _, given = headers.get("authorization", b"").partition(b" ")
        if self._key and not (
            kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key)
        ):
            raise Refused(401, f"a key is needed, and this is not it; the server has it in {KEY}")


class Turnstile:
    """Counts the requests in progress and ends them: at their limit, or when the server closes."""

    def __init__(self, limits: EndpointLimits) -> None:
        self.limits = limits
        self._scopes: set[anyio.CancelScope] = set()
        self._closing = False
        self._idle = anyio.Event()
        self._idle.set()

    @contextmanager
    def enter(self) -> Iterator[anyio.CancelScope]:
        """Let a request in; its scope is cancelled when its time is over.

        Raises:
            Refused: if there are too many, or the server closes.
        """
        if self._closing:
            raise Refused(503, "the server is closing")
        if len(self._scopes) >= self.limits.requests:
            raise Refused(
                429, f"{self.limits.requests} requests are being answered; ask again in a moment"
            )
        if not self._scopes:
            self._idle = anyio.Event()
        scope = anyio.CancelScope(deadline=anyio.current_time() + self.limits.seconds)
        self._scopes.add(scope)
        try:
            with scope:
                yield scope
        finally:
            self._scopes.discard(scope)
            if not self._scopes:
                self._idle.set()

    def explain_end(self) -> Refused:
        """Return why a request was ended."""
        if self._closing:
            return Refused(503, "the server is closing")
        return Refused(504, f"there was no answer in {self.limits.seconds:g} s")

    async def close(self, *, grace: float) -> None:
        """Let nobody in any more; end what is not done within `grace` seconds."""
        self._closing = True
        with anyio.move_on_after(grace):
            await self._idle.wait()
        for scope in tuple(self._scopes):
            scope.cancel()
        with anyio.move_on_after(1.0):
            await self._idle.wait()

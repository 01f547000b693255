"""`trustee ui`: a small web server, for reading only.

It answers GET requests alone, and only under the names that it was told to listen to, so that no
other page in the same browser can ask it through a name of its own. What models and strangers wrote
is sent as JSON and shown as text: a policy without inline code, and typed DOM sinks, leave no way
for it to become markup.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib.resources import files
from pathlib import Path

import anyio
import msgspec
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trustee.endpoint.listening import LOOPBACK, name_in
from trustee.errors import InputError
from trustee.pages import answers
from trustee.pages.library import Library
from trustee.pages.tokens import spell_tokens
from trustee.runs.episode_search import Wanted

LOOK_SECONDS = 1.0
"""Time between two looks at the sizes of a run's files, while a page follows it."""
BEAT_SECONDS = 15.0
"""Time after which a followed run without news sends a sign of life."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
MOST = 6
"""Runs that are compared at once."""
KINDS = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
"""Media types of the page's files; what the machine thinks of them does not count."""
ASSETS = files("trustee.pages") / "assets"


def make_app(
    folders: Sequence[Path],
    *,
    hosts: Sequence[str] = LOOPBACK,
    closing: anyio.Event | None = None,
) -> ASGIApp:
    """Return the application.

    Args:
        folders: folders of runs, or run folders.
        hosts: names under which it may be asked; empty means any.
        closing: once set, pages that follow a run are told no more; None is never.
    """
    library = Library(folders)
    routes = [Route("/", send_asset), Route("/assets/{name}", send_asset)]
    for path, make in list_answers(library).items():
        routes.append(Route(f"/api/{path}", answer_with(make)))
    routes.append(Route("/api/runs/{run}/follow", follow_with(library, closing or anyio.Event())))
    return Guard(Starlette(routes=routes), hosts=hosts)


def list_answers(library: Library) -> dict[str, Callable[[Request], object]]:
    """Return what is answered, by path."""

    def of_file(make: Callable[..., object]) -> Callable[[Request], object]:
        def answer(request: Request) -> object:
            return make(library, **request.path_params)

        return answer

    def steps(request: Request) -> object:
        return answers.describe_steps(library, _run(request), _number(request, "after", -1))

    def episodes(request: Request) -> object:
        return answers.list_episodes(
            library,
            _run(request),
            request.path_params["file"],
            read_wanted(request),
            begin=_number(request, "begin", 0),
            count=_number(request, "count", 50),
        )

    return {
        "runs": lambda _: answers.describe_runs(library),
        "compare": lambda r: answers.compare_runs(library, r.query_params.getlist("run")[:MOST]),
        "runs/{run}": of_file(answers.describe_run),
        "runs/{run}/steps": steps,
        "runs/{run}/episodes/{file}": episodes,
        "runs/{run}/episodes/{file}/{row:int}": of_file(answers.read_episode),
        "runs/{run}/episodes/{file}/{row:int}/tokens": of_file(spell_tokens),
        "runs/{run}/task/{file}/{task}": of_file(answers.find_task),
    }


def answer_with(make: Callable[[Request], object]) -> Callable[[Request], Awaitable[Response]]:
    """Return a handler that makes an answer in a thread, because making it reads files."""

    async def respond(request: Request) -> Response:
        try:
            return _json(await run_sync(make, request))
        except InputError as error:
            return _json({"error": str(error)}, status=404)

    return respond


def follow_with(library: Library, closing: anyio.Event) -> Callable[[Request], Awaitable[Response]]:
    """Return a handler that tells when a run's files change, until page or server is closed."""

    async def follow(request: Request) -> Response:
        try:
            opened = await run_sync(library.open, _run(request))
        except InputError as error:
            return _json({"error": str(error)}, status=404)

        async def changes() -> AsyncIterator[bytes]:
            seen, quiet = await run_sync(answers.signature, opened), 0.0
            # What changed between the page's first reading and this look is read again.
            yield b"retry: 2000\nevent: changed\ndata: {}\n\n"
            while not closing.is_set():
                with anyio.move_on_after(LOOK_SECONDS):
                    await closing.wait()
                found = await run_sync(answers.signature, opened)
                quiet += LOOK_SECONDS
                if found != seen:
                    seen, quiet = found, 0.0
                    yield b"event: changed\ndata: {}\n\n"
                elif quiet >= BEAT_SECONDS:
                    quiet = 0.0
                    yield b": still here\n\n"

        return StreamingResponse(changes(), media_type="text/event-stream")

    return follow


async def send_asset(request: Request) -> Response:
    """Send a file of the page itself."""
    name = request.path_params.get("name", "index.html")
    found = ASSETS / name
    if "/" in name or name.startswith(".") or not found.is_file():
        return PlainTextResponse("not found", status_code=404)
    kind = KINDS.get(name.rpartition(".")[2], "text/plain")
    return Response(found.read_bytes(), media_type=kind)


class Guard:
    """Refuses what is not a reader's request, and forbids the page everything but its own files."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in HEADERS.items():
                    headers[name] = value
                message["headers"] = headers.raw
            await send(message)

        refusal = self._refuse(scope)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _refuse(self, scope: Scope) -> Response | None:
        headers = {
            name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = name_in(headers.get("host", ""))
        if self._hosts and host not in self._hosts:
            return PlainTextResponse("this server has another name", status_code=421)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("this server only shows", status_code=405)
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return PlainTextResponse("asked by another page", status_code=403)
        return None


def read_wanted(request: Request) -> Wanted:
    """Return the filter and the order that a request asks for.

    Raises:
        InputError: if a value is not one of those allowed.
    """
    given: dict[str, object] = {
        name: value
        for name in ("reward", "blame", "tool", "text", "sort")
        if (value := request.query_params.get(name, ""))
    }
    if request.query_params.get("group", ""):
        given["group"] = _number(request, "group", 0)
    if request.query_params.get("step", ""):
        # As in `trustee view`: a step is trained on what the version before it played.
        given["version"] = _number(request, "step", 1) - 1
    given["descending"] = request.query_params.get("order", "down") != "up"
    try:
        return msgspec.convert(given, Wanted)
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from error


def _run(request: Request) -> str:
    return str(request.path_params["run"])


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    try:
        return max(-1, min(1 << 53, int(text)))
    except ValueError:
        raise InputError(f"{name} must be a whole number, got {text[:40]!r}") from None


def _json(value: object, *, status: int = 200) -> Response:
    data = msgspec.json.encode(value, enc_hook=str)
    return Response(data, status_code=status, media_type="application/json")

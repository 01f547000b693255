"""The routes of the endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

import anyio
import msgspec
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from trustee.endpoint.answering import answer
from trustee.endpoint.catalogue import Catalogue, Lease
from trustee.endpoint.chat_answer import END, Chunks, write_answer
from trustee.endpoint.chat_request import ChatRequest, read_chat_request
from trustee.endpoint.exchange import Exchange, Reply
from trustee.endpoint.guard import Guard, Turnstile
from trustee.endpoint.refusals import Refused, refuse
from trustee.endpoint.token_route import (
    TokenRequest,
    read_token_request,
    write_piece,
    write_tokens,
)
from trustee.engine.protocol import HeardEngine, Piece, check_completion
from trustee.errors import EngineDied, TrusteeError
from trustee.rendering.renderer import Renderer
from trustee.types import Completion

Put = Callable[[Iterable[bytes]], None]
"""Takes the events of a stream."""
SESSION = "x-session-id"
"""Header with the id of the episode that a request belongs to."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the routes need."""

    engine: HeardEngine
    renderer: Renderer
    catalogue: Catalogue
    turnstile: Turnstile
    started: int
    """When it began, in seconds since 1970."""

    async def chat(self, body: bytes, headers: Mapping[str, str], reply: Reply) -> None:
        """Answer a request for a chat completion."""
        # In a thread, because a template and a tokenizer take their time for a long conversation.
        request = await run_sync(
            partial(read_chat_request, body, self.renderer, context=self.engine.context)
        )
        async with self.catalogue.lease(request.model, session=headers.get(SESSION, "")) as lease:
            if request.stream:
                await self._stream_chat(request, lease, reply)
                return
            said = await answer(self.engine, self.renderer, request, adapter=lease.adapter)
        await reply.whole(write_answer(request, said, model=lease.name, renderer=self.renderer))

    async def _stream_chat(self, request: ChatRequest, lease: Lease, reply: Reply) -> None:
        chunks = Chunks(request, model=lease.name, renderer=self.renderer)

        async def speak(put: Put) -> None:
            said = await answer(
                self.engine,
                self.renderer,
                request,
                adapter=lease.adapter,
                tell=lambda delta: put(chunks.tell(delta)),
            )
            put(chunks.end(said))

        await stream(speak, reply)

    async def tokens(self, body: bytes, headers: Mapping[str, str], reply: Reply) -> None:
        """Answer a request for ids."""
        request = await run_sync(partial(read_token_request, body, context=self.engine.context))
        async with self.catalogue.lease(request.model, session=headers.get(SESSION, "")) as lease:
            if request.stream:
                await self._stream_tokens(request, lease, reply)
                return
            completion = await self._sample(request, lease)
        await reply.whole(write_tokens(request, completion, model=lease.name))

    async def _stream_tokens(self, request: TokenRequest, lease: Lease, reply: Reply) -> None:
        async def speak(put: Put) -> None:
            def hear(piece: Piece) -> None:
                put([write_piece(request, piece.ids, piece.logprobs)])

            completion = await self._sample(request, lease, hear=hear)
            put([write_piece(request, (), (), finish=completion.stop), END])

        await stream(speak, reply)

    async def _sample(
        self, request: TokenRequest, lease: Lease, *, hear: Callable[[Piece], None] | None = None
    ) -> Completion:
        completion = await self.engine.generate(
            request.ids,
            request.sampling,
            adapter=lease.adapter,
            request_id=request.engine_id,
            hear=hear,
        )
        check_completion(completion, request_id=request.engine_id)
        return completion

    def list_models(self) -> list[dict[str, object]]:
        """Return the models by name: the base, the newest adapter as `policy`, and each adapter."""
        return [
            {
                "id": name,
                "object": "model",
                "created": self.started,
                "owned_by": "trustee",
                "root": stands_for or name,
                "parent": None if name == self.catalogue.base else self.catalogue.base,
                "max_model_len": self.engine.context,
            }
            for name, stands_for in self.catalogue.names().items()
        ]


async def stream(speak: Callable[[Put], Awaitable[None]], reply: Reply) -> None:
    """Send what `speak` puts while it runs, then end the stream.

    Raises:
        TrusteeError: as `speak` does.
    """
    failure: TrusteeError | Refused | None = None
    sending, sent = anyio.create_memory_object_stream[bytes](inf)

    def put(events: Iterable[bytes]) -> None:
        for event in events:
            sending.send_nowait(event)

    async def pump() -> None:
        async for event in sent:
            await reply.event(event)

    with sent:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pump)
            with sending:
                try:
                    await speak(put)
                except (TrusteeError, Refused) as error:
                    failure = error
    if failure is not None:
        raise failure
    await reply.end()


def make_application(
    endpoint: Endpoint,
    *,
    hosts: Sequence[str],
    key: str,
    died: Callable[[EngineDied], None],
) -> ASGIApp:
    """Return the application.

    Args:
        endpoint: what answers.
        hosts: names under which it may be asked; empty means any.
        key: what requests must bear; empty for nothing.
        died: is told when the engine has died.
    """

    async def models(request: Request) -> Response:
        found = endpoint.list_models()
        name = request.path_params.get("model")
        if name is None:
            return _json({"object": "list", "data": found})
        for model in found:
            if model["id"] == name:
                return _json(model)
        return refuse(Refused(404, f"the model {name!r} does not exist", param="model"))

    async def health(request: Request) -> Response:
        return _json({"status": "ok"})

    async def lost(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        texts = {404: "there is no such route", 405: "this route takes another method"}
        return refuse(Refused(status, texts.get(status, "the server has a bug; see its log")))

    chat = Exchange(endpoint.chat, endpoint.turnstile, died=died)
    tokens = Exchange(endpoint.tokens, endpoint.turnstile, died=died)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/inference/v1/generate", tokens, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{model:path}", models),
            Route("/health", health),
        ],
        exception_handlers={HTTPException: lost, Exception: lost},
    )
    return Guard(app, hosts=hosts, key=key)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")

"""The token-level route, `/inference/v1/generate`: ids in, ids and logprobs out.

Request and response are those of vLLM's own server. A logprob names its id twice, as `token_id` and
as the text `token_id:<id>`, because servers have written one or the other and clients read either.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from trustee.endpoint.chat_answer import as_event
from trustee.endpoint.chat_request import Sampled, read_body
from trustee.endpoint.refusals import Refused
from trustee.engine.protocol import Sampling
from trustee.types import Completion, Record

Id = Annotated[int, Meta(ge=0)]


class TokenSampling(Sampled, frozen=True):
    """The part of a request that says how to sample."""

    logprobs: Annotated[int, Meta(ge=0, le=1)] | None = None
    """The logprob of the sampled id is always given, and no other."""
    stop: list[str] | str | None = None


class TokenBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a request."""

    token_ids: Annotated[list[Id], Meta(min_length=1)]
    sampling_params: TokenSampling = TokenSampling()
    model: str | None = None
    request_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    stream: bool | None = None
    priority: int | None = None
    return_token_ids: bool | None = None


class TokenRequest(Record, frozen=True):
    """A request as it is answered."""

    id: str
    """Its own id, which the client may have chosen."""
    engine_id: str
    """Id in the engine, unlike that of any other request."""
    model: str | None
    ids: tuple[int, ...]
    sampling: Sampling
    stream: bool
    returns_prompt: bool


def read_token_request(data: bytes, *, context: int) -> TokenRequest:
    """Read a request for ids.

    Raises:
        Refused: if it cannot be answered as it is; the error names the key.
    """
    body: TokenBody = read_body(data, TokenBody, nested="sampling_params")
    if body.sampling_params.stop:
        raise Refused(
            400,
            "sampling_params.stop is text, which this route does not read; give stop_token_ids",
            param="sampling_params.stop",
        )
    room = context - len(body.token_ids)
    if room < 1:
        raise Refused(
            400,
            f"{len(body.token_ids)} token_ids leave no room in the context of {context}",
            param="token_ids",
        )
    name = secrets.token_hex(12)
    return TokenRequest(
        id=body.request_id or name,
        engine_id=f"tokens-{name}",
        model=body.model,
        ids=tuple(body.token_ids),
        sampling=body.sampling_params.sampling(room=room),
        stream=bool(body.stream),
        returns_prompt=bool(body.return_token_ids),
    )


def write_ids(
    ids: Sequence[int], logprobs: Sequence[float], *, finish: str | None
) -> dict[str, Any]:
    """Return a choice of a response."""
    content: list[dict[str, Any]] = [
        {
            "token": f"token_id:{id}",
            "token_id": id,
            "logprob": logprob,
            "bytes": None,
            "rank": None,
            "top_logprobs": [],
        }
        for id, logprob in zip(ids, logprobs, strict=True)
    ]
    return {
        "index": 0,
        "finish_reason": finish,
        "stop_reason": None,
        "token_ids": list(ids),
        "logprobs": {"content": content},
    }


def write_tokens(request: TokenRequest, completion: Completion, *, model: str) -> dict[str, Any]:
    """Return a whole response; `model` is the name of the version that sampled."""
    return {
        "request_id": request.id,
        "output_mode": "tokens",
        "model": model,
        "created": int(time.time()),
        "choices": [write_ids(completion.ids, completion.logprobs, finish=completion.stop)],
        "usage": {
            "prompt_tokens": len(request.ids),
            "completion_tokens": len(completion.ids),
            "total_tokens": len(request.ids) + len(completion.ids),
            "prompt_tokens_details": {"cached_tokens": completion.cached},
        },
        "prompt_token_ids": list(request.ids) if request.returns_prompt else None,
    }


def write_piece(
    request: TokenRequest,
    ids: Sequence[int],
    logprobs: Sequence[float],
    *,
    finish: str | None = None,
) -> bytes:
    """Return a piece of a stream."""
    choice = write_ids(ids, logprobs, finish=finish)
    return as_event({"request_id": request.id, "output_mode": "tokens", "choices": [choice]})

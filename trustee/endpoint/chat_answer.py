"""Answers in the form of OpenAI's API: whole, and as the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from trustee.endpoint.answering import Answer
from trustee.endpoint.chat_request import ChatRequest
from trustee.endpoint.streamed_message import Delta, content_of
from trustee.rendering.renderer import Renderer
from trustee.tools.values import render_json
from trustee.types import ToolCall

END = b"data: [DONE]\n\n"


def as_event(value: object) -> bytes:
    """Return an event of a stream."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def write_call(call: ToolCall) -> dict[str, Any]:
    """Return a call in OpenAI's form, its arguments as JSON text."""
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": render_json(call.arguments)},
    }


def write_usage(answer: Answer) -> dict[str, Any]:
    """Return the numbers of tokens of an answer."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": len(answer.ids),
        "total_tokens": answer.prompt_tokens + len(answer.ids),
        "prompt_tokens_details": {"cached_tokens": answer.cached},
    }


def write_logprobs(answer: Answer, renderer: Renderer) -> dict[str, Any]:
    """Return the logprob of each sampled id, the last one included."""
    content = []
    for id, logprob in zip(answer.ids, answer.logprobs, strict=True):
        text = renderer.decode([id])
        content.append(
            {"token": text, "bytes": [*text.encode()], "logprob": logprob, "top_logprobs": []}
        )
    return {"content": content, "refusal": None}


def write_answer(
    request: ChatRequest, answer: Answer, *, model: str, renderer: Renderer
) -> dict[str, Any]:
    """Return a whole answer."""
    calls = [write_call(call) for call in answer.message.calls if isinstance(call, ToolCall)]
    content = content_of(answer.message)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content if content or not calls else None,
        "refusal": None,
    }
    if answer.message.thinking:
        message["reasoning_content"] = answer.message.thinking
    if calls:
        message["tool_calls"] = calls
    return {
        "id": request.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": write_logprobs(answer, renderer) if request.logprobs else None,
                "finish_reason": answer.finish,
            }
        ],
        "usage": write_usage(answer),
    }


class Chunks:
    """The chunks of one stream."""

    def __init__(self, request: ChatRequest, *, model: str, renderer: Renderer) -> None:
        self._request = request
        self._renderer = renderer
        self._calls = 0
        self._begun = False
        self._head = {
            "id": request.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def _begin(self) -> Iterator[bytes]:
        """Yield a chunk that says who speaks, before the first other one."""
        if not self._begun:
            self._begun = True
            yield self._chunk({"role": "assistant", "content": ""})

    def tell(self, delta: Delta) -> Iterator[bytes]:
        """Yield the chunks of what is new: a call's name first, then its arguments."""
        yield from self._begin()
        if delta.thinking:
            yield self._chunk({"reasoning_content": delta.thinking})
        if delta.content:
            yield self._chunk({"content": delta.content})
        if delta.call is not None:
            written, index = write_call(delta.call), self._calls
            self._calls += 1
            function = written["function"]
            opened = {**written, "function": {"name": function["name"], "arguments": ""}}
            yield self._chunk({"tool_calls": [{"index": index, **opened}]})
            rest = {"function": {"arguments": function["arguments"]}}
            yield self._chunk({"tool_calls": [{"index": index, **rest}]})

    def end(self, answer: Answer) -> Iterator[bytes]:
        """Yield why it ended, what was asked about it, and the end of the stream."""
        yield from self._begin()
        logprobs = write_logprobs(answer, self._renderer) if self._request.logprobs else None
        yield self._chunk({}, finish=answer.finish, logprobs=logprobs)
        if self._request.usage:
            yield as_event({**self._head, "choices": [], "usage": write_usage(answer)})
        yield END

    def _chunk(
        self, delta: Mapping[str, Any], *, finish: str | None = None, logprobs: Any = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if self._request.usage else {}
        return as_event({**self._head, "choices": [choice], **usage})

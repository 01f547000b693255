"""OpenAI's form of a chat, as servers speak it: ours to theirs, theirs to ours.

What is sent is what the strictest of them take. What is read is what any of them send: arguments
as text, object or null, content as text, parts or null, thoughts beside the content or inside it.
Thoughts are dropped, because a teacher's thoughts are about its hints.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from trustee.decoding import decode_json
from trustee.errors import AnswerError
from trustee.tools.values import render_json
from trustee.types import BadCall, Message, ToolCall

SHOWN_ANSWER = 300
"""Maximum number of characters of an answer that an error shows."""


class ChatFunction(msgspec.Struct):
    """The fields that are read of a call's function."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ChatCall(msgspec.Struct):
    """The fields that are read of a call."""

    function: ChatFunction


class ChatMessage(msgspec.Struct):
    """The fields that are read of a message."""

    content: str | list[str | dict[str, Any]] | None = None
    tool_calls: tuple[ChatCall, ...] | None = None


class Choice(msgspec.Struct):
    """The fields that are read of a choice."""

    message: ChatMessage
    finish_reason: str | None = None


class ChatCompletion(msgspec.Struct):
    """The fields that are read of an endpoint's answer."""

    choices: tuple[Choice, ...]


def read_completion(text: bytes) -> ChatMessage:
    """Read an endpoint's answer.

    Raises:
        AnswerError: if it is not a chat completion, or was cut off.
    """

    def refuse(why: str) -> AnswerError:
        shown = text[:SHOWN_ANSWER].decode(errors="replace")
        return AnswerError(f"the endpoint's answer is not a chat completion ({why}): {shown!r}")

    choices = decode_json(text, ChatCompletion, error=refuse).choices
    if not choices:
        raise refuse("it has no choices")
    if choices[0].finish_reason == "length":
        raise AnswerError("the endpoint's answer was cut off by its limit of tokens")
    if choices[0].finish_reason == "content_filter":
        raise AnswerError("the endpoint's answer was held back by its filter of contents")
    return choices[0].message


def as_message(spoken: ChatMessage) -> Message:
    """Return an endpoint's message as a `Message`, without thoughts.

    Raises:
        AnswerError: if a call's arguments are not a JSON object, or a part is not text.
    """
    calls = tuple(
        ToolCall(id=str(number), name=call.function.name, arguments=read_arguments(call.function))
        for number, call in enumerate(spoken.tool_calls or ())
    )
    return Message(role="assistant", content=read_content(spoken.content), calls=calls)


def read_arguments(function: ChatFunction) -> dict[str, Any]:
    """Return a call's arguments, which may be an object, its text, or missing.

    Raises:
        AnswerError: if they are anything else.
    """
    given = function.arguments
    if isinstance(given, dict):
        return given
    if given is None or not given.strip():
        return {}

    def refuse(why: str) -> AnswerError:
        return AnswerError(
            f"the arguments of {function.name[:SHOWN_ANSWER]} are not a JSON object: "
            f"{given[:SHOWN_ANSWER]!r}"
        )

    value = decode_json(given, error=refuse)
    if isinstance(value, str):
        # Some servers write the text of the text.
        value = decode_json(value, error=refuse)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise refuse("")
    return value


_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


def read_content(content: str | list[str | dict[str, Any]] | None) -> str:
    """Return what was said, without thoughts.

    Raises:
        AnswerError: if a part is neither text nor thought, or a thought does not end.
    """
    parts = [content] if isinstance(content, str) else content or []
    text = "".join(map(read_part, parts))
    # A template may have opened the thought, so that the answer only closes it.
    before, mark, after = text.partition("</think>")
    if mark and "<think>" not in before:
        text = after
    text = _THOUGHT.sub("", text).strip()
    if text.startswith("<think>"):
        raise AnswerError("the endpoint's answer ends within a thought")
    return text


def read_part(part: str | dict[str, Any]) -> str:
    """Return the text of one part of a content; that of a thought is empty.

    Raises:
        AnswerError: if the part is neither.
    """
    if isinstance(part, str):
        return part
    kind = part.get("type")
    if kind in ("thinking", "reasoning", "redacted_thinking"):
        return ""
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise AnswerError(f"the endpoint's answer has a part of type {str(kind)[:40]!r}, not text")
    return text


def as_openai(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return a conversation in OpenAI's form.

    Calls get ids of nine letters and digits, the one form that all servers take. A call that could
    not be read has no such form: it is sent as text, and so is what it was answered.
    """
    ids: dict[str, str] = {}
    return [_as_openai(message, ids) for message in messages]


def _as_openai(message: Message, ids: dict[str, str]) -> dict[str, Any]:
    if message.role == "tool":
        if message.call_id not in ids:
            return {"role": "user", "content": message.content}
        id = ids[message.call_id]
        return {"role": "tool", "content": message.content, "tool_call_id": id}
    broken = [call.text for call in message.calls if isinstance(call, BadCall)]
    content = "\n".join(filter(None, (message.content, *broken)))
    form: dict[str, Any] = {"role": message.role, "content": content}
    calls = [call for call in message.calls if isinstance(call, ToolCall)]
    if calls:
        form["content"] = content or None
        form["tool_calls"] = []
    for call in calls:
        ids[call.id] = f"call{len(ids):05d}"
        function = {"name": call.name, "arguments": render_json(call.arguments)}
        form["tool_calls"].append({"id": ids[call.id], "type": "function", "function": function})
    return form

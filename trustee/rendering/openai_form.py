"""Messages in OpenAI form, which is what chat templates are written for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from trustee.types import Call, Message, ToolCall


def as_dicts(messages: Sequence[Message], *, calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Convert messages to OpenAI form; `calls` are those made before the first message."""
    made = [*calls, *itertools.chain.from_iterable(message.calls for message in messages)]
    names = {call.id: call.name for call in made if isinstance(call, ToolCall)}
    return [_as_dict(message, names=names) for message in messages]


def _as_dict(message: Message, *, names: Mapping[str, str]) -> dict[str, Any]:
    # A call that could not be read exists only as text.
    bad = [call.text for call in message.calls if not isinstance(call, ToolCall)]
    form: dict[str, Any] = {
        "role": message.role,
        "content": "\n".join((message.content, *bad)) if bad else message.content,
    }
    if message.thinking:
        form["reasoning_content"] = message.thinking
    # Templates only test whether the key exists, so an empty list would count as calls.
    if len(bad) < len(message.calls):
        form["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.calls
            if isinstance(call, ToolCall)
        ]
    if message.role == "tool":
        form["tool_call_id"] = message.call_id
        if message.call_id in names:
            form["name"] = names[message.call_id]
    return form

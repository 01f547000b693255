"""Chat messages and function lists as OpenAI's API and its relatives write them.

One conversion for everything that others wrote: published environments, demonstrations, answers.
Nothing is guessed: what cannot be read raises an error that names the place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from trustee.decoding import Failure, decode_json
from trustee.errors import InputError
from trustee.tools.arguments import shorten
from trustee.tools.entries import find_parameters
from trustee.tools.mending import mend_parameters
from trustee.tools.values import render_json
from trustee.types import Call, Message, Tool, ToolCall

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
"""Role of a `Message` by the role in a chat."""
THOUGHTS = ("thinking", "reasoning_content", "reasoning")
TEXTS = ("text", "input_text", "output_text")
"""Types of a content's part that is a text."""


def read_chat_messages(values: Sequence[Any], *, where: str = "messages") -> tuple[Message, ...]:
    """Read the messages of a conversation.

    Raises:
        InputError: naming the message and what is wrong with it.
    """
    return tuple(
        read_chat_message(value, where=f"{where}[{index}]") for index, value in enumerate(values)
    )


def read_chat_message(value: Any, *, where: str) -> Message:
    """Read a message in OpenAI's form or this program's own; keys that are not known are ignored.

    A result without the id of its call has the tool's name as `call_id`, as in the older form.

    Raises:
        InputError: naming `where` and what is wrong.
    """

    def error(reason: str) -> InputError:
        return InputError(f"{where}: not a chat message ({reason})")

    if not isinstance(value, dict):
        raise error(f"a JSON object is needed, got {shorten(value)}")
    role = ROLES.get(value.get("role") or "") if isinstance(value.get("role"), str | None) else None
    if role is None:
        raise error(f"role must be one of {', '.join(ROLES)}, got {shorten(value.get('role'))}")
    thoughts = [value[key] for key in THOUGHTS if value.get(key)]
    if not all(isinstance(thought, str) for thought in thoughts):
        raise error(f"a thought must be text, got {shorten(thoughts)}")
    linked = value.get("call_id") or value.get("tool_call_id") or value.get("name") or ""
    try:
        return msgspec.convert(
            {
                "role": role,
                "content": read_content(value.get("content"), role=role, error=error),
                "thinking": thoughts[0] if thoughts else "",
                "calls": _read_calls(value, error=error),
                "call_id": linked if role == "tool" else "",
            },
            Message,
        )
    except msgspec.ValidationError as caught:
        raise error(str(caught)) from caught


def read_content(value: Any, *, role: str, error: Failure) -> str:
    """Return a content as text: null is empty, parts are joined, a tool's JSON is written out.

    Raises:
        Exception: `error` of a content that is not text, such as a picture.
    """
    if value is None or isinstance(value, str):
        return value or ""
    parts = value if isinstance(value, list) else [value]
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type", "text") in TEXTS else part
        for part in parts
    ]
    read = [text for text in texts if isinstance(text, str)]
    if isinstance(value, list) and len(read) == len(texts):
        return "".join(read)
    if role == "tool":
        return render_json(value)
    raise error(f"content must be text or parts of type text, got {shorten(value)}")


def read_chat_call(value: Any, *, error: Failure) -> ToolCall:
    """Read a call, whose arguments may be an object, the text of one, or missing.

    Raises:
        Exception: `error` of what is wrong.
    """
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise error(f"a call needs function.name and function.arguments, got {shorten(value)}")
    name = function["name"]
    given = function.get("arguments", function.get("parameters"))
    if isinstance(given, str) and given.strip():
        given = decode_json(
            given, error=lambda why: error(f"the arguments of {name} are not JSON: {why}")
        )
    elif given is None or isinstance(given, str):
        given = {}
    if not name or not isinstance(given, dict):
        raise error(
            f"the arguments of {name or '(no name)'} must be an object, got {shorten(given)}"
        )
    return ToolCall(id=str(value.get("id") or ""), name=name, arguments=given)


def _read_calls(value: Mapping[str, Any], *, error: Failure) -> list[Call]:
    """Read the calls of a message: this program's, today's, or the one of the older form."""
    if own := value.get("calls"):
        try:
            return msgspec.convert(own, list[Call])
        except msgspec.ValidationError as caught:
            raise error(f"calls: {caught}") from caught
    given = value.get("tool_calls") or []
    if isinstance(given, str):
        given = decode_json(given, error=lambda why: error(f"tool_calls are not JSON: {why}")) or []
    if not isinstance(given, list):
        raise error(f"tool_calls must be a list, got {shorten(given)}")
    old = [value["function_call"]] if value.get("function_call") else []
    return [read_chat_call(call, error=error) for call in (*given, *old)]


def read_offered_tools(value: Any, *, where: str = "tools") -> tuple[Tool, ...]:
    """Read a list of functions, or its JSON text: OpenAI's form, bare functions, or tables of them.

    Raises:
        InputError: naming the tool and what is wrong with it.
    """
    if isinstance(value, str) and value.strip():
        value = decode_json(value, error=lambda why: InputError(f"{where}: not JSON ({why})"))
    entries = [value] if isinstance(value, dict) else value or []
    if not isinstance(entries, list | tuple):
        raise InputError(f"{where}: must be a list of tools, got {shorten(value)}")
    tools = [
        read_offered_tool(entry, where=f"{where}[{index}]") for index, entry in enumerate(entries)
    ]
    names = [tool.name for tool in tools]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{where}: {', '.join(double)} twice; the names of tools must be unique")
    return tuple(tools)


def read_offered_tool(entry: Any, *, where: str) -> Tool:
    """Read one function.

    Raises:
        InputError: naming `where` and what is wrong.
    """
    if isinstance(entry, str):
        entry = decode_json(entry, error=lambda why: InputError(f"{where}: not JSON ({why})"))
    function = entry.get("function", entry) if isinstance(entry, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise InputError(f"{where}: {shorten(entry)} is not a function schema with a name")
    given = find_parameters(function, where=f"{where} {name}")
    parameters = mend_parameters({} if given is None else given, set())
    if not isinstance(parameters, dict):
        raise InputError(f"{where}: the parameters of {name} are not a JSON Schema")
    effect, category = function.get("effect"), function.get("category")
    return Tool(
        name=name,
        description=str(function.get("description") or ""),
        parameters=parameters,
        effect="read" if effect == "read" else "write",
        category=category if isinstance(category, str) else "",
    )

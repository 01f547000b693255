"""What makes the model answer in a given form: a call of a tool, or JSON of a schema.

A grammar applies from the first token that is sampled under it. So a call's opening, as the model's
template writes it, is put behind the prompt, and the call itself is sampled under the grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from trustee.decoding import decode_json
from trustee.endpoint.refusals import Refused
from trustee.errors import InputError
from trustee.rendering.chat_templates import UnusableTemplate
from trustee.rendering.renderer import Renderer
from trustee.types import Message, Record, Tool, ToolCall

PROBE = Message(role="assistant", calls=(ToolCall(id="0", name="f", arguments={}),))


class Form(Record, frozen=True):
    """What an answer must look like."""

    schema: str
    """JSON Schema of what is sampled."""
    opening: tuple[int, ...] = ()
    """Ids behind the prompt, which are not sampled."""
    arguments: str = ""
    """Key of the arguments where what is sampled is a call; empty where it is an answer."""


def force_call(renderer: Renderer, tools: Sequence[Tool]) -> Form:
    """Return the form of one call of one of these tools."""
    opening, key = find_opening(renderer)
    calls = []
    definitions: dict[str, Any] = {}
    for number, tool in enumerate(tools):
        place = f"tool{number}"
        moved = move_references(tool.parameters, f"#/$defs/{place}")
        definitions[place] = {"type": "object", **moved}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, key: {"$ref": f"#/$defs/{place}"}},
                "required": ["name", key],
                "additionalProperties": False,
            }
        )
    schema = {"anyOf": calls} if len(calls) > 1 else calls[0]
    return Form(
        schema=msgspec.json.encode({**schema, "$defs": definitions}).decode(),
        opening=opening,
        arguments=key,
    )


def find_opening(renderer: Renderer) -> tuple[tuple[int, ...], str]:
    """Return the ids before a call's JSON as the template writes it, and its key for arguments.

    A template that writes calls in another form than JSON gets JSON all the same, without opening.
    """
    try:
        ids = renderer.complete(PROBE)
    except InputError:
        return (), "arguments"
    text = renderer.decode(ids)
    if '{"name"' not in text:
        return (), "arguments"
    key = "parameters" if '"parameters"' in text else "arguments"
    whole = next(n for n in range(len(ids) + 1) if "{" in renderer.decode(ids[:n])) - 1
    opening = ids[:whole]
    try:
        end = renderer.thought_marks.end
    except UnusableTemplate:
        return opening, key
    for place in range(len(opening) - 1, -1, -1):
        if opening[place] == end:
            opening = opening[place + 1 :]
            break
    while opening and not renderer.decode(opening[:1]).strip():
        opening = opening[1:]
    return opening, key


def move_references(schema: Any, place: str) -> Any:
    """Return a schema that stands at another place of a document, with its own references."""
    match schema:
        case dict():
            return {
                key: f"{place}{value[1:]}"
                if key == "$ref" and isinstance(value, str) and value.startswith("#")
                else move_references(value, place)
                for key, value in schema.items()
            }
        case list():
            return [move_references(item, place) for item in schema]
        case _:
            return schema


def read_forced(text: str, form: Form, *, call_prefix: str) -> Message:
    """Return the message of a finished text in a form; what was cut off stays text."""
    if not form.arguments:
        return Message(role="assistant", content=text)
    try:
        value = decode_json(text, dict[str, Any], error=InputError)
        given = {"id": f"{call_prefix}0", "name": value["name"]}
        call = msgspec.convert(
            {"type": "call", **given, "arguments": value[form.arguments]}, ToolCall
        )
    except (InputError, KeyError, msgspec.ValidationError):
        return Message(role="assistant", content=text)
    return Message(role="assistant", calls=(call,))


def choose_tools(
    choice: Any, tools: Sequence[Tool], *, param: str = "tool_choice"
) -> tuple[tuple[Tool, ...], tuple[Tool, ...]]:
    """Return the tools that are offered, and those of which one must be called.

    Raises:
        Refused: if the choice is not one of those allowed.
    """
    match choice:
        case None | "auto":
            return tuple(tools), ()
        case "none":
            return (), ()
        case "required":
            if not tools:
                raise Refused(400, f"{param} is required, but no tools are given", param=param)
            return tuple(tools), tuple(tools)
        case {"type": "function", "function": {"name": str(name)}}:
            named = tuple(tool for tool in tools if tool.name == name)
            if not named:
                offered = ", ".join(tool.name for tool in tools) or "none"
                raise Refused(
                    400,
                    f"{param} names {name!r}, which is not offered; tools: {offered}",
                    param=param,
                )
            return tuple(tools), named
        case {"type": "allowed_tools", "allowed_tools": {"mode": str(mode), "tools": list(names)}}:
            wanted = {entry.get("function", {}).get("name") for entry in names}
            allowed = tuple(tool for tool in tools if tool.name in wanted)
            return choose_tools(mode, allowed, param=param)
        case _:
            raise Refused(
                400,
                f"{param} must be none, auto, required or "
                '{"type": "function", "function": {"name": ...}}',
                param=param,
            )

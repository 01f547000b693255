"""Calls, thoughts and results that stand inside a text, as messages have them.

The same calls are then rendered in the format of the model that is trained.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.rendering.call_parser import CallFormat, parse_message
from trustee.sft.forms.prompted_tools import read_literal, read_value
from trustee.tools.arguments import shorten
from trustee.tools.chat import read_chat_call
from trustee.types import Call, Message, Tool, ToolCall

THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
CALL = re.compile(r"<tool_call>.*?</tool_call>|<function=[^<>]+>.*?</function>", re.DOTALL)
RESULT = re.compile(r"\s*<tool_response>(?:\n)?(.*?)(?:\n)?</tool_response>\s*", re.DOTALL)
RESULTS = re.compile(rf"(?:{RESULT.pattern})+", re.DOTALL)


def read_written(message: Message, tools: Sequence[Tool], *, where: str) -> Message:
    """Return an assistant's message with the thought and the calls of its text as such.

    Raises:
        InputError: if a call in the text cannot be read.
    """
    text = message.content
    if message.calls:
        return message
    if CALL.search(text) or (THOUGHT.match(text) and not message.thinking):
        format = CallFormat.QWEN3_CODER if "<function=" in text else CallFormat.HERMES
        read = parse_message(text, format, call_prefix="", tools=tools)
        calls = tuple(_read_bad(call, where=where) for call in read.calls)
        thinking = read.thinking or message.thinking
        return msgspec.structs.replace(read, calls=calls, thinking=thinking)
    if calls := read_bracketed(text, tools, where=where):
        return msgspec.structs.replace(message, content="", calls=calls)
    return message


def read_call_turn(value: str, *, where: str) -> tuple[ToolCall, ...]:
    """Read the calls of a turn that holds nothing else: an object, or a list of them.

    Raises:
        InputError: if it is not a call.
    """

    def error(reason: str) -> InputError:
        return InputError(f"{where}: {reason}")

    found = read_value(value, where=where)
    calls = found if isinstance(found, list) else [found]
    if not calls:
        raise error("holds no call")
    return tuple(read_chat_call(call, error=error) for call in calls)


def split_results(message: Message, calls: Sequence[Call]) -> list[Message]:
    """Return the results that one message holds for several calls, each as its own message."""
    if RESULTS.fullmatch(message.content):
        blocks = RESULT.findall(message.content)
        return [
            Message(role="tool", content=block, call_id=message.call_id if len(blocks) == 1 else "")
            for block in blocks
        ]
    if len(calls) < 2 or not message.content.startswith("["):
        return [message]
    try:
        found = decode_json(message.content, list[dict[str, Any]], error=InputError)
    except InputError:
        return [message]
    names = [str(one.get("name")) for one in found]
    called = Counter(call.name for call in calls if isinstance(call, ToolCall))
    if Counter(names) != called:
        return [message]
    return [
        Message(role="tool", content=msgspec.json.encode(one).decode(), call_id=name)
        for one, name in zip(found, names, strict=True)
    ]


def read_bracketed(text: str, tools: Sequence[Tool], *, where: str) -> tuple[ToolCall, ...]:
    """Read `[First tool(a=1), second(b="x")]`; empty where the text is not of this form.

    Raises:
        InputError: if it begins like one with a declared tool and cannot be read.
    """
    text = text.strip()
    names = "|".join(sorted((re.escape(tool.name) for tool in tools), key=len, reverse=True))
    if not names or not re.match(rf"\[\s*(?:{names})\s*\(", text) or not text.endswith("]"):
        return ()
    begin = re.compile(rf"[\s,]*({names})\s*\(")
    calls: list[ToolCall] = []
    at, end = 1, len(text) - 1
    while found := begin.match(text, at):
        at = _end_of_arguments(text, found.end())
        inner = text[found.end() : at - 1]
        calls.append(
            ToolCall(id="", name=found.group(1), arguments=_read_keywords(inner, where=where))
        )
    if text[at:end].strip():
        raise InputError(f"{where}: {shorten(text[at:end])} is not a call of a declared tool")
    return tuple(calls)


def _read_bad(call: Call, *, where: str) -> ToolCall:
    """Return a readable call; a broken one may be a Python literal."""
    if isinstance(call, ToolCall):
        return call
    try:
        (read,) = read_call_turn(call.text, where=where)
    except (InputError, ValueError) as error:
        raise InputError(f"{where}: {call.reason}") from error
    return read


def _end_of_arguments(text: str, start: int) -> int:
    """Return the place after the bracket that closes a call."""
    depth = 1
    for at, letter in _outside_quotes(text, start):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0:
            return at + 1
    return len(text) + 1


def _outside_quotes(text: str, start: int) -> Iterator[tuple[int, str]]:
    """Yield the places and letters of a text that stand in no string."""
    quote, at = "", start
    while at < len(text):
        letter = text[at]
        if quote and letter == "\\":
            at += 1
        elif letter == quote:
            quote = ""
        elif not quote and letter in "\"'":
            quote = letter
        elif not quote:
            yield at, letter
        at += 1


def _read_keywords(text: str, *, where: str) -> dict[str, Any]:
    """Read `a=1, b="x"`; values are Python's or JSON's, names may be words of Python."""
    parts, depth, start = [], 0, 0
    for at, letter in _outside_quotes(text, 0):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append(text[start:at])
            start = at + 1
    arguments: dict[str, Any] = {}
    for part in filter(str.strip, [*parts, text[start:]]):
        name, equals, value = part.partition("=")
        try:
            if not equals or not name.strip() or name.strip() in arguments:
                raise ValueError("each argument needs a name of its own")
            arguments[name.strip()] = read_literal(value)
        except ValueError as error:
            raise InputError(f"{where}: the argument {shorten(part)} cannot be read") from error
    return arguments

"""Calls, thoughts and results that stand inside a text, as messages have them.

The same calls are then rendered in the format of the model that is trained.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.rendering.call_parser import CallFormat, parse_message
from trustee.sft.forms.prompted_tools import MOST_LITERAL, read_value
from trustee.tools.arguments import shorten
from trustee.tools.chat import read_chat_call
from trustee.types import Call, Message, Tool, ToolCall

THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
CALL = re.compile(r"<tool_call>.*?</tool_call>", re.DOTALL)
RESULT = re.compile(r"\s*<tool_response>(?:\n)?(.*?)(?:\n)?</tool_response>\s*", re.DOTALL)
RESULTS = re.compile(rf"(?:{RESULT.pattern})+", re.DOTALL)
WORDS = {"true": True, "false": False, "null": None, "none": None}


def read_written(message: Message, tools: Sequence[Tool], *, where: str) -> Message:
    """Return an assistant's message with the thought and the calls of its text as such.

    Raises:
        InputError: if a call in the text cannot be read.
    """
    text = message.content
    if message.calls:
        return message
    if CALL.search(text) or (THOUGHT.match(text) and not message.thinking):
        read = parse_message(text, CallFormat.HERMES, call_prefix="", tools=tools)
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
    """Return the place after the bracket that closes a call, judging by brackets and quotes."""
    depth, quote, at = 1, "", start
    while at < len(text):
        letter = text[at]
        if quote and letter == "\\":
            at += 1
        elif letter in "\"'":
            quote = letter if not quote else "" if letter == quote else quote
        elif not quote:
            depth += (letter in "([{") - (letter in ")]}")
            if depth == 0:
                return at + 1
        at += 1
    return len(text)


def _read_keywords(text: str, *, where: str) -> dict[str, Any]:
    """Read the keywords of a call; values are Python's or JSON's."""
    try:
        if len(text) > MOST_LITERAL:
            raise ValueError("too long")
        tree = ast.parse(f"f({text.strip()})", mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args:
            raise ValueError("arguments need names")
        return {str(keyword.arg): _literal(keyword.value) for keyword in tree.keywords}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(f"{where}: the arguments {shorten(text)} cannot be read") from error


def _literal(node: ast.expr) -> Any:
    """Return a value, with `true`, `false` and `null` wherever they stand."""
    for inner in ast.walk(node):
        for name, child in ast.iter_fields(inner):
            if isinstance(child, list):
                child[:] = [_constant(one) for one in child]
            elif isinstance(child, ast.Name):
                setattr(inner, name, _constant(child))
    return ast.literal_eval(_constant(node))


def _constant(node: Any) -> Any:
    if isinstance(node, ast.Name) and node.id.lower() in WORDS:
        return ast.Constant(WORDS[node.id.lower()])
    return node

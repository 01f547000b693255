"""Reads what the policy wrote: text in, one assistant `Message` out.

The one idea: a call is either read exactly as written or kept as a `BadCall` that says what was
expected. Nothing is repaired, nothing is dropped, nothing raises, and the time is linear in the
text, because the text is under the policy's control.

Each format has its opening marks. Text is scanned once, from mark to mark; a `<think>` span hides
every mark inside it. A block that cannot be read ends at the next mark of its format, so a good
call after a broken one is still read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Never

import msgspec

from trustee.types import BadCall, Call, Message, Tool, ToolCall

MAX_DEPTH = 64
"""JSON that nests deeper is a bad call; far below Python's recursion limit."""


class CallFormat(StrEnum):
    """How a model family writes calls."""

    HERMES = "hermes"
    """A JSON object inside `<tool_call>`; also Qwen2.5 and Qwen3."""
    LLAMA3_JSON = "llama3_json"
    """A bare JSON object, after `<|python_tag|>` or not."""
    QWEN3_CODER = "qwen3_coder"
    """`<function=name>` with a `<parameter=key>` element for each argument."""


def parse_message(
    text: str, format: CallFormat, *, call_prefix: str, tools: Sequence[Tool] = ()
) -> Message:
    """Read one assistant message.

    Args:
        text: What the policy sampled, with or without its end-of-turn mark.
        format: How the model writes calls.
        call_prefix: Calls get the ids `<call_prefix>0`, `<call_prefix>1`, in the order written.
        tools: Their schemas type the values of `qwen3_coder`, which are bare text.
    """
    text = _END_OF_TURN.sub("", text)
    schemas = {tool.name: tool.parameters for tool in tools}
    said: list[str] = []
    thought: list[str] = []
    calls: list[Call] = []
    # From `unsaid` to `at` stands JSON that turned out to be no call: said, but not scanned again.
    unsaid = at = 0
    while mark := _OPENING[format].search(text, at):
        if mark.group() == "<think>":
            _keep(said, text[unsaid : mark.start()])
            end = text.find("</think>", mark.end())
            end = len(text) if end < 0 else end
            _keep(thought, text[mark.end() : end])
            unsaid = at = end + len("</think>")
            continue
        match format:
            case CallFormat.HERMES:
                block = _read_hermes(text, mark)
            case CallFormat.LLAMA3_JSON:
                first = not said and unsaid == at and not text[at : mark.start()].strip()
                block = _read_llama(text, mark, first=first)
            case CallFormat.QWEN3_CODER:
                block = _read_coder(text, mark, schemas=schemas)
        if block.calls:
            _keep(said, text[unsaid : mark.start()])
            calls.extend(block.calls)
            unsaid = block.end
        at = block.end
    _keep(said, text[unsaid:])
    return Message(
        role="assistant",
        content="\n".join(said),
        thinking="\n".join(thought),
        calls=tuple(
            msgspec.structs.replace(call, id=f"{call_prefix}{i}") for i, call in enumerate(calls)
        ),
    )


class _Block(NamedTuple):
    """What stands at an opening mark."""

    end: int
    """Where the scan goes on."""
    calls: tuple[Call, ...]
    """Without ids; empty where the block is no call after all."""


class _Unreadable(Exception):
    """Why a call cannot be read: the first half of the sentence that the policy gets."""


_END_OF_TURN = re.compile(r"(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|<\|eom_id\|>)\s*+\Z")
_OPENING = {
    CallFormat.HERMES: re.compile(r"<think>|<tool_call>"),
    CallFormat.LLAMA3_JSON: re.compile(
        r"<think>|<\|python_tag\|>|(?:\[\s*+)?"
        r"""\{\s*+["'](?:name|function|parameters|arguments|type)["']\s*+:"""
    ),
    CallFormat.QWEN3_CODER: re.compile(r"<think>|<tool_call>|<function="),
}
_WRAPPER = re.compile(r"</?tool_call>")
_BARE_FUNCTION = re.compile(r"</function>|<function=|<tool_call>")
_FUNCTION = re.compile(r"<function=([^<>\n]*+)>")
_PARAMETER = re.compile(r"<parameter=([^<>\n]*+)>")
_VALUE_END = re.compile(r"</parameter>|<parameter=|<function=|<tool_call>")
_NOT_SPACE = re.compile(r"\S")

_HERMES_SHAPE = (
    '<tool_call>, one JSON object {"name": "<tool>", "arguments": {...}}, then </tool_call>'
)
_LLAMA_SHAPE = 'one JSON object {"name": "<tool>", "parameters": {...}}'
_CODER_SHAPE = (
    "<tool_call>, <function=TOOL>, then <parameter=KEY>VALUE</parameter> for each argument, "
    "then </function> and </tool_call>"
)


def _keep(parts: list[str], text: str) -> None:
    if text := text.strip():
        parts.append(text)


def _read_hermes(text: str, mark: re.Match[str]) -> _Block:
    read_to = mark.end()
    try:
        value, read_to = _decode_json(text, _after_space(text, mark.end()))
        end = _after_wrapper(text, read_to)
        return _Block(end=end, calls=_as_calls(value, may_lack_arguments=True))
    except _Unreadable as error:
        return _bad_block(
            text, mark.end(), marks=_WRAPPER, after=read_to, reason=f"{error}; {_HERMES_SHAPE}"
        )


def _read_llama(text: str, mark: re.Match[str], *, first: bool) -> _Block:
    """Read JSON as a call where it opens the message, is tagged, or has a call's two keys."""
    tagged = mark.group() == "<|python_tag|>"
    start = _after_space(text, mark.end()) if tagged else mark.start()
    end = _json_end(text, start)
    end = len(text) if end < 0 else end
    try:
        value, end = _decode_json(text, start)
        if not (first or tagged or _has_call_keys(value)):
            return _Block(end=end, calls=())
        calls = _as_calls(value, may_lack_arguments=False)
    except _Unreadable as error:
        calls = (_bad(text[start:end], reason=f"{error}; {_LLAMA_SHAPE}"),)
    separator = _after_space(text, end)
    return _Block(end=separator + 1 if text.startswith(";", separator) else end, calls=calls)


def _read_coder(
    text: str, mark: re.Match[str], *, schemas: Mapping[str, Mapping[str, Any]]
) -> _Block:
    wrapped = mark.group() == "<tool_call>"
    start = mark.end() if wrapped else mark.start()
    try:
        call, end = _read_function(text, _after_space(text, start), schemas=schemas)
        return _Block(end=_after_wrapper(text, end) if wrapped else end, calls=(call,))
    except _Unreadable as error:
        marks = _WRAPPER if wrapped else _BARE_FUNCTION
        return _bad_block(
            text, start, marks=marks, after=mark.end(), reason=f"{error}; {_CODER_SHAPE}"
        )


def _read_function(
    text: str, at: int, *, schemas: Mapping[str, Mapping[str, Any]]
) -> tuple[ToolCall, int]:
    function = _FUNCTION.match(text, at)
    if function is None or not (name := function.group(1).strip()):
        raise _Unreadable("<function=TOOL> is missing")
    properties = schemas.get(name, {}).get("properties", {})
    arguments: dict[str, Any] = {}
    at = _after_space(text, function.end())
    while parameter := _PARAMETER.match(text, at):
        stop = _VALUE_END.search(text, parameter.end())
        if stop is None or stop.group() != "</parameter>":
            raise _Unreadable("a <parameter=KEY> is not closed before the next mark")
        if not (key := parameter.group(1).strip()):
            raise _Unreadable("a <parameter=KEY> has no key")
        value = text[parameter.end() : stop.start()].removeprefix("\n").removesuffix("\n")
        arguments[key] = _typed(value, properties.get(key, {}))
        at = _after_space(text, stop.end())
    if not text.startswith("</function>", at):
        raise _Unreadable("</function> is missing after the last parameter")
    return ToolCall(id="", name=name, arguments=arguments), at + len("</function>")


def _typed(text: str, schema: Mapping[str, Any]) -> Any:
    """Turn bare text into a value its schema allows; text that fits no other type stays text."""
    allowed = _types(schema)
    word = text.strip()
    if word.startswith(("{", "[")):
        try:
            value, end = _decode_json(word, 0)
        except _Unreadable:
            return text
        if end < len(word):
            return text
    else:
        try:
            value = _WORDS[word] if word in _WORDS else _DECODER.decode(word)
        except (ValueError, _Unreadable):
            return text
    kinds: set[str] = {_KINDS[type(value)], "number" if type(value) is int else ""}
    return text if isinstance(value, str) or kinds.isdisjoint(allowed) else value


_WORDS = {"True": True, "False": False, "None": None}
"""Templates write these values as Python does; JSON's spellings are read by its decoder."""
_KINDS: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    type(None): "null",
    list: "array",
    dict: "object",
}


def _types(schema: Mapping[str, Any]) -> set[str]:
    named = schema.get("type", [])
    types = {named} if isinstance(named, str) else set(named)
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        types |= _types(choice)
    return types


def _after_space(text: str, at: int) -> int:
    found = _NOT_SPACE.search(text, at)
    return len(text) if found is None else found.start()


def _after_wrapper(text: str, at: int) -> int:
    """Find the end of a wrapped block; only the end of the text may stand for the closing mark."""
    at = _after_space(text, at)
    if at < len(text) and not text.startswith("</tool_call>", at):
        raise _Unreadable("there is more text between the call and </tool_call>")
    return min(at + len("</tool_call>"), len(text))


def _bad(text: str, *, reason: str) -> BadCall:
    return BadCall(id="", text=text, reason=f"This call cannot be read: {reason} is expected.")


def _bad_block(text: str, start: int, *, marks: re.Pattern[str], after: int, reason: str) -> _Block:
    """End a block that cannot be read at the next mark; a closing one belongs to it."""
    mark = marks.search(text, after)
    inner = len(text) if mark is None else mark.start()
    closed = mark is not None and mark.group().startswith("</")
    end = mark.end() if mark is not None and closed else inner
    return _Block(end=end, calls=(_bad(text[start:inner], reason=reason),))


def _as_calls(value: Any, *, may_lack_arguments: bool) -> tuple[Call, ...]:
    """Read one object or a list of them; a list is read whole or not at all."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise _Unreadable("the list is empty")
    return tuple(_as_call(item, may_lack_arguments=may_lack_arguments) for item in items)


def _as_call(item: Any, *, may_lack_arguments: bool) -> ToolCall:
    if not isinstance(item, dict):
        raise _Unreadable("a call in the list is not a JSON object")
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise _Unreadable('"name" is missing or is not a string')
    keys = [key for key in ("arguments", "parameters") if key in item]
    if len(keys) == 2:
        raise _Unreadable('"arguments" and "parameters" are both given')
    if not keys and not may_lack_arguments:
        raise _Unreadable('"parameters" is missing')
    arguments = item[keys[0]] if keys else None
    if isinstance(arguments, str):
        text = arguments.strip()
        try:
            arguments, end = _decode_json(text, 0)
        except _Unreadable as error:
            raise _Unreadable(f"in the arguments string, {error}") from None
        if end < len(text):
            raise _Unreadable("the arguments are followed by more text")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise _Unreadable("the arguments are not a JSON object")
    return ToolCall(id="", name=name, arguments=arguments)


def _has_call_keys(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(
        isinstance(item, dict) and "name" in item and ("parameters" in item or "arguments" in item)
        for item in items
    )


_JSON_STEP = re.compile(
    r'[^"\\<{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|([{\[])|([}\]]))', re.DOTALL
)
"""Up to and including the next string or bracket. Outside strings `<` and a backslash are refused:
two readings that start at different marks can then never both run on, which keeps a text of many
marks linear."""


def _json_end(text: str, start: int) -> int:
    """Find where the object or list at `start` ends, by brackets alone; -1 where it does not."""
    if not text.startswith(("{", "["), start):
        return -1
    depth = 0
    at = start
    while step := _JSON_STEP.match(text, at):
        at = step.end()
        if step.group(1):
            depth += 1
            if depth > MAX_DEPTH:
                return -1
        elif step.group(2):
            depth -= 1
            if depth == 0:
                return at
    return -1


def _decode_json(text: str, start: int) -> tuple[Any, int]:
    """Decode the object or list at `start`, and say where it ends."""
    if not text.startswith(("{", "["), start):
        raise _Unreadable("no JSON object was found")
    end = _json_end(text, start)
    if end < 0:
        raise _Unreadable(f"the JSON is not closed or nests deeper than {MAX_DEPTH} levels")
    try:
        value = _DECODER.decode(text[start:end])
        # Half a surrogate pair decodes, but no file or socket takes it.
        msgspec.json.encode(value)
    except json.JSONDecodeError as error:
        raise _Unreadable(f"the JSON breaks at character {error.pos}: {error.msg}") from None
    except UnicodeEncodeError:
        raise _Unreadable("a string holds half of a surrogate pair") from None
    except ValueError:
        raise _Unreadable("an integer has too many digits") from None
    return value, end


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Unreadable("a number is too large")
    return number


def _refuse_constant(name: str) -> Never:
    raise _Unreadable(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)

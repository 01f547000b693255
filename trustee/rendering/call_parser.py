"""Parsing what the policy wrote: text in, one assistant `Message` out.

A call is either read exactly as written or kept as a `BadCall` with what was expected. Nothing is
repaired or dropped, nothing raises, and the time is linear in the length of the text, because the
policy controls the text.

Each format has its opening marks. The text is scanned once, from mark to mark; marks inside a
`<think>` span are ignored. A block that cannot be read ends at the next mark of its format, so a
valid call after a broken one is still read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Never

import msgspec

from trustee.rendering.unmarked_calls import is_broken_call, is_call
from trustee.tools.schema import property_of, type_of, types_of
from trustee.types import BadCall, Call, Message, Tool, ToolCall

MAX_DEPTH = 64
"""Maximum nesting of JSON in a call, far below Python's recursion limit; deeper is a bad call."""

MAX_UNCLOSED = 16
"""Maximum number of JSON objects that are never closed and are not calls; the text behind them is
not scanned, because each of them may be as long as the text."""


class CallFormat(StrEnum):
    """How a model family writes calls."""

    HERMES = "hermes"
    """A JSON object inside `<tool_call>`; also Qwen2.5 and Qwen3."""
    HERMES_OR_JSON = "hermes_or_json"
    """As `hermes`, and a bare JSON object that names an offered tool, also in a code fence:
    Qwen2.5-Coder, whose template is Hermes, writes its calls so."""
    LLAMA3_JSON = "llama3_json"
    """A bare JSON object, with or without `<|python_tag|>` before it. Without, it is a call only if
    it names an offered tool: any other JSON is an answer, which is text."""
    QWEN3_CODER = "qwen3_coder"
    """`<function=name>` with a `<parameter=key>` element for each argument."""
    MISTRAL = "mistral"
    """A JSON list after `[TOOL_CALLS]`; or, as Ministral 3, a name, `[ARGS]` and a JSON object."""


def parse_message(
    text: str, format: CallFormat, *, call_prefix: str, tools: Sequence[Tool] = ()
) -> Message:
    """Parse one assistant message.

    Args:
        text: what the policy sampled, with or without its end-of-turn mark.
        format: how the model writes calls.
        call_prefix: calls get the ids `<call_prefix>0`, `<call_prefix>1`, …, in order.
        tools: offered tools. Their schemas give the types of `qwen3_coder` values, which are bare
            text; their names tell calls from other JSON where calls need no mark. Without any, JSON
            with a name and parameters is a call.
    """
    text = _END_OF_TURN.sub("", text)
    schemas = {tool.name: tool.parameters for tool in tools}
    said: list[str] = []
    thought: list[str] = []
    calls: list[Call] = []
    # text[unsaid:at] is JSON that turned out not to be a call: content, but not scanned again.
    unsaid = at = unclosed = 0
    while unclosed < MAX_UNCLOSED and (mark := _OPENING[format].search(text, at)):
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
            case CallFormat.HERMES_OR_JSON if mark.group() == "<tool_call>":
                block = _read_hermes(text, mark)
            case CallFormat.HERMES_OR_JSON | CallFormat.LLAMA3_JSON:
                block = _read_bare(text, mark, after=_AFTER[format], offered=schemas.keys())
            case CallFormat.QWEN3_CODER:
                block = _read_coder(text, mark, schemas=schemas)
            case CallFormat.MISTRAL:
                block = _read_mistral(text, mark)
        if block.calls:
            _keep(said, text[unsaid : mark.start()])
            calls.extend(block.calls)
            unsaid = block.end
        elif block.end == mark.end():
            unclosed += 1
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
    """The result of reading the text at an opening mark."""

    end: int
    """Offset at which the scan continues."""
    calls: tuple[Call, ...]
    """Calls without ids; empty if the text is not a call after all."""


class _Unreadable(Exception):
    """A call cannot be read; the text is the first half of the sentence that the policy gets."""


_END_OF_TURN = re.compile(r"(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|<\|eom_id\|>)\s*+\Z")
_BARE = r"""(?:\[\s*+)?\{\s*+(?:"[^"\\\n]{0,80}+"|'[^'\\\n]{0,80}+')\s*+:"""
_OPENING = {
    CallFormat.HERMES: re.compile(r"<think>|<tool_call>"),
    CallFormat.HERMES_OR_JSON: re.compile(
        rf"<think>|<tool_call>|(?P<fence>```(?:json)?+\s*+)?{_BARE}"
    ),
    CallFormat.LLAMA3_JSON: re.compile(rf"<think>|<\|python_tag\|>|{_BARE}"),
    CallFormat.QWEN3_CODER: re.compile(r"<think>|<tool_call>|<function="),
    CallFormat.MISTRAL: re.compile(r"<think>|\[TOOL_CALLS\]"),
}
_AFTER = {
    CallFormat.HERMES_OR_JSON: re.compile(r"\s*+```(?!\w)"),
    CallFormat.LLAMA3_JSON: re.compile(r"\s*+;"),
}
_WRAPPER = re.compile(r"</?tool_call>")
_LIST = re.compile(r"\[TOOL_CALLS\]")
_NAMED_ARGS = re.compile(r"\s*+([^\s\[\]{}]++)\s*+\[ARGS\]")
_BARE_FUNCTION = re.compile(r"</function>|<function=|<tool_call>")
_FUNCTION = re.compile(r"<function=([^<>\n]*+)>")
_PARAMETER = re.compile(r"<parameter=([^<>\n]*+)>")
_VALUE_END = re.compile(r"</parameter>|<parameter=|<function=|<tool_call>")
_NOT_SPACE = re.compile(r"\S")

_HERMES_SHAPE = (
    '<tool_call>, one JSON object {"name": "<tool>", "arguments": {...}}, then </tool_call>'
)
_BARE_SHAPE = 'one JSON object {"name": "<tool>", "parameters": {...}}'
_MISTRAL_SHAPE = '[TOOL_CALLS] and a list of JSON objects {"name": "<tool>", "arguments": {...}}'
_ARGS_SHAPE = "[TOOL_CALLS], the name of the tool, [ARGS] and a JSON object of its arguments"
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


def _read_mistral(text: str, mark: re.Match[str]) -> _Block:
    read_to = mark.end()
    named = _NAMED_ARGS.match(text, read_to)
    shape = _ARGS_SHAPE if named else _MISTRAL_SHAPE
    try:
        value, read_to = _decode_json(text, _after_space(text, (named or mark).end()))
        value = {"name": named.group(1), "arguments": value} if named else value
        return _Block(end=read_to, calls=_as_calls(value, may_lack_arguments=True))
    except _Unreadable as error:
        return _bad_block(text, mark.end(), marks=_LIST, after=read_to, reason=f"{error}; {shape}")


def _read_bare(
    text: str, mark: re.Match[str], *, after: re.Pattern[str], offered: Collection[str]
) -> _Block:
    """Read JSON as a call if it is tagged or names an offered tool; any other is text.

    What `after` matches behind a call belongs to it.
    """
    tagged = mark.group() == "<|python_tag|>"
    fence = mark.groupdict().get("fence") or ""
    start = _after_space(text, mark.end()) if tagged else mark.start() + len(fence)
    end = _json_end(text, start)
    try:
        value, end = _decode_json(text, start)
        if not (tagged or is_call(value, offered)):
            return _Block(end=end, calls=())
        calls = _as_calls(value, may_lack_arguments=False)
    except _Unreadable as error:
        if not (tagged or is_broken_call(text, start, offered)):
            # A call may follow inside of what was never closed.
            return _Block(end=mark.end() if end < 0 else end, calls=())
        end = len(text) if end < 0 else end
        calls = (_bad(text[start:end], reason=f"{error}; {_BARE_SHAPE}"),)
    rest = after.match(text, end)
    return _Block(end=end if rest is None else rest.end(), calls=calls)


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
    root = schemas.get(name, {})
    arguments: dict[str, Any] = {}
    at = _after_space(text, function.end())
    while parameter := _PARAMETER.match(text, at):
        stop = _VALUE_END.search(text, parameter.end())
        if stop is None or stop.group() != "</parameter>":
            raise _Unreadable("a <parameter=KEY> is not closed before the next mark")
        if not (key := parameter.group(1).strip()):
            raise _Unreadable("a <parameter=KEY> has no key")
        value = text[parameter.end() : stop.start()].removeprefix("\n").removesuffix("\n")
        arguments[key] = _typed(value, types_of(property_of(root, key, root), root))
        at = _after_space(text, stop.end())
    if not text.startswith("</function>", at):
        raise _Unreadable("</function> is missing after the last parameter")
    return ToolCall(id="", name=name, arguments=arguments), at + len("</function>")


def _typed(text: str, types: frozenset[str] | None) -> Any:
    """Convert bare text to one of the types that its schema allows; if none fits, it stays text."""
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
    return text if isinstance(value, str) or type_of(value) not in (types or ()) else value


_WORDS = {"True": True, "False": False, "None": None}
"""Templates write these values as in Python; JSON's spellings are read by the decoder."""


def _after_space(text: str, at: int) -> int:
    found = _NOT_SPACE.search(text, at)
    return len(text) if found is None else found.start()


def _after_wrapper(text: str, at: int) -> int:
    """Return the end of a wrapped block; its closing mark may be missing at the end of the text."""
    at = _after_space(text, at)
    if at < len(text) and not text.startswith("</tool_call>", at):
        raise _Unreadable("there is more text between the call and </tool_call>")
    return min(at + len("</tool_call>"), len(text))


def _bad(text: str, *, reason: str) -> BadCall:
    return BadCall(id="", text=text, reason=f"This call cannot be read: {reason} is expected.")


def _bad_block(text: str, start: int, *, marks: re.Pattern[str], after: int, reason: str) -> _Block:
    """Return a block that cannot be read; it ends at the next mark, including a closing one."""
    mark = marks.search(text, after)
    inner = len(text) if mark is None else mark.start()
    closed = mark is not None and mark.group().startswith("</")
    end = mark.end() if mark is not None and closed else inner
    return _Block(end=end, calls=(_bad(text[start:inner], reason=reason),))


def _as_calls(value: Any, *, may_lack_arguments: bool) -> tuple[Call, ...]:
    """Read one call or a list of calls; a list is read completely or not at all."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise _Unreadable("the list is empty")
    return tuple(_as_call(item, may_lack_arguments=may_lack_arguments) for item in items)


def _as_call(item: Any, *, may_lack_arguments: bool) -> ToolCall:
    if not isinstance(item, dict):
        raise _Unreadable("a call in the list is not a JSON object")
    if isinstance(item.get("function"), dict):
        raise _Unreadable('"name" and the arguments are inside of "function"')
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


_JSON_STEP = re.compile(
    r'[^"\\<{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|([{\[])|([}\]]))', re.DOTALL
)
"""Matches up to and including the next string or bracket. `<` and backslashes are not allowed
outside strings, so of two attempts that start at different marks at most one can run to the end,
which keeps parsing linear for texts with many marks."""


def _json_end(text: str, start: int) -> int:
    """Return where the object or list at `start` ends, judging by brackets; -1 if it does not."""
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
    """Decode the object or list at `start`; return it and its end."""
    if not text.startswith(("{", "["), start):
        raise _Unreadable("no JSON object was found")
    end = _json_end(text, start)
    if end < 0:
        raise _Unreadable(f"the JSON is not closed or nests deeper than {MAX_DEPTH} levels")
    try:
        value = _DECODER.decode(text[start:end])
        # Half a surrogate pair decodes, but cannot be encoded as UTF-8 later.
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

"""Reading calls from anything at all: a million seeded inputs, and texts made to be slow."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from trustee.rendering.call_parser import CallFormat, parse_message
from trustee.types import BadCall, Message, Tool, ToolCall

COUNT = int(os.environ.get("TRUSTEE_FUZZ", "1000000"))
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "toolcall_parsers.jsonl"
TEXTS = [json.loads(line)["text"] for line in GOLDEN.read_text().splitlines()]
TOOL = Tool(
    name="f",
    description="",
    parameters={"properties": {"a": {"type": "integer"}, "b": {"type": ["array", "null"]}}},
)
TOKENS = [
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<|im_end|>", "<|python_tag|>"),
    *("<function=f>", "<function=", "</function>", "<parameter=a>", "<parameter=b>", "<parameter="),
    *(
        "</parameter>",
        '{"name": "f"',
        '{"name": "f", "arguments": {',
        '{"name": "f", "parameters":',
    ),
    *("[TOOL_CALLS]", "[TOOL_CALLS] ["),
    *('{"name": "f"}', '{"name":"f","parameters":{}}', '{"a": 1}', '"arguments": "{}"', "'name': "),
    *("{", "}", "[", "]", '"', "\\", '\\"', ",", ":", ";", " ", "\n", "}}", "[[[[", "]]", "null"),
    *("true", "NaN", "-Infinity", "1e999", "7" * 5000, "0", "-1", "\\ud800", "\\u00e9", "\x00"),
    *("東京", "🙂", "\u2028", "text", "<", ">", "/", "="),
]
FORMATS = tuple(CallFormat)
OPENING = {
    CallFormat.HERMES: ("<tool_call>",),
    CallFormat.HERMES_OR_JSON: ("<tool_call>",),
    CallFormat.LLAMA3_JSON: ("<|python_tag|>",),
    CallFormat.QWEN3_CODER: ("<tool_call>", "<function="),
    CallFormat.MISTRAL: ("[TOOL_CALLS]",),
}
UNMARKED = (CallFormat.HERMES_OR_JSON, CallFormat.LLAMA3_JSON)
"""Formats that read JSON without a mark."""


def inputs(count: int) -> Iterator[str]:
    """Give soups of tokens and golden texts with a piece replaced, half of each."""
    rng = random.Random(20260101)
    for _ in range(count // 8):
        soup = rng.choices(TOKENS, k=8)
        for length in (1, 3, 5, 8):
            yield "".join(soup[:length])
        text = rng.choice(TEXTS)
        start = int(rng.random() * (len(text) + 1))
        end = start + int(rng.random() * 12)
        yield text[:start] + text[end:]
        yield text[:start] + soup[0] + text[start:]
        yield text[:start] + soup[1] + text[end:]
        yield text[start:] + soup[2] + text


@pytest.mark.slow
def test_anything_is_read() -> None:
    """No input raises, calls are numbered and whole, and an opening mark is never overlooked."""
    store = msgspec.json.Encoder()
    restore = msgspec.json.Decoder(Message)
    calls = bad_calls = read = 0
    for read, text in enumerate(inputs(COUNT), start=1):
        format = FORMATS[read % len(FORMATS)]
        message = parse_message(text, format, call_prefix="c", tools=(TOOL,))
        for i, call in enumerate(message.calls):
            assert call.id == f"c{i}"
            if isinstance(call, BadCall):
                bad_calls += 1
                assert call.text in text
                assert call.reason.startswith("This call cannot be read: ")
            else:
                calls += 1
                assert call.name
                assert isinstance(call.arguments, dict)
        # A thought hides marks, and so does a string in bare JSON that is no call.
        hidden = "<think>" in text or (format in UNMARKED and "{" in text)
        if not message.calls and not hidden:
            assert not any(mark in text for mark in OPENING[format])
        if read % 16 == 0:
            assert restore.decode(store.encode(message)) == message
    assert read == COUNT // 8 * 8
    assert min(calls, bad_calls) > read // 20


SLOW = {
    "opening marks": "<tool_call>",
    "opening words": "[TOOL_CALLS]",
    "closing marks": "</tool_call>",
    "open objects": "<tool_call>{",
    "open lists": "<tool_call>[",
    "open strings": '<tool_call>{"a',
    "strings over blocks": '<tool_call>["",","',
    "odd quotes": '<tool_call>["a","',
    "escaped quotes": '<tool_call>["\\"',
    "broken objects": '<tool_call>{"name": }</tool_call>',
    "calls": '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>',
    "thoughts": "<think></think>",
    "open thoughts": "<think>",
    "brackets": "[",
    "bare objects": '{"name":',
    "bare lists": '[{"name":[',
    "bare data": '{"name":1},',
    "bare calls": '{"name":"f","parameters":{}};',
    "bare strings": '{"name":"',
    "fences": "```json\n",
    "fenced calls": '```json\n{"name":"f","parameters":{}}\n```\n',
    "tags": "<|python_tag|>",
    "functions": "<function=f>",
    "unnamed functions": "<function=",
    "parameters": "<function=f><parameter=a>",
    "many parameters": "<parameter=a>1</parameter>",
    "wrapped parameters": "<tool_call><function=f><parameter=a></tool_call>",
    "blanks": "{          ",
    "end marks": "<|im_end|> \n",
    "digits": "7",
    "quotes": '"',
    "backslashes": "\\",
}
STARTS = (
    "",
    "<tool_call>",
    "[TOOL_CALLS]",
    '<tool_call>{"name": "f", "arguments": {"a": ',
    "<function=f>",
)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", SLOW)
def test_time_is_linear(format: CallFormat, kind: str) -> None:
    """Four times the text takes less than eight times as long, in the best of three trials."""
    for start in STARTS:
        short, long = (
            (start + SLOW[kind] * (size // len(SLOW[kind]) + 1))[:size]
            for size in (50_000, 200_000)
        )
        assert any(grows_linearly(short, long, format=format) for _ in range(3))


def grows_linearly(short: str, long: str, *, format: CallFormat) -> bool:
    """Compare the seconds of two readings; below 20 ms a ratio says nothing."""
    return seconds(long, format) < max(8 * seconds(short, format), 0.02)


def seconds(text: str, format: CallFormat) -> float:
    """Time one reading."""
    started_at = time.process_time()
    message = parse_message(text, format, call_prefix="", tools=(TOOL,))
    taken = time.process_time() - started_at
    assert all(isinstance(call, ToolCall | BadCall) for call in message.calls)
    return taken

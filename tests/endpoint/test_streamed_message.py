"""A message told while it is written: whatever the pieces, it adds up to what the parser reads."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustee.endpoint.streamed_message import Delta, StreamedMessage, content_of, read_plain
from trustee.endpoint.streamed_text import StreamedText, cut_at_stops, hold_back
from trustee.engine.scripted import ByteTokenizer
from trustee.rendering.call_parser import CallFormat, parse_message
from trustee.types import Message, Tool, ToolCall

TOOL = Tool(name="find", description="", parameters={"type": "object"})
PARTS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<function=find>", "</function>"),
    *("<parameter=a>", "</parameter>", "[TOOL_CALLS]", "<|python_tag|>", "<|im_end|>", "```"),
    '{"name": "find", "arguments": {"a": "x"}}',
    '{"name": "find", "parameters": {"a": "</tool_call>"}}',
    '<tool_call>{"name": "find", "arguments": {}}</tool_call>',
    *("\n", " ", "word", '"', "{", "}", "[", "é", "<tool", "_call>"),
)
pieces = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=3)), max_size=12)


def add_up(deltas: list[Delta]) -> Message:
    """Return the message that a client puts together."""
    return Message(
        role="assistant",
        content="".join(delta.content for delta in deltas),
        thinking="".join(delta.thinking for delta in deltas),
        calls=tuple(delta.call for delta in deltas if delta.call),
    )


@pytest.mark.parametrize("format", [None, *CallFormat])
@given(parts=pieces)
def test_deltas_add_up(format: CallFormat | None, parts: list[str]) -> None:
    """Told piece by piece or at once, in any format: the same message, nothing twice."""
    text = "".join(parts)
    streamed = StreamedMessage(format, call_prefix="c", tools=[TOOL])
    deltas = [delta for grown in accumulate(parts) for delta in streamed.grow(grown)]
    whole, rest = streamed.end(text)
    expected = (
        read_plain(text)
        if format is None
        else parse_message(text, format, call_prefix="c", tools=[TOOL])
    )
    assert expected == whole
    told = add_up([*deltas, *rest])
    assert content_of(expected) == told.content
    assert expected.thinking == told.thinking
    assert [call for call in expected.calls if isinstance(call, ToolCall)] == list(told.calls)


def test_text_is_told_at_once() -> None:
    """Plain text does not wait; what may become a mark does."""
    streamed = StreamedMessage(CallFormat.HERMES, call_prefix="c", tools=[TOOL])
    assert (Delta(content="It is"),) == streamed.grow("It is ")
    assert (Delta(content=" there"),) == streamed.grow("It is there <tool_")


def test_closed_call_is_told_before_the_next() -> None:
    """Each of several calls comes as soon as it is closed."""
    one = '<tool_call>{"name": "find", "arguments": {"n": 1}}</tool_call>'
    streamed = StreamedMessage(CallFormat.HERMES, call_prefix="c", tools=[TOOL])
    assert () == streamed.grow(one[:-3])
    (delta,) = streamed.grow(one)
    assert ToolCall(id="c0", name="find", arguments={"n": 1}) == delta.call
    (second,) = streamed.grow(f"{one}\n{one}")
    assert second.call is not None
    assert "c1" == second.call.id


def test_thought_is_told_apart() -> None:
    """What is thought is no content."""
    streamed = StreamedMessage(CallFormat.HERMES, call_prefix="c", tools=[])
    assert (Delta(thinking="hm"),) == streamed.grow("<think>hm</th")
    assert (Delta(content="yes"),) == streamed.grow("<think>hm</think>\n\nyes")


@given(st.text(), st.lists(st.integers(min_value=1, max_value=4), max_size=20))
def test_text_of_bytes_is_never_broken(text: str, sizes: list[int]) -> None:
    """A letter of several bytes waits until it is whole, and the text is the decoder's."""
    ids = list(text.encode())
    streamed = StreamedText(ByteTokenizer().decode)
    at, last = 0, ""
    for size in [*sizes, len(ids)]:
        last = streamed.add(ids[at : at + size])
        at += size
        assert text.startswith(last)
    if not text.endswith("\ufffd"):
        assert text == last


def test_stops() -> None:
    """A text ends before the first of several stops, and a half one is held back."""
    assert ("one ", True) == cut_at_stops("one two three", ["three", "two"])
    assert ("one", False) == cut_at_stops("one", ["x"])
    assert 3 == hold_back("oneST", ["STOP"])
    assert 5 == hold_back("oneSX", ["STOP"])

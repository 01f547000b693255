"""Demonstrations that contradict themselves: which are mended, which refused, in what words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustee.errors import InputError
from trustee.sft.consistency import mend_demonstration
from trustee.sft.demonstrations import Demonstration
from trustee.types import BadCall, Message, Tool, ToolCall

TOOLS = tuple(
    Tool(
        name=name,
        description="",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    )
    for name in ("rain", "wind")
)
ASKED = Message(role="user", content="?")
SAID = Message(role="assistant", content="!")


def call(id: str = "1", name: str = "rain", **arguments: Any) -> ToolCall:
    """Make a call."""
    return ToolCall(id=id, name=name, arguments={"city": "Oslo"} | arguments)


def calls(*made: ToolCall | BadCall) -> Message:
    """Make the assistant's message with calls."""
    return Message(role="assistant", calls=made)


def result(id: str, content: str = "4") -> Message:
    """Make a result."""
    return Message(role="tool", content=content, call_id=id)


def mend(*messages: Message, shown_only: tuple[int, ...] = ()) -> tuple[Demonstration, list[str]]:
    """Mend a conversation."""
    return mend_demonstration(
        Demonstration(task_id="t", tools=TOOLS, messages=messages, shown_only=shown_only)
    )


def results_of(shown: Demonstration) -> list[tuple[str, str]]:
    """Give the call id and the content of every result."""
    return [(m.call_id, m.content) for m in shown.messages if m.role == "tool"]


def test_what_agrees_stays() -> None:
    """Nothing is changed and nothing is said."""
    messages = (ASKED, calls(call("1"), call("2")), result("1"), result("2"), SAID)
    shown, changes = mend(*messages)
    assert messages == shown.messages
    assert [] == changes


@given(st.permutations(range(4)))
def test_results_follow_their_calls(order: list[int]) -> None:
    """In whatever order results come, each stands where its call does."""
    made = calls(*(call(str(n)) for n in range(4)))
    shown, changes = mend(ASKED, made, *(result(str(n), f"is {n}") for n in order), SAID)
    assert [(str(n), f"is {n}") for n in range(4)] == results_of(shown)
    told = ["assistant message 0: its results were put in the order of its calls"]
    assert changes == ([] if order == sorted(order) else told)


def test_results_without_ids() -> None:
    """They belong to the tool that they name, or to the next call without a result."""
    made = calls(call("", "rain"), call("", "wind"), call("x", "rain"))
    shown, changes = mend(
        ASKED, made, result("", "first"), result("wind", "windy"), result("x", "last"), SAID
    )
    assert [("call_0", "first"), ("call_1", "windy"), ("x", "last")] == results_of(shown)
    assert [] == changes


def test_results_that_are_named_go_first() -> None:
    """A result without a name does not take the place of one that has it."""
    made = calls(call("1"), call("2"))
    shown, _ = mend(ASKED, made, result("", "second"), result("1", "first"), SAID)
    assert [("1", "first"), ("2", "second")] == results_of(shown)


def test_calls_with_one_id() -> None:
    """Calls that share an id are numbered, and their results taken in order."""
    made = calls(call("1", "rain"), call("1", "wind"))
    shown, changes = mend(ASKED, made, result("1", "a"), result("1", "b"), SAID)
    assert [("call_0", "a"), ("call_1", "b")] == results_of(shown)
    assert ["assistant message 0: its calls share an id and were numbered"] == changes


def test_nulls_of_a_table_are_left_out() -> None:
    """An argument that may be missing and not null is missing."""
    shown, changes = mend(ASKED, calls(call(days=None)), result("1"), SAID)
    assert (call(),) == shown.messages[1].calls
    assert ["assistant message 0: null arguments of rain were left out"] == changes


@pytest.mark.parametrize(
    "wrong", [call(days="many"), call(name="fly"), ToolCall(id="1", name="rain", arguments={})]
)
def test_a_wrong_call_needs_an_error(wrong: ToolCall) -> None:
    """From a call that an error answers one learns to correct it; any other is an example."""
    corrected = (result("1", '{"error": "no"}'), calls(call()), result("1"), SAID)
    shown, _ = mend(ASKED, calls(wrong), *corrected)
    assert wrong in shown.messages[1].calls
    with pytest.raises(InputError, match="assistant message 0"):
        mend(ASKED, calls(wrong), result("1"), SAID)
    shown, _ = mend(ASKED, calls(wrong), result("1"), SAID, shown_only=(1,))
    assert (1,) == shown.shown_only


def test_results_may_be_missing_at_the_end() -> None:
    """A conversation may end with calls."""
    shown, _ = mend(ASKED, calls(call("1"), call("2")))
    assert 2 == len(shown.messages)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ((ASKED, result("1"), SAID), "message 1 is a result, and no call stands before it"),
        ((ASKED, SAID, result("1")), "message 0: results follow it, and it has no call"),
        ((ASKED, calls(call()), SAID), r"message 0: its call 1 \(rain\) has no result"),
        ((ASKED, calls(call()), ASKED, result("1"), SAID), "has no result"),
        (
            (ASKED, calls(call()), result("2"), SAID),
            r"message 0: a result is for '2'; its calls are 1 \(rain\)",
        ),
        ((ASKED, calls(call()), result("1"), result("1"), SAID), "its call 1 has two results"),
        ((ASKED, calls(call("")), result(""), result(""), SAID), "more results than its calls"),
        (
            (ASKED, calls(call(name="fly")), result("1"), SAID),
            r"message 0 calls 'fly', which is not among the tools of the row \(rain, wind\)",
        ),
        (
            (ASKED, calls(call(days="many")), result("1"), SAID),
            'message 0: rain: "days" must be an integer, got "many", and no error answers the call',
        ),
        ((ASKED, SAID, ASKED, Message(role="assistant")), "message 1 says nothing and calls no"),
        (
            (ASKED, calls(BadCall(id="b", text="{", reason="x")), SAID),
            r"its call b \(that could not be read\) has no result",
        ),
    ],
)
def test_contradictions(messages: tuple[Message, ...], reason: str) -> None:
    """What cannot be mended is refused, by message and call."""
    with pytest.raises(InputError, match=reason):
        mend(*messages)

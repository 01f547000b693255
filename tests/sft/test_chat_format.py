"""OpenAI's form of a chat, in all the ways in which servers write it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustee.errors import EngineError
from trustee.sft.chat_format import as_message, as_openai, read_completion
from trustee.types import BadCall, Message, ToolCall


def answer(**message: Any) -> Message:
    """Read a completion with one message."""
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "id": 1, "usage": None}
    return as_message(read_completion(json.dumps(body).encode()))


def calling(arguments: Any) -> Message:
    """Read a completion with one call."""
    function = {"name": "f", "arguments": arguments}
    return answer(content=None, tool_calls=[{"id": "x", "function": function}])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        (" ", {}),
        (None, {}),
        ("null", {}),
        ("{}", {}),
        ({"a": 1}, {"a": 1}),
        ('{"a": 1}', {"a": 1}),
        (json.dumps('{"a": 1}'), {"a": 1}),
    ],
)
def test_arguments_may_be_an_object_its_text_or_missing(
    arguments: Any, expected: dict[str, Any]
) -> None:
    """What is meant is the same."""
    assert (ToolCall(id="0", name="f", arguments=expected),) == calling(arguments).calls


@pytest.mark.parametrize(
    "arguments", ["[1]", "{", "7", "[" * 5000, '{"a":' * 600 + "1" + "}" * 600]
)
def test_other_arguments_spoil_the_episode(arguments: str) -> None:
    """Also those that nest too deeply."""
    with pytest.raises(EngineError, match="the arguments of f are not a JSON object") as caught:
        calling(arguments)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ""),
        ("", ""),
        (" so ", "so"),
        ("<think>hm</think>\n\nso", "so"),
        ("hm\n</think>\nso", "so"),
        ("<think></think>so <think>\nhm</think>", "so"),
        ([], ""),
        (["so"], "so"),
        ([{"type": "text", "text": "s"}, {"type": "text", "text": "o"}], "so"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, "so"], "so"),
        ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "so"}], "so"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
    ],
)
def test_content_is_text_in_many_forms(content: Any, expected: str) -> None:
    """Thoughts are left out, wherever they stand."""
    message = answer(content=content, reasoning_content="hm", reasoning={"a": 1})
    assert (expected, "") == (message.content, message.thinking)
    assert "" == answer().content


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("<think>and then", "ends within a thought"),
        ([{"type": "image_url", "image_url": "x"}], "part of type 'image_url'"),
        ([{"text": 5}], "part of type 'None'"),
        (7, "is not a chat completion"),
    ],
)
def test_content_of_no_use(content: Any, why: str) -> None:
    """A part that is no text cannot be imitated."""
    with pytest.raises(EngineError, match=why):
        answer(content=content)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{}", "is not a chat completion"),
        (b'{"choices": []}', "it has no choices"),
        (b"\xff", "is not a chat completion"),
        (b"[" * 100_000, "is not a chat completion"),
        (b'{"choices": [{"message": {}, "finish_reason": "length"}]}', "cut off"),
        (b'{"choices": [{"message": {}, "finish_reason": "content_filter"}]}', "held back"),
    ],
)
def test_what_is_no_completion(body: bytes, why: str) -> None:
    """The error is short, whatever came."""
    with pytest.raises(EngineError, match=why) as caught:
        read_completion(body)
    assert len(str(caught.value)) < 2000


def test_a_conversation_is_written_for_the_strictest_server() -> None:
    """Ids have nine letters and digits; what could not be read is text."""
    conversation = [
        Message(role="user", content="?"),
        Message(
            role="assistant",
            content="",
            calls=(
                ToolCall(id="0/0/0/0", name="f", arguments={"a": "ü"}),
                ToolCall(id="0/0/0/1", name="g", arguments={}),
            ),
        ),
        Message(role="tool", content="1", call_id="0/0/0/0"),
        Message(role="tool", content="2", call_id="0/0/0/1"),
        Message(
            role="assistant", content="hm", calls=(BadCall(id="0/0/1/0", text="{", reason="no"),)
        ),
        Message(role="tool", content="not JSON", call_id="0/0/1/0"),
    ]
    asked, called, first, second, broken, reply = as_openai(conversation)
    assert {"role": "user", "content": "?"} == asked
    assert None is called["content"]
    assert ["call00000", "call00001"] == [call["id"] for call in called["tool_calls"]]
    assert {"a": "ü"} == json.loads(called["tool_calls"][0]["function"]["arguments"])
    assert ["call00000", "call00001"] == [first["tool_call_id"], second["tool_call_id"]]
    assert {"role": "assistant", "content": "hm\n{"} == broken
    assert {"role": "user", "content": "not JSON"} == reply

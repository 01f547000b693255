"""Demonstrations in other people's forms: what is converted is what would have been written."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_forms import (
    EVERY,
    HERMES_LEFT,
    PROMPTED,
    as_apigen,
    as_hermes,
    as_legacy,
    as_openai,
    as_toolace,
)
from trustee.engine.model_files import TINY
from trustee.engine.scripted import scripted_renderer
from trustee.errors import InputError
from trustee.rendering.renderer import Renderer
from trustee.sft.demonstration_files import read_example
from trustee.sft.demonstrations import Demonstration
from trustee.sft.samples import render_demonstration
from trustee.tiny.lessons import FAULTLESS, teach
from trustee.types import Message, Tool, ToolCall

Write = Callable[[Demonstration], dict[str, Any]]
TOOLS = tuple(
    Tool(
        name=name,
        description=f"does {name}",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "number"}, "rest": {}},
            "required": ["city"],
        },
    )
    for name in ("get_weather", "Find a train.now", "from")
)
SYSTEM = Message(role="system", content=HERMES_LEFT)


def ids(shown: Any) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Render a demonstration for the scripted engine: ids, and which of them are learnt."""
    assert isinstance(shown, Demonstration)
    sample = render_demonstration(shown, scripted_renderer())
    return sample.ids, sample.mask


def read(row: dict[str, Any]) -> Demonstration:
    """Read a row that needs no mending of its calls."""
    example, _ = read_example(row)
    assert isinstance(example, Demonstration)
    return example


letters = st.characters(codec="utf-8", exclude_characters="<[")
texts = st.text(letters, min_size=1, max_size=12).map(str.strip).filter(bool)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**20) | st.floats(-1e9, 1e9) | st.text(letters),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(letters, max_size=3), inner)
    ),
    max_leaves=4,
)


@st.composite
def demonstrations(draw: st.DrawFn, *, most_calls: int = 3) -> Demonstration:
    """Draw a conversation: some exchanges with calls and their results, then an answer."""
    messages = [Message(role="user", content=draw(texts))]
    for turn in range(draw(st.integers(0, 2))):
        calls = tuple(
            ToolCall(
                id=f"{turn}-{number}",
                name=draw(st.sampled_from(TOOLS)).name,
                arguments={"city": draw(texts), "rest": draw(values)},
            )
            for number in range(draw(st.integers(1, most_calls)))
        )
        results = [Message(role="tool", content=draw(texts), call_id=call.id) for call in calls]
        messages += [Message(role="assistant", calls=calls), *results]
        messages += [Message(role="user", content=draw(texts))] if draw(st.booleans()) else []
    messages.append(Message(role="assistant", content=draw(texts)))
    return Demonstration(task_id="t", tools=TOOLS, messages=tuple(messages))


@pytest.mark.parametrize("write", EVERY)
@settings(max_examples=60)
@given(shown=demonstrations())
def test_every_demonstration_survives(write: Write, shown: Demonstration) -> None:
    """The same ids are trained on, whether a conversation came as it is or in another's form."""
    assert ids(shown) == ids(read(write(shown)))


@pytest.mark.parametrize("write", PROMPTED)
@settings(max_examples=60)
@given(shown=demonstrations())
def test_forms_with_a_prompt_of_their_own_survive(write: Write, shown: Demonstration) -> None:
    """What the system prompt says of tools and calls is the chat template's to say."""
    if write is as_apigen and any(sum(1 for _ in m.calls) > 1 for m in shown.messages):
        # All results of a message stand in turns of their own.
        assert "function_call" in json.dumps(write(shown))
    expected = msgspec.structs.replace(shown, messages=(SYSTEM, *shown.messages))
    assert ids(expected) == ids(read(write(shown)))


@settings(max_examples=60)
@given(shown=demonstrations(most_calls=1))
def test_the_older_form_survives(shown: Demonstration) -> None:
    """One call a message, and results that name the function."""
    assert ids(shown) == ids(read(as_legacy(shown)))


@settings(max_examples=60)
@given(shown=demonstrations(most_calls=1))
def test_calls_as_in_python_survive(shown: Demonstration) -> None:
    """Names with spaces, words of Python as names, and values in JSON's words."""
    expected = msgspec.structs.replace(shown, messages=(SYSTEM, *shown.messages))
    assert ids(expected) == ids(read(as_toolace(shown)))


@settings(max_examples=40)
@given(shown=demonstrations())
def test_prompt_and_completion(shown: Demonstration) -> None:
    """The same conversation is rendered; only the completion's messages are learnt."""
    row = as_openai(shown)
    messages = row.pop("messages")
    cut = read({**row, "prompt": messages[:-1], "completion": messages[-1:]})
    whole, part = ids(shown), ids(cut)
    assert whole[0] == part[0]
    answer = shown.messages[-1].content
    learnt = [one for one, own in zip(*part, strict=True) if own]
    assert f"{answer}<|im_end|>" == scripted_renderer().decode(learnt)


def test_lessons_survive_every_form() -> None:
    """The built-in model is taught the same ids, whatever form its lessons come in."""
    renderer = Renderer.load(TINY)
    rng = random.Random(5)
    for _ in range(10):
        lesson = teach(rng, habits=FAULTLESS)[-1]
        shown = Demonstration(task_id="t", tools=lesson.tools, messages=lesson.messages)
        expected = render_demonstration(shown, renderer)
        for write in EVERY:
            sample = render_demonstration(read(write(shown)), renderer)
            assert (expected.ids, expected.mask) == (sample.ids, sample.mask)


def chat(*messages: dict[str, Any], **columns: Any) -> dict[str, Any]:
    """Make a row of messages, with the tools."""
    return {"messages": list(messages), "tools": [tool.schema for tool in TOOLS], **columns}


ASKED = {"role": "user", "content": "Oslo?"}
SAID = {"role": "assistant", "content": "Cold."}


def test_weights_choose_what_is_learnt() -> None:
    """A message of weight 0 is read and not imitated, however wrong it is."""
    wrong = {"function": {"name": "nothing", "arguments": "{}"}}
    row = chat(
        ASKED,
        {"role": "assistant", "content": "Hot.", "weight": 0},
        ASKED,
        {"role": "assistant", "tool_calls": [wrong], "weight": 0},
        {"role": "tool", "content": "3"},
        {**SAID, "weight": 1},
    )
    sample = render_demonstration(read(row), scripted_renderer())
    learnt = [one for one, own in zip(sample.ids, sample.mask, strict=True) if own]
    assert "Cold.<|im_end|>" == scripted_renderer().decode(learnt)
    assert "Hot." in scripted_renderer().decode(sample.ids)
    nothing = chat(ASKED, {**SAID, "weight": 0})
    with pytest.raises(InputError, match="nothing is left to imitate"):
        render_demonstration(read(nothing), scripted_renderer())


def test_roles_parts_and_names() -> None:
    """A developer is the system, parts of text are one text, keys nobody knows are passed over."""
    row = chat(
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"text": "brief."}]},
        {**ASKED, "name": "ines"},
        {
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Cold."}],
            "refusal": None,
        },
    )
    assert [("system", "Be brief."), ("user", "Oslo?"), ("assistant", "Cold.")] == [
        (message.role, message.content) for message in read(row).messages
    ]


def test_thoughts_and_calls_in_the_text() -> None:
    """Marks of Hermes and of Qwen's coder inside a content are thoughts and calls."""
    spoken = '<think>\nhm\n</think>\nLet me.\n<tool_call>{"name": "get_weather", "arguments": %s}'
    row = chat(
        ASKED,
        {"role": "assistant", "content": spoken % '{"city": "Oslo"}' + "</tool_call>"},
        {"role": "user", "content": "<tool_response>\n4\n</tool_response>"},
        {
            "role": "assistant",
            "content": "<function=get_weather><parameter=city>Rome</parameter></function>",
        },
    )
    _, first, result, second = read(row).messages
    assert ("Let me.", "hm") == (first.content, first.thinking)
    assert ("tool", "4", first.calls[0].id) == (result.role, result.content, result.call_id)
    assert [{"city": "Oslo"}, {"city": "Rome"}] == [
        call.arguments
        for message in (first, second)
        for call in message.calls
        if isinstance(call, ToolCall)
    ]


def test_calls_in_pythons_words() -> None:
    """Some files hold Python's dictionaries between the marks."""
    value = (
        "<tool_call>\n{'name': 'get_weather', 'arguments': {'city': \"l'Aquila\"}}\n</tool_call>"
    )
    row = {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": value}]}
    call = read({**row, "tools": chat()["tools"]}).messages[-1].calls[0]
    assert isinstance(call, ToolCall)
    assert {"city": "l'Aquila"} == call.arguments


def test_xlam() -> None:
    """A query and its calls; tables of parameters become schemas."""
    tool = {
        "name": "live_giveaways",
        "description": "giveaways",
        "parameters": {
            "type": {"description": "kind", "type": "str", "default": "game"},
            "ids": {"description": "ids", "type": "List[int]"},
            "share": {"description": "share", "type": "float, optional"},
        },
    }
    calls = [{"name": "live_giveaways", "arguments": {"type": "beta", "ids": [n]}} for n in (1, 2)]
    row = {"id": 7, "query": "Which?", "tools": json.dumps([tool]), "answers": json.dumps(calls)}
    shown = read(row)
    assert {
        "type": "object",
        "properties": {
            "type": {"description": "kind", "type": "string", "default": "game"},
            "ids": {"description": "ids", "type": "array", "items": {"type": "integer"}},
            "share": {"description": "share", "type": "number"},
        },
        "required": ["ids"],
    } == shown.tools[0].parameters
    assert calls == [
        {"name": call.name, "arguments": call.arguments}
        for call in shown.messages[-1].calls
        if isinstance(call, ToolCall)
    ]


def test_what_a_prompt_says_besides_stays() -> None:
    """Only the list and the sentences about the form of calls are the template's."""
    hermes = as_hermes(Demonstration(task_id="t", tools=TOOLS, messages=()))
    listed = hermes["conversations"][0]["value"]
    row = {
        "conversations": [
            {"from": "system", "value": f"You work for Ines.\n\n{listed}\n\nIt is Monday."},
            {"from": "human", "value": "?"},
            {"from": "gpt", "value": "!"},
        ]
    }
    example, changes = read_example(row)
    assert isinstance(example, Demonstration)
    assert f"You work for Ines.\n\n{HERMES_LEFT}\n\nIt is Monday." == example.messages[0].content
    assert TOOLS == example.tools
    assert [
        "the list of tools in the system prompt is left to the model's chat template"
    ] == changes


def test_results_of_a_message_in_one_list() -> None:
    """ToolACE gives the results of parallel calls as one list with names."""
    row = as_toolace(Demonstration(task_id="t", tools=TOOLS, messages=()))
    found = [{"name": "from", "results": 2}, {"name": "get_weather", "results": 1}]
    row["conversations"] = [
        {"from": "user", "value": "?"},
        {"from": "assistant", "value": '[get_weather(city="Oslo"), from(city="Rome")]'},
        {"from": "tool", "value": json.dumps(found)},
        {"from": "assistant", "value": "!"},
    ]
    example, changes = read_example(row)
    assert isinstance(example, Demonstration)
    assert ['{"name":"get_weather","results":1}', '{"name":"from","results":2}'] == [
        message.content for message in example.messages if message.role == "tool"
    ]
    assert "assistant message 0: its results were put in the order of its calls" in changes


def test_rows_of_one_task_share_its_id() -> None:
    """Rows with the same beginning are held out together, whatever is said later."""
    first, second = read(chat(ASKED, SAID)), read(chat(ASKED, {**SAID, "content": "Mild."}))
    other = read(chat({**ASKED, "content": "Rome?"}, SAID))
    assert first.task_id == second.task_id != other.task_id
    assert "7" == read(chat(ASKED, SAID, task_id=7)).task_id


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "x", "meta": 1}, "its keys are meta, text; a demonstration has messages, conv"),
        ({}, "its keys are none"),
        ({"messages": 3}, "messages must be a list, got 3"),
        ({"messages": "[", "tools": []}, r"messages: not JSON"),
        (chat({"role": "robot", "content": ""}), r"messages\[0\]: not a chat message \(role must"),
        ({"messages": [3]}, r"messages\[0\]: not a chat message \(a JSON object is needed, got 3"),
        (chat({**ASKED, "content": [{"type": "image_url"}]}), "parts of type text"),
        (chat(ASKED, {**SAID, "weight": 0.5}), "weight must be 0 or 1"),
        (chat(ASKED, {"role": "assistant", "tool_calls": [{}]}), "a call needs function.name"),
        (
            chat(ASKED, {"role": "assistant", "function_call": {"name": "x", "arguments": "[1]"}}),
            "the arguments of x must be an object",
        ),
        (
            chat(ASKED, {"role": "assistant", "function_call": {"name": "x", "arguments": "{"}}),
            "the arguments of x are not JSON",
        ),
        (chat(ASKED, SAID, images=["a.png"]), "it has images, and only text"),
        ({**chat(ASKED, SAID), "tools": "{"}, "tools: not JSON"),
        ({**chat(ASKED, SAID), "tools": [3]}, "3 is not a function schema"),
        ({**chat(ASKED, SAID), "tools": chat()["tools"][:1] * 2}, "get_weather twice"),
        ({"conversations": [{"from": "ghost", "value": "x"}]}, r"messages\[0\]: from must be"),
        ({"conversations": [{"from": "function_call", "value": "x"}]}, "not JSON"),
        ({"query": "?", "tools": "[]", "answers": "[]"}, "answers holds no call"),
        ({"query": 3, "tools": "[]", "answers": "[]"}, "query must be a text"),
        ({"prompt": [], "completion": "x"}, "prompt is empty"),
        (
            chat(ASKED, {**SAID, "content": '[get_weather(city="x"), fly(1)]'}),
            "is not a call of a declared tool",
        ),
        (chat(ASKED, {**SAID, "content": "[get_weather(city=f(1))]"}), "cannot be read"),
        (chat(ASKED, {**SAID, "content": "[get_weather(city=1e999)]"}), "cannot be read"),
        (chat(ASKED, {**SAID, "content": "<tool_call>{x}</tool_call>"}), "cannot be read"),
    ],
)
def test_rows_that_cannot_be_read(row: dict[str, Any], reason: str) -> None:
    """The place and what is wrong with it are named."""
    with pytest.raises(InputError, match=reason):
        read(row)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("role", "content", "from", "value", "name", "function", "tool_calls")),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
COLUMNS = (
    *("messages", "conversations", "tools", "functions", "system", "prompt", "completion"),
    *("query", "answers", "task_id", "weight", "shown_only"),
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(COLUMNS), json_values, min_size=1, max_size=4))
def test_any_row_is_read_or_refused(row: dict[str, Any]) -> None:
    """Whatever stands in the columns, the only error is one that tells the user."""
    try:
        reason = str(len(read(row).messages))
    except InputError as error:
        reason = str(error)
    assert reason

"""Published rows: what is read from them, and what is wrong with broken ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blueprints import make_blueprint, make_row
from trustee.environments.executable.blueprint import TurnState
from trustee.environments.executable.published_rows import (
    ROW_KEYS,
    is_published,
    read_published_row,
)
from trustee.errors import InputError
from trustee.types import Message, ToolCall

GOOD = make_blueprint()
PROMPT = f"Use tools.\nQuestion: {GOOD.question}"


def test_row_is_read_as_environment_and_state() -> None:
    """Question, tools, sources and what is owed come from the row; the prompt is kept as it was."""
    blueprint, state = read_published_row(make_row(GOOD), source="file:1")
    assert (GOOD.question, GOOD.scenario, GOOD.sources, GOOD.unsolved, GOOD.answer) == (
        blueprint.question,
        blueprint.scenario,
        blueprint.sources,
        blueprint.unsolved,
        blueprint.answer,
    )
    assert [tool.schema for tool in GOOD.tools] == [tool.schema for tool in blueprint.tools]
    assert {"prompt": PROMPT, "row": "file:1", "split": "train"} == blueprint.provenance
    assert state == TurnState(
        blueprint=blueprint.id,
        messages=(Message(role="user", content=PROMPT),),
        unsolved=GOOD.unsolved,
        solve_rate=0.0,
    )


def test_id_depends_on_question_and_sources_alone() -> None:
    """Rows of one environment share an id, others have another."""
    first = read_published_row(make_row(GOOD), source="a")[0].id
    later = make_row(GOOD, unsolved_set="{}", solve_rate=1.0)
    later["messages"] = [*later["messages"], {"role": "assistant", "content": "ok"}]
    assert first == read_published_row(later, source="b")[0].id
    assert first != read_published_row(make_row(make_blueprint(1)), source="a")[0].id
    assert first.startswith("multi_hop-")


def test_values_may_stand_as_json() -> None:
    """Whoever has parsed the texts already need not write them again."""
    row = make_row(GOOD)
    parsed = {key: json.loads(row[key]) for key in ("tools", "codes", "unsolved_set")}
    assert read_published_row(row, source="a") == read_published_row(row | parsed, source="a")


def test_messages_with_calls() -> None:
    """Calls, whose arguments may be texts, and their results are read."""
    row = make_row(GOOD, solve_rate=0.5)
    arguments = {"thing": "blue key"}
    calls = [
        {"id": "1", "type": "function", "function": {"name": "find_thing", "arguments": given}}
        for given in (arguments, json.dumps(arguments))
    ]
    row["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "box aa", "tool_call_id": "1"},
    ]
    _, state = read_published_row(row, source="a")
    call = ToolCall(id="1", name="find_thing", arguments=arguments)
    assert state.messages[1:] == (
        Message(role="assistant", calls=(call, call)),
        Message(role="tool", content="box aa", call_id="1"),
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"messages": []}, "the first must be of role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the first must be of role"),
        ({"messages": [{"role": "robot"}]}, r"messages\[0\]: not a chat message"),
        ({"messages": [{"role": "user", "tool_calls": [{}]}]}, r"messages\[0\]: not a chat"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\]: not a chat message"),
        ({"messages": 3}, "messages: Expected `array`"),
        ({"tools": "["}, "tools: not JSON: Input data was truncated"),
        ({"tools": "[3]"}, "tools: Expected `object`"),
        ({"tools": "[{}]"}, "is not a function schema with a name"),
        ({"tools": '[{"function": 3}]'}, "is not a function schema with a name"),
        ({"tools": '[{"name": "x", "parameters": 3}]'}, "the parameters of x"),
        ({"codes": '{"x": 3}'}, "codes: Expected `str`"),
        ({"codes": "[" * 9999}, "codes: "),
        ({"codes": '{"x": "\\ud800"}'}, "codes: "),
        ({"unsolved_set": '{"x": "7"}'}, "unsolved_set: Expected `array`"),
        ({"solve_rate": 2}, "solve_rate must be a number from 0 to 1"),
        ({"solve_rate": "high"}, "solve_rate must be a number from 0 to 1"),
        ({"data_source": "self/other"}, "Invalid enum value 'other'"),
        ({"answer": True}, "Expected `str`, got `bool`"),
        ({"unsolved_set": '{"x": [true]}'}, "unsolved_set: Expected"),
    ],
)
def test_broken_rows(changes: dict[str, Any], reason: str) -> None:
    """The key and what is wrong with it are named."""
    with pytest.raises(InputError, match=reason):
        read_published_row(make_row(GOOD, **changes), source="a")


def test_numbers_and_fenced_sources() -> None:
    """Answers may be numbers, and sources may stand between lines of ```, as models write them."""
    fenced = {name: f"```python\n{code}\n```\n" for name, code in GOOD.sources.items()}
    row = make_row(
        GOOD,
        codes=json.dumps(fenced),
        unsolved_set='{"find_thing": ["box aa", 7], "read_label": [400, 2.5]}',
        answer=400,
    )
    blueprint, state = read_published_row(row, source="a")
    assert {"find_thing": ("box aa", "7"), "read_label": ("400", "2.5")} == blueprint.unsolved
    assert blueprint.unsolved == state.unsolved
    assert "400" == blueprint.answer
    assert GOOD.sources == blueprint.sources


def test_zero_is_an_answer() -> None:
    """A number counts as it is, and only null means that there is no answer."""
    assert "0" == read_published_row(make_row(GOOD, answer=0), source="a")[0].answer


@pytest.mark.parametrize("key", sorted(ROW_KEYS))
def test_missing_keys(key: str) -> None:
    """A row that lacks a key is refused by its name."""
    row = make_row(GOOD)
    del row[key]
    with pytest.raises(InputError, match=f"{key} missing"):
        read_published_row(row, source="a")


def test_answer_may_be_missing() -> None:
    """Without an answer the environment has the empty one, which nothing tells."""
    assert "" == read_published_row(make_row(GOOD, answer=None), source="a")[0].answer


def test_published_rows_are_known_by_their_keys() -> None:
    """Even a row that lacks one of the two."""
    assert [True, True, False] == [
        is_published(row) for row in ({"codes": ""}, {"unsolved_set": ""}, {"sources": ""})
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=80)
@given(st.sampled_from(sorted(make_row(GOOD))), json_values)
def test_any_value_is_read_or_refused(key: str, value: Any) -> None:
    """Whatever stands under a key, the only error is one that tells the user."""
    reason = "read"
    try:
        read_published_row(make_row(GOOD, **{key: value}), source="a")
    except InputError as error:
        reason = str(error)
    assert reason

"""Whatever schema passes the import, every part of the program that looks at it copes with it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tool_documents import write
from trustee.engine.script import draw_value
from trustee.environments.executable.blueprint import GoldCall
from trustee.environments.executable.building.lint import check_source
from trustee.environments.executable.building.probes import plan_probes
from trustee.environments.executable.building.verification import schema_text
from trustee.environments.simulated.curriculum import Aspects
from trustee.environments.simulated.roles import WrittenTask, check_task, tool_lines, writer_schema
from trustee.environments.trial.transforms.documents import Describe, Recode, Undocument
from trustee.environments.trial.transforms.names import Opaque, Permute
from trustee.errors import InputError
from trustee.rendering.call_parser import CallFormat, parse_message
from trustee.tools.arguments import check_arguments
from trustee.tools.files import import_tools
from trustee.tools.repository import Repository
from trustee.types import ExpectedCall, Tool, ToolCall

PARTS = st.recursive(
    st.sampled_from(
        [
            *(True, False, {}, {"type": "string"}, {"type": ["integer", "null"]}, {"const": 1}),
            *({"enum": ["a", None, 3]}, {"$ref": "#/$defs/d"}, {"$ref": "#/$defs/loop"}),
            *({"$ref": "#"}, {"not": {"type": "null"}}, {"pattern": "^(a|aa)+$"}),
            {"type": "object", "properties": {"order_id": True, "b": False}, "required": ["b"]},
        ]
    ),
    lambda inner: (
        st.builds(lambda part: {"items": part, "minItems": 1}, inner)
        | st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda parts: {"allOf": parts}, st.lists(inner, min_size=1, max_size=2))
        | st.builds(lambda part: {"prefixItems": [part, part], "items": False}, inner)
        | st.builds(lambda part: {"properties": {"user_id": part}, "if": part}, inner)
        | st.builds(lambda part: {"patternProperties": {"^x": part}, "propertyNames": part}, inner)
        | st.builds(lambda part: {"unevaluatedProperties": part, "allOf": [part]}, inner)
    ),
    max_leaves=5,
)
VALUES: list[Any] = [None, True, 1, 2.5, "a", "aaaa!", [], ["a", 1], {}, {"a": {"b": [1]}}]
ASPECTS = Aspects(
    tools=1, calls=1, turns=1, guidance="plain", persona="expert", ambiguity="clear", strictness=1
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from("abc"), PARTS, max_size=3), st.integers(0, 9))
def test_any_schema_is_walked(tmp_path: Path, properties: dict[str, Any], seed: int) -> None:
    """Drawing, writing, checking, showing and building work on every imported schema."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": sorted(properties)[:1],
        "$defs": {
            "d": {"type": "object", "properties": {"k": {"$ref": "#/$defs/d"}}},
            "loop": {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "string"}]},
        },
    }
    tools: tuple[Tool, ...] = ()
    try:
        tools = import_tools(write(tmp_path, [{"name": "get_it", "parameters": parameters}]))
    except InputError as error:
        assert "cannot be checked" in str(error)  # noqa: PT017 - a schema that leads to itself
        return
    (tool,) = tools
    rng = random.Random(seed)
    assert Repository(tools).sample(rng, 1) == tools
    assert tool.signature.startswith("get_it(")
    assert writer_schema(tools, ASPECTS)
    assert tool_lines(tools)
    assert schema_text(tool)
    assert check_source("def get_it(): ...", tool) is None or properties
    drawn = draw_value(tool.parameters, rng)
    for value in [drawn, *(dict.fromkeys(properties, value) for value in VALUES)]:
        assert isinstance(check_arguments(tool, value), str | None)
        task = WrittenTask(
            persona="p",
            intent="i",
            query="q",
            expected_calls=(ExpectedCall(name="get_it", arguments=value),),
        )
        assert isinstance(check_task(task, tools, ASPECTS), str | None)
    plan_probes(tools, [GoldCall(name="get_it", arguments=drawn, answer="x")])
    for transform in (Describe(), Undocument(), Recode(), Opaque(parameters=True), Permute()):
        transform.draw(tools, random.Random(seed), reference=(), held_out=False)


@pytest.mark.parametrize("schema", [True, False, {"$ref": "#/$defs/none"}, {"anyOf": [True]}])
def test_any_schema_types_coder_values(schema: Any) -> None:
    """A value in coder form is read whatever its schema is."""
    tool = Tool(
        name="f", description="", parameters={"type": "object", "properties": {"x": schema}}
    )
    text = "<tool_call><function=f><parameter=x>\n5\n</parameter></function></tool_call>"
    message = parse_message(text, CallFormat.QWEN3_CODER, call_prefix="c", tools=(tool,))
    assert message.calls == (ToolCall(id="c0", name="f", arguments={"x": "5"}),)

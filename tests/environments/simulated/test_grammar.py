"""The writer's grammar holds what it can and leaves the rest free."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.engine.script import draw_value
from trustee.environments.simulated.grammar import MOST_PARTS, arguments_grammar
from trustee.tools.arguments import check_arguments
from trustee.tools.schema import walk
from trustee.types import Tool

DEFS: dict[str, Any] = {
    "place": {
        "type": "object",
        "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
        "required": ["lat"],
    },
    "tree": {"type": "object", "properties": {"kid": {"$ref": "#/$defs/tree"}}},
}
PLACE = {
    "type": "object",
    "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
    "required": ["lat"],
    "additionalProperties": False,
}
TEXT = {"type": "string", "maxLength": 200}


@pytest.mark.parametrize(
    ("schema", "held"),
    [
        (
            {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        ),
        ({"type": ["integer", "null"]}, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ({"$ref": "#/$defs/place"}, PLACE),
        ({"allOf": [{"$ref": "#/$defs/place"}], "description": "where"}, PLACE),
        (
            {"allOf": [{"$ref": "#/$defs/place"}, {"required": ["lon"]}]},
            PLACE | {"required": ["lat", "lon"]},
        ),
        (
            {"type": "array", "items": {"type": "string"}, "minItems": 10},
            {"type": "array", "items": TEXT, "maxItems": 10, "minItems": 10},
        ),
        (
            {"type": "array", "items": {"type": "string"}},
            {"type": "array", "items": TEXT, "maxItems": 8},
        ),
        (
            {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}]},
            {
                "type": "array",
                "prefixItems": [{"type": "number"}, TEXT],
                "items": False,
                "minItems": 2,
            },
        ),
        ({"oneOf": [{"const": "a"}, {"const": 2}]}, {"anyOf": [{"const": "a"}, {"const": 2}]}),
        ({"type": "string", "enum": ["a", 5]}, {"enum": ["a"]}),
        (
            {"type": "string", "minLength": 300},
            {"type": "string", "maxLength": 300, "minLength": 300},
        ),
        ({"type": "object"}, {"type": "object"}),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"type": "object", "additionalProperties": {"type": "integer"}},
        ),
        (
            {"required": ["q"]},
            {
                "type": "object",
                "properties": {"q": {}},
                "required": ["q"],
                "additionalProperties": False,
            },
        ),
        ({"minimum": 3}, {"type": "number"}),
        ({}, {}),
        (True, {}),
        ({"$ref": "#/$defs/none"}, {}),
        ({"not": {"type": "string"}}, {}),
    ],
)
def test_arguments_grammar(schema: Any, held: dict[str, Any]) -> None:
    """References, combinations and types are held; what says nothing is free, not text."""
    parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"], "$defs": DEFS}
    assert arguments_grammar(parameters) == {
        "type": "object",
        "properties": {"x": held},
        "required": ["x"],
        "additionalProperties": False,
    }


def test_arguments_grammar_leaves_out_what_cannot_be_given() -> None:
    """A property that allows nothing is not offered."""
    parameters = {"type": "object", "properties": {"a": {"type": "string"}, "b": False}}
    assert list(arguments_grammar(parameters)["properties"]) == ["a"]


def test_arguments_grammar_has_an_end() -> None:
    """A definition in itself, and many that each use the next one often, end in free parts."""
    wide = {
        f"w{n}": {
            "type": "object",
            "properties": {f"p{i}": {"$ref": f"#/$defs/w{n + 1}"} for i in range(30)},
        }
        for n in range(9)
    }
    for start, defs in (("tree", DEFS), ("w0", wide)):
        parameters = {
            "type": "object",
            "properties": {"x": {"$ref": f"#/$defs/{start}"}},
            "$defs": defs,
        }
        parts = list(walk(arguments_grammar(parameters)))
        assert len(parts) < 3 * MOST_PARTS
        assert {} in parts


PARTS = st.recursive(
    st.sampled_from(
        [
            *({"type": kind} for kind in ("string", "integer", "boolean", "null")),
            {"enum": ["a", "b"]},
            {"const": 7},
            {"type": ["integer", "null"]},
            {"$ref": "#/$defs/place"},
            True,
        ]
    ),
    lambda inner: (
        st.builds(
            lambda part, least: {"type": "array", "items": part, "minItems": least},
            inner,
            st.integers(0, 12),
        )
        | st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda part: {"allOf": [part]}, inner)
        | st.builds(
            lambda parts: {
                "type": "object",
                "properties": {f"p{n}": part for n, part in enumerate(parts)},
                "required": [f"p{n}" for n in range(len(parts))],
            },
            st.lists(inner, max_size=3),
        )
    ),
    max_leaves=5,
)


@settings(max_examples=150)
@given(PARTS, st.integers(0, 99))
def test_what_the_grammar_allows_fits_the_schema(schema: Any, seed: int) -> None:
    """A value drawn from the grammar fits, and so does one that is drawn from the schema."""
    parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"], "$defs": DEFS}
    tool = Tool(name="f", description="", parameters=parameters)
    for source in (arguments_grammar(parameters), parameters):
        drawn = draw_value(json.loads(json.dumps(source)), random.Random(seed))
        assert check_arguments(tool, drawn) is None

"""Schemas of other drafts and languages become JSON Schema, and JSON Schema stays as it is."""

from __future__ import annotations

from typing import Any

import pytest

from trustee.tools.mending import BAD_PATTERN, UNKNOWN_TYPE, mend_parameters
from trustee.tools.repository import Repository


def test_json_schema_stays() -> None:
    """Every schema of the packaged tools is left as it is."""
    tools = Repository.load().tools
    assert [tool.parameters for tool in tools] == [
        mend_parameters(t.parameters, set()) for t in tools
    ]


@pytest.mark.parametrize(
    ("given", "schema"),
    [
        ({}, {"type": "object", "properties": {}}),
        ({"properties": {}}, {"type": "object", "properties": {}}),
        (
            {
                "type": "dict",
                "properties": {"type": {"type": "float"}, "b": None, "c": {"default": None}},
                "required": None,
            },
            {
                "type": "object",
                "properties": {"type": {"type": "number"}, "c": {"default": None}},
            },
        ),
        (
            {"type": "object", "properties": {"a": {"type": "int", "required": True}}},
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        ),
        (
            {"a": {"type": "str", "required": True}, "b": {"type": "str", "required": False}},
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "required": ["a"],
            },
        ),
        (
            {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "dict"}}}},
            {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"}}}},
        ),
        (
            [{"name": "a", "type": "STRING", "default": "x"}, {"name": "b", "type": "NUMBER"}],
            {
                "type": "object",
                "properties": {"a": {"type": "string", "default": "x"}, "b": {"type": "number"}},
                "required": ["b"],
            },
        ),
        (
            {"type": {"type": "str", "description": "kind"}, "n": {"type": "List[int], optional"}},
            {
                "type": "object",
                "properties": {
                    "type": {"type": "string", "description": "kind"},
                    "n": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["type"],
            },
        ),
        ({"type": ["object", "null"]}, {"type": "object"}),
        ({"$ref": "#/$defs/a"}, {"type": "object", "$ref": "#/$defs/a"}),
        (
            {"type": "object", "properties": [], "required": ["lost"]},
            {"type": "object", "properties": {"lost": {}}, "required": ["lost"]},
        ),
        ({"type": "array"}, {"type": "array"}),
    ],
)
def test_parameters(given: dict[str, Any], schema: dict[str, Any]) -> None:
    """Words, tables and nulls become a schema of an object."""
    assert schema == mend_parameters(given, set())


@pytest.mark.parametrize(
    ("given", "mended", "notes"),
    [
        ({"minimum": "0", "exclusiveMinimum": True}, {"exclusiveMinimum": 0}, set()),
        ({"maximum": 3, "exclusiveMaximum": False}, {"maximum": 3}, set()),
        (
            {"items": [{"type": "int"}, True], "additionalItems": False},
            {"prefixItems": [{"type": "integer"}, True], "items": False},
            set(),
        ),
        (
            {"dependencies": {"a": ["b"], "c": {"required": ["d"]}}},
            {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"c": {"required": ["d"]}}},
            set(),
        ),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}, set()),
        ({"$ref": "#/a", "nullable": True}, {"anyOf": [{"$ref": "#/a"}, {"type": "null"}]}, set()),
        ({"pattern": r"^(?<year>\d{4})\p{L}$"}, {"pattern": r"^(?<year>\d{4})\p{L}$"}, set()),
        ({"type": "string", "pattern": "("}, {"type": "string"}, {BAD_PATTERN}),
        ({"patternProperties": {"(": {}}, "additionalProperties": False}, {}, {BAD_PATTERN}),
        ({"type": "Widget"}, {}, {UNKNOWN_TYPE}),
        ({"type": "any"}, {}, set()),
        ({"type": ["int", "None"]}, {"type": ["integer", "null"]}, set()),
        ({"enum": None, "default": None}, {"default": None}, set()),
        ({"anyOf": [{"type": "dict"}, False]}, {"anyOf": [{"type": "object"}, False]}, set()),
        (
            {"definitions": {"a": {"type": "float"}}},
            {"definitions": {"a": {"type": "number"}}},
            set(),
        ),
        ({"x-kept": {"type": "dict"}}, {"x-kept": {"type": "dict"}}, set()),
        ({"default": {"type": "dict"}}, {"default": {"type": "dict"}}, set()),
        ({"type": [], "default": 3}, {"type": [], "default": 3}, set()),
        (
            {"type": ["int", "None"], "default": 3},
            {"type": ["integer", "null"], "default": 3},
            set(),
        ),
    ],
)
def test_keywords(given: Any, mended: Any, notes: set[str]) -> None:
    """Older keywords get their new names; data and unknown keywords stay; losses are said."""
    said: set[str] = set()
    parameters = {"type": "object", "properties": {"p": given}}
    assert mend_parameters(parameters, said)["properties"]["p"] == mended
    assert said == notes

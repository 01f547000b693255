"""Types in other languages' words, as JSON Schema."""

from __future__ import annotations

from typing import Any

import pytest

from trustee.tools.repository import Repository
from trustee.tools.type_words import as_json_schema, read_type


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("str", {"type": "string"}),
        ("Float, optional", {"type": "number"}),
        ("List", {"type": "array"}),
        ("List[int]", {"type": "array", "items": {"type": "integer"}}),
        ("typing.List[List[str]]", read_type("list[list[str]]")),
        ("Tuple[float, float]", {"type": "array", "items": {"type": "number"}}),
        ("Tuple[float, str]", {"type": "array"}),
        ("Dict[str, int]", {"type": "object"}),
        ("Optional[int]", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ("Union[int, str]", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ("int | None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ("Any", {}),
        ("Callable[[float], float]", {}),
        ("Union[Thing, str]", {}),
        ("[" * 500, {}),
        ("", {}),
    ],
)
def test_types(text: str, schema: dict[str, Any]) -> None:
    """What is understood becomes a schema, what is not allows everything."""
    assert schema == read_type(text)


def test_json_schema_stays() -> None:
    """Every schema of the packaged tools is left as it is."""
    tools = Repository.load().tools
    assert [tool.parameters for tool in tools] == [as_json_schema(t.parameters) for t in tools]


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
    ],
)
def test_parameters(given: dict[str, Any], schema: dict[str, Any]) -> None:
    """Words, tables and nulls become a schema of an object."""
    assert schema == as_json_schema(given)

"""The quick check of schemas says what the metaschema says."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from trustee.tools.metaschema import is_schema

WHOLE: dict[str, Any] = {
    "type": "object",
    "description": "d",
    "properties": {
        "a": {"type": ["string", "null"], "minLength": 1, "pattern": "^a"},
        "b": {"type": "array", "prefixItems": [{"const": 1}], "items": False, "uniqueItems": True},
        "c": {"$ref": "#/$defs/c", "default": {}, "examples": [{}]},
        "d": {"enum": [{}, 1], "not": {"anyOf": [True, {"oneOf": [{"minimum": 1.5}]}]}},
    },
    "required": ["a"],
    "patternProperties": {"^x": {}},
    "dependentRequired": {"a": ["b"]},
    "dependentSchemas": {"a": {"maxProperties": 3}},
    "additionalProperties": {"if": {}, "then": {}, "else": {"contains": {}}},
    "$defs": {"c": {"allOf": [{"propertyNames": {"maxLength": 3}}], "title": "t"}},
}
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 1.5, "a", "(", "string", [], [1], ["a", "a"], [{}], {}, {"a": 1}, {"a": {}}]
)


def is_valid(schema: dict[str, Any]) -> bool:
    """Ask the metaschema itself; "(" is the only pattern here that is none."""
    checker = Draft202012Validator.FORMAT_CHECKER
    validator = Draft202012Validator(Draft202012Validator.META_SCHEMA, format_checker=checker)
    return not list(validator.iter_errors(schema))


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all values."""
    keys = range(len(node)) if isinstance(node, list) else node if isinstance(node, dict) else ()
    return [place for key in keys for place in ((*path, key), *places(node[key], (*path, key)))]


def test_a_schema_of_many_keywords_is_valid() -> None:
    """Nothing is held against keywords as the draft has them."""
    assert is_schema(WHOLE)


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), VALUES)
def test_agrees_with_the_metaschema(rng: random.Random, value: Any) -> None:
    """With any one value replaced, both say the same."""

    def replace(node: Any, path: tuple[Any, ...]) -> Any:
        if not path:
            return value
        keys = node.items() if isinstance(node, dict) else enumerate(node)
        changed = {key: replace(v, path[1:]) if key == path[0] else v for key, v in keys}
        return changed if isinstance(node, dict) else list(changed.values())

    schema = replace(WHOLE, rng.choice(places(WHOLE)))
    assert is_schema(schema) == is_valid(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": 5}},
        {"properties": []},
        {"items": [{}]},
        {"dependentRequired": {"a": {}}},
        {"patternProperties": {"(": {}}},
        {"allOf": []},
        {"enum": 1},
        {"$defs": {"a": {"properties": {"b": {"type": "text"}}}}},
    ],
)
def test_sees_faults_everywhere(schema: dict[str, Any]) -> None:
    """A fault counts wherever it is."""
    assert not is_schema(schema)

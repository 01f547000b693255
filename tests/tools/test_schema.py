"""A user's schema is walked alike everywhere, whatever stands in it."""

from __future__ import annotations

from typing import Any

import pytest

from trustee.tools.schema import (
    change_children,
    follow,
    item_of,
    look_up,
    properties_of,
    property_of,
    required_of,
    type_of,
    types_of,
    walk,
)

ROOT: dict[str, Any] = {
    "$defs": {
        "place": {"type": "object", "properties": {"lat": {"type": "number"}}},
        "loop": {"$ref": "#/$defs/pool"},
        "pool": {"$ref": "#/$defs/loop"},
        "tree": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/tree"}]},
        "a/b~c d": {"$anchor": "here", "type": "null"},
        "list": {"allOf": [{"type": "integer"}, True]},
    }
}


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        (True, None),
        (False, None),
        ({}, None),
        ({"description": "x"}, None),
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"type": "number"}, {"number", "integer"}),
        ({"$ref": "#/$defs/place"}, {"object"}),
        ({"$ref": "#/$defs/place", "description": "where"}, {"object"}),
        ({"$ref": "#/$defs/list/allOf/0"}, {"integer"}),
        ({"$ref": "#/$defs/a~1b~0c%20d"}, {"null"}),
        ({"$ref": "#here"}, {"null"}),
        ({"$ref": "#/$defs/loop"}, None),
        ({"$ref": "#/$defs/tree"}, {"string"}),
        ({"$ref": "#/$defs/none"}, None),
        ({"$ref": 5}, None),
        ({"allOf": [{"type": ["string", "integer"]}, {"minimum": 3}, True]}, {"integer"}),
        ({"allOf": [{"type": "number"}, {"type": "integer"}]}, {"integer"}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"integer", "null"}),
        ({"oneOf": [{"type": "integer"}, True]}, None),
        ({"enum": [1, 2, None]}, {"integer", "null"}),
        ({"const": 2.5}, {"number", "integer"}),
        ({"properties": {"a": True}}, {"object"}),
        ({"items": {"type": "string"}}, {"array"}),
        ({"pattern": "^a"}, {"string"}),
        ({"maximum": 3}, {"number", "integer"}),
    ],
)
def test_types_of(schema: Any, types: Any) -> None:
    """Types are found through references, combinations, values and other keywords."""
    assert set(types_of(schema, ROOT) or ()) == (types or set())


def test_types_of_shared_references_is_fast() -> None:
    """Definitions that each use the next one twice are looked at once each."""
    chain: dict[str, Any] = {
        f"s{n}": {"anyOf": [{"$ref": f"#/$defs/s{n + 1}"}, {"$ref": f"#/$defs/s{n + 1}"}]}
        for n in range(100)
    }
    chain["s100"] = {"type": "boolean"}
    assert types_of({"$ref": "#/$defs/s0"}, {"$defs": chain}) == frozenset(("boolean",))


def test_walking_copes_with_anything() -> None:
    """Booleans, wrong kinds and older forms are passed over or read, never a crash."""
    odd: dict[str, Any] = {
        "properties": {"a": True, "b": False, "c": None, "d": 5},
        "items": [True, {"type": "string"}],
        "anyOf": {"not": "a list"},
        "dependencies": {"a": ["b"], "c": {"required": ["d"]}},
        "required": ["a", 5],
        "additionalProperties": False,
    }
    assert properties_of(odd) == {"a": {}, "b": {"not": {}}, "c": {}, "d": {}}
    assert (properties_of(True), properties_of({"properties": [1]})) == ({}, {})
    assert (required_of(odd), required_of(None), required_of({"required": True})) == (["a"], [], [])
    assert item_of(odd, 1) == {"type": "string"}
    assert (item_of({"items": False}, 0), item_of(True, 3)) == ({"not": {}}, {})
    assert len(list(walk(odd))) == 11
    assert change_children(odd, lambda part: ("seen", part))["items"][0] == ("seen", True)


def test_look_up_and_follow() -> None:
    """References lead to objects and into lists; keywords beside them stay."""
    root = {"properties": {"a": True}, "prefixItems": [{"type": "null"}]}
    assert look_up("#/properties/a", root) == {}
    assert look_up("#", root) == root
    assert look_up("#/prefixItems/0", root) == {"type": "null"}
    for lost in ("#/prefixItems/1", "#/prefixItems", "#/x", "http://a/b", "#none", None):
        assert look_up(lost, root) is None
    assert follow({"$ref": "#/prefixItems/0", "title": "t"}, root) == {"type": "null", "title": "t"}
    assert follow({"$ref": "#/$defs/loop"}, ROOT) == {}


def test_property_of_looks_into_combinations() -> None:
    """A property that only a member of a combination names is found."""
    schema = {"allOf": [{"$ref": "#/$defs/place"}], "additionalProperties": {"type": "null"}}
    assert property_of(schema, "lat", ROOT) == {"type": "number"}
    assert property_of(schema, "other", ROOT) == {"type": "null"}
    assert property_of(True, "x", ROOT) == {}


def test_type_of() -> None:
    """A number without a fraction is an integer, as JSON Schema has it."""
    values: list[Any] = [None, True, 1, 3.0, 2.5, "a", [], {}]
    assert [type_of(value) for value in values] == [
        *("null", "boolean", "integer", "integer", "number", "string", "array", "object")
    ]

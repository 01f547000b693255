"""Schemas of documents become JSON Schemas that allow the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tool_documents import left_out, post_document, read_parameters, refusal, write
from trustee.tools.arguments import check_arguments
from trustee.tools.files import import_tools
from trustee.tools.files.notices import Notices

TEXT = {"type": "string"}


def rewrite(tmp_path: Path, schema: Any, **more: Any) -> Any:
    """Return what a member's schema becomes."""
    document = post_document({"properties": {"a": schema}}, **more)
    return read_parameters(write(tmp_path, document))["properties"]["a"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "prefixItems": [{"type": "number"}], "items": False},
        {"patternProperties": {"^x-": TEXT}, "additionalProperties": False},
        {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}},
        {"dependentSchemas": {"a": {"required": ["b"]}}, "dependentRequired": {"c": ["d"]}},
        {"allOf": [{"properties": {"a": {}}}, {}], "unevaluatedProperties": False},
        {"prefixItems": [TEXT], "unevaluatedItems": {"type": "number"}},
        {"contains": {"const": 1}, "minContains": 2, "maxContains": 3},
        {"propertyNames": {"pattern": "^a"}, "type": ["object", "null"]},
        {"not": {"const": {"type": "x"}}, "enum": [{"nullable": True}]},
    ],
)
def test_keywords_of_3_1_are_kept(tmp_path: Path, schema: Any) -> None:
    """Keywords that belong together are all kept."""
    assert rewrite(tmp_path, schema, version="3.1.0") == schema


@pytest.mark.parametrize(
    ("schema", "rewritten"),
    [
        (
            {"type": "array", "items": [TEXT, {}], "additionalItems": False},
            {"type": "array", "prefixItems": [TEXT, {}], "items": False},
        ),
        ({"items": [TEXT]}, {"prefixItems": [TEXT]}),
        ({"items": TEXT, "additionalItems": False}, {"items": TEXT}),
        (
            {"dependencies": {"a": ["b"], "c": {"required": ["d"]}}},
            {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"c": {"required": ["d"]}}},
        ),
        ({"allOf": [TEXT], "description": " Text. "}, {"allOf": [TEXT], "description": "Text."}),
        (
            {"type": "string", "const": "a", "nullable": True},
            {"anyOf": [{"type": "string", "const": "a"}, {"type": "null"}]},
        ),
        ({"title": "T", "example": 1, "examples": [1], "xml": {}, "x-any": {"type": "a"}}, {}),
    ],
)
def test_older_spellings_are_replaced(tmp_path: Path, schema: Any, rewritten: Any) -> None:
    """Keywords of older drafts get their new names; notes for readers are dropped."""
    assert rewrite(tmp_path, schema) == rewritten


@pytest.mark.parametrize(
    ("pointer", "holder"),
    [
        ("#/components/schemas/A/allOf/1", {"A": {"allOf": [{}, TEXT]}}),
        ("#/components/schemas/A~1B~01/not", {"A/B~1": {"not": TEXT}}),
        ("#/components/schemas/A%20%7Bb%7D", {"A {b}": TEXT}),
        ("#/components/schemas/7", {"7": TEXT}),
    ],
)
def test_references_are_json_pointers(tmp_path: Path, pointer: str, holder: Any) -> None:
    """References lead into lists, and to names with signs that are escaped."""
    assert rewrite(tmp_path, {"$ref": pointer}, schemas=holder) == TEXT


@pytest.mark.parametrize(
    ("pointer", "reason"),
    [
        ("#/components/schemas/A/allOf/2", "leads nowhere in the document"),
        ("#/components/schemas/A/allOf/-1", "leads nowhere in the document"),
        ("#/components/schemas/A/allOf/x", "leads nowhere in the document"),
        ("#/components/schemas/A/allOf/" + "9" * 5000, "leads nowhere in the document"),
        ("#/openapi/0", "leads nowhere in the document"),
        ("#/components/schemas/Self", "leads back to itself"),
        ("https://example.com/a.json", "points outside the document; references must begin with"),
    ],
)
def test_lost_references_are_named(tmp_path: Path, pointer: str, reason: str) -> None:
    """A reference to nothing is named; operations that do not need it are read."""
    lost = {"Self": {"$ref": "#/components/schemas/Self"}, "A": {"allOf": [{}]}}
    lost["Deep"] = {"properties": {"a": {"items": {"$ref": pointer}}}}
    document = post_document({"$ref": "#/components/schemas/Deep"}, schemas=lost)
    assert refusal(write(tmp_path, document)).startswith(
        f'{tmp_path / "tools.json"}: POST /a: the $ref "{pointer}" {reason}'
    )
    document["paths"] |= {"/b": {"get": {}}, "/c": {"$ref": "paths/c.json"}}
    assert [reason.split(": ")[1] for reason in left_out(write(tmp_path, document))] == [
        "POST /a",
        "/c",
    ]


def test_a_circle_is_kept(tmp_path: Path) -> None:
    """Schemas that hold each other stay references, and check values at any depth."""
    schemas = {
        "A": {"properties": {"b": {"$ref": "#/components/schemas/B"}}},
        "B": {"items": {"$ref": "#/components/schemas/A"}, "type": "array"},
    }
    path = write(tmp_path, post_document({"$ref": "#/components/schemas/A"}, schemas=schemas))
    (tool,) = import_tools(path)
    assert tool.parameters["properties"] == {"b": {"$ref": "#/$defs/B"}}
    assert check_arguments(tool, {"b": [{"b": [{"b": []}]}]}) is None
    assert check_arguments(tool, {"b": [{"b": [{"b": 1}]}]}) is not None


@pytest.mark.parametrize(
    ("version", "rewritten"),
    [
        ("3.0.3", {"type": "string", "description": "D."}),
        ("3.1.0", {"allOf": [TEXT], "description": "D.", "maxLength": 3}),
    ],
)
def test_keywords_beside_a_reference(tmp_path: Path, version: str, rewritten: Any) -> None:
    """Since 3.1 they count; before, only what describes and `nullable` does."""
    schema = {"$ref": "#/components/schemas/T", "description": "D.", "maxLength": 3}
    assert rewrite(tmp_path, schema, schemas={"T": TEXT}, version=version) == rewritten


def test_null_beside_a_reference(tmp_path: Path) -> None:
    """A reference that may be null allows null, whatever it leads to."""
    schema = {"$ref": "#/components/schemas/T", "nullable": True}
    found = rewrite(tmp_path, schema, schemas={"T": TEXT})
    assert found == {"type": ["string", "null"]}
    found = rewrite(tmp_path, schema, schemas={"T": {"const": 1}})
    assert found == {"anyOf": [{"const": 1}, {"type": "null"}]}


def test_read_only_members_are_dropped_through_references(tmp_path: Path) -> None:
    """What is only for answers is no argument, also where a reference says so."""
    schemas = {"Made": {"type": "string", "readOnly": True}}
    body = {"properties": {"a": TEXT, "made": {"$ref": "#/components/schemas/Made"}}}
    path = write(tmp_path, post_document(body, schemas=schemas))
    assert list(read_parameters(path)["properties"]) == ["a"]


def test_read_only_members_are_not_required(tmp_path: Path) -> None:
    """What one part of an object has only for answers, no other part requires."""
    schema = {
        "allOf": [
            {"properties": {"id": {"type": "integer", "readOnly": True}, "a": TEXT}},
            {"required": ["id", "a"]},
        ],
        "required": ["id"],
    }
    assert rewrite(tmp_path, schema) == {
        "allOf": [{"properties": {"a": TEXT}}, {"required": ["a"]}],
        "required": [],
    }


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ({"schema": {"type": "string"}}, 'schemas under a key that is not read: POST /a "schema"'),
        ({"oneof": [{"type": "a"}]}, 'schemas under a key that is not read: POST /a "oneof"'),
        ({"pattern": "("}, "patterns that are not valid here, dropped: POST /a"),
        (
            {"patternProperties": {"(": {}}, "additionalProperties": False},
            "patterns that are not valid here, dropped: POST /a",
        ),
    ],
)
def test_what_is_not_read_is_said(tmp_path: Path, schema: Any, line: str) -> None:
    """A schema under an unknown key, and a pattern that cannot be used, are said."""
    notices = Notices()
    path = write(tmp_path, post_document({"properties": {"a": schema}}))
    (tool,) = import_tools(path, notices=notices)
    assert tool.parameters["properties"] == {"a": {}}
    assert notices.lines() == [line]

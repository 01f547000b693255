"""The members of a body become arguments, all of them; what cannot be taken apart stays whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tool_documents import post_document, read_parameters, write
from trustee.tools.arguments import check_arguments
from trustee.tools.files import import_tools
from trustee.tools.files.notices import Notices
from trustee.tools.selection import Selection

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
SCHEMAS: dict[str, Any] = {
    "Base": {
        "type": "object",
        "properties": {"id": TEXT, "heat": NUMBER, "made": {**TEXT, "readOnly": True}},
        "required": ["id", "made"],
    },
    "Middle": {
        "allOf": [
            {"$ref": "#/components/schemas/Base"},
            {"properties": {"top": NUMBER, "heat": {"minimum": 0}}},
        ],
        "properties": {"beside": TEXT},
        "required": ["made", "top"],
    },
    "Loop": {"allOf": [{"$ref": "#/components/schemas/Loop"}, {"properties": {"a": TEXT}}]},
    "Pet": {
        "discriminator": {"propertyName": "kind"},
        "properties": {"kind": TEXT},
        "required": ["kind"],
    },
    "Cat": {"allOf": [{"$ref": "#/components/schemas/Pet"}, {"properties": {"claws": NUMBER}}]},
}


def refer(name: str) -> dict[str, str]:
    """Return a reference to one of the schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def arguments_of(tmp_path: Path, schema: Any, **more: Any) -> dict[str, Any]:
    """Return the arguments that a body gives, by name."""
    path = write(tmp_path, post_document(schema, schemas=SCHEMAS, **more))
    return dict(read_parameters(path)["properties"])


def test_levels_of_all_of_merge(tmp_path: Path) -> None:
    """Members of every level become arguments; what two parts say of one member holds."""
    body = {"allOf": [refer("Middle"), {"type": "object", "properties": {"name": TEXT}}]}
    parameters = read_parameters(write(tmp_path, post_document(body, schemas=SCHEMAS)))
    assert parameters == {
        "type": "object",
        "properties": {
            "beside": TEXT,
            "id": TEXT,
            "heat": {"allOf": [NUMBER, {"minimum": 0}]},
            "top": NUMBER,
            "name": TEXT,
        },
        "required": ["id", "top"],
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": TEXT}, "oneOf": [{"properties": {"b": TEXT}}, {"type": "object"}]},
        {"allOf": [{"properties": {"a": TEXT}}, {"oneOf": [refer("Base"), refer("Middle")]}]},
        {"anyOf": [refer("Base"), refer("Cat")]},
        {"properties": {"a": TEXT}, "patternProperties": {"^x": TEXT}},
        {"properties": {"a": TEXT}, "if": {"required": ["a"]}, "then": {"required": ["b"]}},
        {"allOf": [{"additionalProperties": TEXT}, {"properties": {"a": NUMBER}}, {}]},
        {"type": "array", "items": TEXT},
        {"additionalProperties": NUMBER},
        refer("Pet"),
    ],
)
def test_other_bodies_stay_whole(tmp_path: Path, schema: Any) -> None:
    """A body whose members cannot all be told is one argument."""
    assert list(arguments_of(tmp_path, schema)) == ["body"]


def test_circles_and_diamonds_add_nothing(tmp_path: Path) -> None:
    """A part that is met again, on any way, has been taken apart already."""
    assert list(arguments_of(tmp_path, refer("Loop"))) == ["a"]
    schemas: dict[str, Any] = {f"T{i}": {"allOf": [refer(f"T{i + 1}")] * 2} for i in range(40)}
    schemas["T40"] = {"properties": {"a": TEXT}}
    document = post_document(refer("T0"), schemas=schemas)
    assert read_parameters(write(tmp_path, document))["properties"] == {"a": TEXT}


def test_a_long_chain_is_taken_apart(tmp_path: Path) -> None:
    """However many levels a body is composed of, all members are arguments."""
    schemas: dict[str, Any] = {
        f"T{i}": {"allOf": [refer(f"T{i + 1}"), {"properties": {f"p{i}": {}}}]} for i in range(3000)
    }
    schemas["T3000"] = {"properties": {"last": TEXT}}
    path = write(tmp_path, post_document(refer("T0"), schemas=schemas))
    (tool,) = import_tools(path, Selection(most_characters=1_000_000))
    assert len(tool.parameters["properties"]) == 3001


def test_a_concrete_subtype_is_taken_apart(tmp_path: Path) -> None:
    """A base with subtypes stays whole, but the subtype itself is known."""
    assert list(arguments_of(tmp_path, refer("Cat"))) == ["kind", "claws"]


@pytest.mark.parametrize(("others", "allowed"), [(TEXT, TEXT), (True, True), ({}, True)])
def test_other_members_are_allowed(tmp_path: Path, others: Any, allowed: Any) -> None:
    """Members of any name, beside those with names, stay possible."""
    schema = {"properties": {"name": TEXT}, "additionalProperties": others}
    path = write(tmp_path, post_document(schema))
    assert read_parameters(path) == {
        "type": "object",
        "properties": {"name": TEXT},
        "required": [],
        "additionalProperties": allowed,
    }
    (tool,) = import_tools(path)
    assert check_arguments(tool, {"name": "a", "other": "b"}) is None


@pytest.mark.parametrize(
    ("flags", "required"),
    [({"required": True}, ["a"]), ({"required": False}, []), ({}, ["a"])],
)
def test_a_body_that_may_be_missing_requires_nothing(
    tmp_path: Path, flags: dict[str, Any], required: list[str]
) -> None:
    """Members are required unless the document says that the body is not."""
    schema = {"properties": {"a": TEXT, "b": TEXT}, "required": ["a"]}
    path = write(tmp_path, post_document(schema, **flags))
    assert read_parameters(path)["required"] == required


def test_a_choice_of_required_members_is_said(tmp_path: Path) -> None:
    """A condition that a flat list of arguments cannot hold is dropped with a notice."""
    schema = {
        "properties": {"a": TEXT, "b": TEXT},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        "minProperties": 1,
    }
    path = write(tmp_path, post_document(schema))
    notices = Notices()
    (tool,) = import_tools(path, notices=notices)
    assert list(tool.parameters["properties"]) == ["a", "b"]
    assert notices.lines() == ["conditions on several arguments together, dropped: POST /a"]


def test_what_is_required_without_a_schema_can_be_given(tmp_path: Path) -> None:
    """A required member that no part describes becomes an argument that holds anything."""
    assert arguments_of(tmp_path, {"properties": {"a": TEXT}, "required": ["z"]}) == {
        "a": TEXT,
        "z": {},
    }


def test_a_body_keeps_its_own_definitions(tmp_path: Path) -> None:
    """A schema with definitions of its own is read with them."""
    schema = {"$defs": {"P": TEXT}, "properties": {"p": {"$ref": "#/$defs/P"}}}
    assert arguments_of(tmp_path, schema, version="3.1.0") == {"p": TEXT}


def test_a_body_beside_an_argument_of_that_name(tmp_path: Path) -> None:
    """A whole body finds another name where `body` is taken."""
    document = post_document({"type": "array"})
    parameter = {"name": "body", "in": "query", "schema": TEXT}
    document["paths"]["/a"]["post"]["parameters"] = [parameter]
    properties = read_parameters(write(tmp_path, document))["properties"]
    assert properties == {"body": TEXT, "request_body": {"type": "array"}}


def test_a_body_without_a_schema_is_an_argument(tmp_path: Path) -> None:
    """A file to upload has a media type and no schema in 3.1; it can still be given."""
    document = post_document({})
    document["paths"]["/a"]["post"]["requestBody"] = {
        "content": {"application/octet-stream": {}},
        "required": True,
    }
    parameters = read_parameters(write(tmp_path, document))
    assert parameters == {"type": "object", "properties": {"body": {}}, "required": ["body"]}


def test_an_argument_that_is_given_twice_is_said(tmp_path: Path) -> None:
    """Of two arguments with one name the first is kept; another meaning is said."""
    document = post_document({"properties": {"a": NUMBER, "b": TEXT}})
    document["paths"]["/a"]["post"]["parameters"] = [
        {"name": "a", "in": "query", "schema": TEXT},
        {"name": "b", "in": "query", "schema": TEXT, "description": "The same."},
    ]
    notices = Notices()
    (tool,) = import_tools(write(tmp_path, document), notices=notices)
    assert tool.parameters["properties"]["a"] == TEXT
    assert notices.lines() == [
        'arguments that are given twice, of which the first is kept: POST /a "a"'
    ]

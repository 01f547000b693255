"""Each operation of an OpenAPI or Swagger document becomes one tool, or is refused by name."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from tool_documents import PETSTORE, refusal, write
from trustee.tools.files import import_tools
from trustee.types import Tool

SPECS = Path(__file__).parents[3] / "data" / "restbench" / "specs"


def test_import_spotify() -> None:
    """The Spotify document gives its 40 operations; 23 read."""
    tools = import_tools(SPECS / "spotify_oas.json")
    assert len(tools) == 40
    assert sum(tool.effect == "read" for tool in tools) == 23
    assert sorted({tool.category for tool in tools}) == [
        "Albums",
        "Artists",
        "Player",
        "Playlists",
        "Search",
        "Tracks",
        "Users",
    ]
    by_name = {tool.name: tool for tool in tools}
    assert [
        by_name["get-an-albums-tracks"].signature,
        by_name["create-playlist"].signature,
        by_name["get-queue"].signature,
    ] == [
        "get-an-albums-tracks(id, market?, limit?, offset?)",
        "create-playlist(user_id, collaborative?, description?, name, public?)",
        "get-queue()",
    ]
    assert by_name["get-an-albums-tracks"].parameters["properties"]["limit"] == {
        "type": "integer",
        "description": "The maximum number of items to return."
        " Default: 20. Minimum: 1. Maximum: 50.",
        "default": 20,
        "minimum": 0,
        "maximum": 50,
    }


def test_import_tmdb(tmp_path: Path) -> None:
    """The TMDB document gives its 54 operations, all of which read; path arguments are shared."""
    path = tmp_path / "tmdb.json"
    path.write_bytes(gzip.decompress((SPECS / "tmdb_oas.json.gz").read_bytes()))
    tools = import_tools(path)
    assert len(tools) == 54
    assert {tool.effect for tool in tools} == {"read"}
    assert sum(len(tool.parameters["properties"]) for tool in tools) == 145
    by_name = {tool.name: tool for tool in tools}
    assert by_name["GET_tv-tv_id-season-season_number"].signature == (
        "GET_tv-tv_id-season-season_number(tv_id, season_number)"
    )


NAMED = {"type": "object", "properties": {"name": {"type": "string"}}}
PET_ID = {"type": "integer", "format": "int64", "description": "Which pet."}


PET_TOOLS = (
    Tool(
        name="pets_show_one",
        description="Show a pet.",
        parameters={
            "type": "object",
            "properties": {"pet_id": PET_ID, "fields": {"type": "string"}},
            "required": ["pet_id"],
        },
        effect="read",
        category="pets",
    ),
    Tool(
        name="patch_pets_pet_id",
        description="Change a pet.",
        parameters={
            "type": "object",
            "properties": {
                "pet_id": PET_ID,
                "name": {"type": "string"},
                "age": {
                    "type": "integer",
                    "exclusiveMinimum": 0,
                    "maximum": 40,
                    "default": 3,
                },
                "tag": {"type": ["string", "null"], "enum": ["a", None]},
                "parent": {"$ref": "#/$defs/Tree", "description": "Who bore it."},
                "code": {"type": "string", "pattern": "\\p{L}+"},
                "owner": {
                    "anyOf": [
                        {"oneOf": [{"type": "string"}, {"type": "null"}]},
                        {"type": "null"},
                    ]
                },
                "size": {"not": {"type": "null"}},
            },
            "required": ["pet_id", "age"],
            "$defs": {
                "Tree": {
                    "type": "object",
                    "properties": {
                        "left": {"$ref": "#/$defs/Tree"},
                        "names": {"type": "object", "additionalProperties": NAMED},
                        "any~thing": {},
                        "nothing": {"not": {}},
                    },
                }
            },
        },
    ),
    Tool(
        name="count",
        description="",
        parameters={"type": "object", "properties": {}, "required": []},
        effect="read",
    ),
    Tool(
        name="add_pets",
        description="",
        parameters={
            "type": "object",
            "properties": {"body": {"type": "array", "items": NAMED}},
            "required": ["body"],
        },
        effect="read",
        category="mine",
    ),
    Tool(
        name="delete_shops_shop_shelf",
        description="",
        parameters={
            "type": "object",
            "properties": {"shop": {"type": "string"}, "shelf": {"type": "string"}},
            "required": ["shop", "shelf"],
        },
    ),
)


def test_import_openapi_3(tmp_path: Path) -> None:
    """Path, query and body arguments merge, references resolve, and a cycle stays a reference."""
    assert import_tools(write(tmp_path, PETSTORE)) == PET_TOOLS


SWAGGER = {
    "swagger": "2.0",
    "paths": {
        "/pets/{id}": {
            "put": {
                "operationId": "put_pet",
                "parameters": [
                    {
                        "in": "body",
                        "name": "pet",
                        "schema": {"$ref": "#/definitions/New~1Pet%20x"},
                    },
                    {"in": "query", "name": "dry", "type": "boolean", "default": False},
                    {"in": "path", "name": "id", "type": "integer", "required": True},
                ],
            },
            "post": {
                "operationId": "send_photo",
                "parameters": [
                    {"in": "formData", "name": "photo", "type": "file", "required": True},
                    {
                        "in": "query",
                        "name": "tags",
                        "type": "array",
                        "items": {"type": "string", "x-nullable": True},
                        "collectionFormat": "csv",
                    },
                ],
            },
        }
    },
    "definitions": {
        "New/Pet x": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        }
    },
}


def test_import_swagger_2(tmp_path: Path) -> None:
    """Swagger 2 states types in the parameter, bodies as parameters, and forms field by field."""
    tools = import_tools(write(tmp_path, SWAGGER))
    assert [tool.name for tool in tools] == ["send_photo", "put_pet"]
    assert tools[1].parameters == {
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "dry": {"type": "boolean", "default": False},
            "name": {"type": "string"},
        },
        "required": ["id", "name"],
    }
    assert tools[0].parameters == {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": ["string", "null"]}},
            "photo": {"type": "string"},
            "id": {"type": "string"},
        },
        "required": ["photo", "id"],
    }


def openapi(operation: Any, **rest: Any) -> dict[str, Any]:
    """Write an OpenAPI document with one operation."""
    return {"openapi": "3.0.0", "paths": {"/a": {"get": operation}}, **rest}


OPENAPI_REFUSALS: list[tuple[Any, str]] = [
    ({"openapi": "3.0.0"}, "paths must be an object of paths, got null"),
    ({"swagger": "2.0", "paths": []}, "paths must be an object of paths, got []"),
    ({"openapi": "3.0.0", "paths": {"/a": 1}}, "/a: must be an object, got 1"),
    (openapi([]), "GET /a: must be an object, got []"),
    (openapi({"parameters": {}}), "GET /a: parameters must be a list, got {}"),
    (
        openapi({"parameters": [{"name": "a"}]}),
        'GET /a: a parameter needs "name" and "in", got {"name": "a"}',
    ),
    (
        openapi({"parameters": [{"name": "a", "in": "query", "schema": 1}]}),
        "GET /a: a schema must be an object, got 1",
    ),
    (
        openapi({"parameters": [{"$ref": "#/components/a"}]}),
        'GET /a: the $ref "#/components/a" leads nowhere in the document',
    ),
    (
        openapi({"parameters": [{"$ref": "common.json#/a"}]}),
        'GET /a: the $ref "common.json#/a" points outside the document; references must'
        " begin with #/, so bundle the document first",
    ),
    (
        openapi({"parameters": [{"$ref": "#/x"}]}, x={"$ref": "#/x"}),
        'GET /a: the $ref "#/x" leads back to itself',
    ),
    (openapi({"x-effect": 1}), 'GET /a.x-effect: must be "read" or "write", got 1'),
    (
        openapi(
            {
                "operationId": "f",
                "requestBody": {"content": {"json": {"schema": {"minLength": -1}}}},
            }
        ),
        'GET /a "f".parameters: not a JSON Schema (draft 2020-12), properties.body.minLength must'
        " be at least 0, got -1",
    ),
    (
        {"openapi": "3.0.0", "paths": {}},
        "no tools found; give OpenAI tools, an OpenAPI document with operations, or public"
        " Python functions",
    ),
]


@pytest.mark.parametrize(("document", "message"), OPENAPI_REFUSALS)
def test_import_refuses_openapi(tmp_path: Path, document: Any, message: str) -> None:
    """An unusable OpenAPI document names the operation and what is wrong there."""
    path = write(tmp_path, document)
    assert refusal(path) == f"{path}: {message}"


def test_import_skips_required_entries_that_are_no_names(tmp_path: Path) -> None:
    """A `required` list of a body that holds more than names still counts by its names."""
    body = {"properties": {"a": {}, "b": {}}, "required": [["b"], None, "a"]}
    operation = {"requestBody": {"content": {"application/json": {"schema": body}}}}
    tools = import_tools(write(tmp_path, openapi(operation)))
    assert tools[0].parameters == {
        "type": "object",
        "properties": {"a": {}, "b": {}},
        "required": ["a"],
    }

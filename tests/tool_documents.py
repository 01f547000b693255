"""Tool files as users write them, shared by the tests of their readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trustee.errors import InputError
from trustee.tools.files import import_tools
from trustee.tools.files.notices import Notices

BARE: dict[str, Any] = {"name": "get_it", "parameters": {"type": "object", "properties": {"a": {}}}}
OPENAI = {"type": "function", "function": BARE}


def write(tmp_path: Path, content: Any, *, name: str = "tools.json") -> Path:
    """Write text, or JSON, to a file."""
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refusal(path: Path) -> str:
    """Return the message with which a file is refused."""
    with pytest.raises(InputError) as caught:
        import_tools(path)
    return str(caught.value)


def left_out(path: Path) -> list[str]:
    """Return the reasons for which entries of a file that can be used are left out."""
    notices = Notices()
    assert import_tools(path, notices=notices)
    return [str(error) for error in notices.left_out]


def post_document(
    schema: Any, *, schemas: dict[str, Any] | None = None, version: str = "3.0.3", **body: Any
) -> dict[str, Any]:
    """Return an OpenAPI document with one operation, `f`, that takes a body."""
    content = {"content": {"application/json": {"schema": schema}}, **body}
    return {
        "openapi": version,
        "paths": {"/a": {"post": {"operationId": "f", "requestBody": content}}},
        "components": {"schemas": schemas or {}},
    }


def read_parameters(path: Path) -> dict[str, Any]:
    """Return the parameters of the only tool of a file."""
    (tool,) = import_tools(path)
    return tool.parameters


PETSTORE: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "Pets", "version": "1"},
    "paths": {
        "/pets/{pet_id}": {
            "parameters": [{"$ref": "#/components/parameters/PetId"}],
            "get": {
                "operationId": "pets/show:one",
                "summary": "Show a pet.",
                "tags": ["pets", "other"],
                "parameters": [
                    {"name": "fields", "in": "query", "schema": {"type": "string"}},
                    {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                ],
            },
            "patch": {
                "description": "Change a pet.\n\nMore text.",
                "requestBody": {
                    "content": {
                        "text/plain": {"schema": {"type": "string"}},
                        "application/json": {"schema": {"$ref": "#/components/schemas/Pet"}},
                    }
                },
            },
        },
        "/pets": {
            "head": {"operationId": "count"},
            "post": {
                "operationId": "add_pets",
                "x-effect": "read",
                "x-category": "mine",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "array",
                                "items": {"$ref": "#/components/schemas/Named"},
                            }
                        }
                    },
                },
            },
            "trace": {"operationId": "ignored"},
        },
        "/shops/{shop}/{shelf}": {"delete": {}},
    },
    "components": {
        "parameters": {
            "PetId": {
                "name": "pet_id",
                "in": "path",
                "required": True,
                "description": " Which pet. ",
                "schema": {"type": "integer", "format": "int64", "example": 3},
            }
        },
        "schemas": {
            "Named": {"type": "object", "properties": {"name": {"type": "string"}}},
            "Pet": {
                "allOf": [
                    {"$ref": "#/components/schemas/Named"},
                    {
                        "type": "object",
                        "required": ["age", "id", "pet_id"],
                        "properties": {
                            "id": {"type": "integer", "readOnly": True},
                            "pet_id": {"type": "string"},
                            "age": {
                                "type": "integer",
                                "minimum": 0,
                                "exclusiveMinimum": True,
                                "maximum": "40",
                                "exclusiveMaximum": False,
                                "default": "3",
                            },
                            "tag": {"type": "string", "enum": ["a"], "nullable": True},
                            "parent": {
                                "$ref": "#/components/schemas/Tree",
                                "description": "Who bore it.",
                            },
                            "code": {"type": "string", "pattern": "\\p{L}+"},
                            "owner": {
                                "oneOf": [{"type": "string"}, {"type": "null"}],
                                "nullable": True,
                                "xml": {"name": "o"},
                            },
                            "size": {"not": {"type": "null"}, "additionalProperties": "true"},
                        },
                    },
                ]
            },
            "Tree": {
                "type": "object",
                "properties": {
                    "left": {"$ref": "#/components/schemas/Tree"},
                    "names": {
                        "type": "object",
                        "additionalProperties": {"$ref": "#/components/schemas/Named"},
                    },
                    "any~thing": True,
                    "nothing": False,
                },
            },
        },
    },
}

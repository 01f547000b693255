"""The same rules hold for every tool file: effects, names, and schemas that can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tool_documents import BARE, OPENAI, left_out, refusal, write
from trustee.tools.files import import_tools


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("get_user", "read"),
        ("listUsers", "read"),
        ("search-users", "read"),
        ("find_user", "read"),
        ("read_file", "read"),
        ("check_stock", "read"),
        ("show", "read"),
        ("lookup_word", "read"),
        ("count_words", "read"),
        ("calculate_tax", "read"),
        ("convert_units", "read"),
        ("GetUser", "read"),
        ("getaway_plan", "write"),
        ("create_list", "write"),
        ("_", "write"),
    ],
)
def test_import_guesses_the_effect(tmp_path: Path, name: str, effect: str) -> None:
    """An undeclared effect follows the first word of the name."""
    assert import_tools(write(tmp_path, [{"name": name}]))[0].effect == effect


def function(parameters: Any) -> list[dict[str, Any]]:
    """Write a tool file's content with one function."""
    return [{"name": "f", "parameters": parameters}]


REFUSALS: list[tuple[Any, str]] = [
    (
        [{"name": "get it"}],
        '[0]: the name "get it" is not allowed; names have 1 to 64 of the characters'
        " A-Z a-z 0-9 _ -",
    ),
    (
        [{"name": "n" * 65}],
        f'[0]: the name "{"n" * 58}… is not allowed; names have 1 to 64 of the characters'
        " A-Z a-z 0-9 _ -",
    ),
    (
        [{"name": ""}],
        '[0]: the name "" is not allowed; names have 1 to 64 of the characters A-Z a-z 0-9 _ -',
    ),
    (function("x"), '[0] "f".parameters: must be a JSON Schema with "type": "object", got "x"'),
    (
        function({"type": "array"}),
        '[0] "f".parameters: must be a JSON Schema with "type": "object", got {"type": "array"}',
    ),
    (
        function({"properties": {}}),
        '[0] "f".parameters: must be a JSON Schema with "type": "object", got {"properties": {}}',
    ),
    (
        function({"type": "object", "properties": {"a": {"type": "text"}}}),
        '[0] "f".parameters: not a JSON Schema (draft 2020-12), properties.a.type must be one of'
        ' "array", "boolean", "integer", "null", "number", "object", "string" or be a list,'
        ' got "text"',
    ),
    (
        function({"type": "object", "properties": {"a": {"minimum": "3"}}}),
        '[0] "f".parameters: not a JSON Schema (draft 2020-12), properties.a.minimum must be a'
        ' number, got "3"',
    ),
    (
        function({"type": "object", "properties": {"a": {"pattern": "("}}}),
        '[0] "f".parameters: not a JSON Schema (draft 2020-12), properties.a.pattern must be a'
        ' valid regex, got "("',
    ),
    (
        function({"type": "object", "properties": [1]}),
        '[0] "f".parameters: not a JSON Schema (draft 2020-12), properties must be an object,'
        " got [1]",
    ),
    (
        function({"type": "object", "required": "a"}),
        '[0] "f".parameters: not a JSON Schema (draft 2020-12), required must be a list, got "a"',
    ),
    (
        function({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}),
        '[0] "f".parameters: the $ref "#/$defs/a" leads nowhere; references must point inside the'
        " same parameters",
    ),
    (
        function({"type": "object", "properties": {"a": {"$ref": "https://example.com/a"}}}),
        '[0] "f".parameters: the $ref "https://example.com/a" leads nowhere; references must'
        " point inside the same parameters",
    ),
    (
        function({"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}),
        '[0] "f".parameters: the $ref "#/properties/a" leads back to itself',
    ),
]


@pytest.mark.parametrize(("content", "message"), REFUSALS)
def test_import_refuses_unusable_tools(tmp_path: Path, content: Any, message: str) -> None:
    """A name or schema that cannot be used is refused with its place and what is allowed."""
    path = write(tmp_path, content)
    assert refusal(path) == f"{path}: {message}"


def test_import_refuses_duplicate_names(tmp_path: Path) -> None:
    """The second use of a name is left out and the first is named."""
    path = write(tmp_path, {"tools": [BARE, OPENAI]})
    assert left_out(path) == [
        f'{path}: tools[1]: the name "get_it" was already used by {path}: tools[0];'
        " names must be unique"
    ]

"""The same rules hold for every tool file: effects, names, and schemas that can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tool_documents import BARE, OPENAI, refusal, write
from trustee.tools.files import import_tools
from trustee.tools.files.notices import Notices


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
    (function("x"), '[0] "f".parameters: must be a JSON Schema with "type": "object", got "x"'),
    (
        function({"type": "array"}),
        '[0] "f".parameters: must be a JSON Schema with "type": "object", got {"type": "array"}',
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
    (
        function({"type": "object", "properties": {"a": {"allOf": [{"$ref": "#/properties/a"}]}}}),
        '[0] "f".parameters: cannot be checked: its schema cannot be used (RecursionError: is'
        " nested too deeply)",
    ),
]


@pytest.mark.parametrize(("content", "message"), REFUSALS)
def test_import_refuses_unusable_tools(tmp_path: Path, content: Any, message: str) -> None:
    """A name or schema that cannot be used is refused with its place and what is allowed."""
    path = write(tmp_path, content)
    assert refusal(path) == f"{path}: {message}"


def test_import_makes_names_usable_and_unique(tmp_path: Path) -> None:
    """A name that is not allowed, too long or taken is changed, which a notice says."""
    names = ["math.factorial", "get it", "n" * 70, "n" * 71, "", "get_it", "größe", "_kept_", "a-b"]
    entries = [{"name": name, "description": str(at)} for at, name in enumerate(names)]
    notices = Notices()
    tools = import_tools(write(tmp_path, entries), notices=notices)
    assert [tool.name for tool in tools] == [
        *("math_factorial", "get_it", "n" * 64, "n" * 62 + "_2", "tool"),
        *("get_it_2", "gro_e", "_kept_", "a-b"),
    ]
    assert notices.lines(most=20) == [
        "names changed to be usable and unique: "
        + "; ".join(
            f'[{at}]: "{names[at]}" is "{tool.name}"'
            for at, tool in enumerate(tools)
            if tool.name != names[at]
        )
    ]


def test_import_takes_equal_tools_once(tmp_path: Path) -> None:
    """Rows that repeat a tool give it once; another tool of its name gets one of its own."""
    notices = Notices()
    other = {**BARE, "description": "another"}
    tools = import_tools(write(tmp_path, {"tools": [BARE, OPENAI, other]}), notices=notices)
    assert [tool.name for tool in tools] == ["get_it", "get_it_2"]
    assert notices.lines() == [
        "tools that were there before, taken once: get_it",
        'names changed to be usable and unique: tools[2]: "get_it" is "get_it_2"',
    ]


def test_import_mends_and_says_what_was_lost(tmp_path: Path) -> None:
    """Older and foreign schemas are mended; what could not be kept is said by the tool's name."""
    parameters = {
        "type": "dict",
        "properties": {"a": {"type": "Widget"}, "b": {"type": "string", "pattern": "("}},
    }
    notices = Notices()
    (tool,) = import_tools(write(tmp_path, function(parameters)), notices=notices)
    assert tool.parameters == {"type": "object", "properties": {"a": {}, "b": {"type": "string"}}}
    assert notices.lines() == [
        "patterns that are not valid here, dropped: f",
        "types that are not known, left open: f",
    ]

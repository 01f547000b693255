"""Tools stay short: what is shared is written once, and what is too long is shortened and said."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tool_documents import post_document, write
from trustee.errors import InputError
from trustee.tools.arguments import check_arguments
from trustee.tools.files import dump_tools, import_tools
from trustee.tools.files.notices import Notices
from trustee.tools.selection import Selection
from trustee.types import Tool


def refer(name: str) -> dict[str, str]:
    """Return a reference to a schema of a document."""
    return {"$ref": f"#/components/schemas/{name}"}


def chain(count: int) -> dict[str, Any]:
    """Return schemas of which each uses the next one twice."""
    return {
        f"L{i}": {
            "type": "object",
            "properties": {"a": refer(f"L{i + 1}"), "b": refer(f"L{i + 1}")},
        }
        for i in range(count)
    } | {f"L{count}": {"type": "string", "description": "The end. " * 20}}


def length(tool: Tool) -> int:
    """Return the length of a tool as templates write it."""
    return len(json.dumps(tool.schema, ensure_ascii=False))


def shorten(tmp_path: Path, document: Any, *, most: int) -> tuple[Tool, list[str]]:
    """Import the only tool of a document with a limit, and return it with the notices."""
    notices = Notices()
    selection = Selection(most_characters=most)
    (tool,) = import_tools(write(tmp_path, document), selection, notices=notices)
    assert length(tool) <= most
    return tool, notices.lines()


def test_a_chain_of_schemas_is_linear(tmp_path: Path) -> None:
    """Definitions are shared, so that twice as many take twice as much."""
    lengths = []
    for count in (20, 40):
        document = post_document(refer("L0"), schemas=chain(count))
        started = time.process_time()
        tool, lines = shorten(tmp_path, document, most=100_000)
        assert time.process_time() - started < 5
        assert not lines
        lengths.append(length(tool))
    assert lengths[1] < 2.2 * lengths[0]


def test_schemas_that_name_each_other_are_linear(tmp_path: Path) -> None:
    """A clique of schemas is written once each."""
    names = [f"S{i}" for i in range(30)]
    schemas = {name: {"properties": {other: refer(other) for other in names}} for name in names}
    started = time.process_time()
    tool, lines = shorten(tmp_path, post_document(refer("S0"), schemas=schemas), most=100_000)
    assert time.process_time() - started < 5
    assert not lines
    assert len(tool.parameters["$defs"]) == 30


def test_a_schema_is_put_where_it_is_used_once(tmp_path: Path) -> None:
    """Only what is shared and long stays a definition."""
    long = {"type": "string", "description": "Long. " * 20}
    schemas = {"Long": long, "Short": {"type": "integer"}, "Once": {**long, "maxLength": 3}}
    members = {"a": refer("Long"), "b": refer("Long"), "c": refer("Short"), "d": refer("Short")}
    document = post_document({"properties": {**members, "e": refer("Once")}}, schemas=schemas)
    tool, _ = shorten(tmp_path, document, most=10_000)
    assert tool.parameters["properties"] == {
        "a": {"$ref": "#/$defs/Long"},
        "b": {"$ref": "#/$defs/Long"},
        "c": {"type": "integer"},
        "d": {"type": "integer"},
        "e": {**long, "description": long["description"].strip(), "maxLength": 3},
    }
    assert list(tool.parameters["$defs"]) == ["Long"]


def test_a_long_chain_of_single_uses_is_read(tmp_path: Path) -> None:
    """Definitions that are each used once are not put into each other without end."""
    schemas: dict[str, Any] = {
        f"L{i}": {"type": "object", "properties": {"a": refer(f"L{i + 1}")}} for i in range(2000)
    }
    schemas["L2000"] = {"type": "string"}
    tool, _ = shorten(tmp_path, post_document(refer("L0"), schemas=schemas), most=1_000_000)
    value: dict[str, Any] = {"a": {"a": {"a": {"a": 1}}}}
    assert check_arguments(tool, value) is not None


ORDER = {
    "type": "object",
    "properties": {
        "note": {"type": "string", "description": "A note. " + "It is long. " * 30},
        "lines": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "price": {"type": "number", "description": "The price. " + "More. " * 50},
                    "part": {
                        "oneOf": [
                            {"type": "object", "properties": {"x": {"const": 1}}},
                            {"type": "object", "properties": {"x": {"const": 2}}},
                        ],
                        "not": {"required": ["x", "y"]},
                    },
                },
                "required": ["price"],
            },
        },
    },
    "required": ["lines"],
}
"""A body that is 1,000 characters long with its descriptions, and 400 without."""
FITTING = {"lines": [{"price": 1.5, "part": {"x": 1}}]}


@pytest.mark.parametrize(
    ("most", "how"),
    [
        (900, "long descriptions cut"),
        (380, "long descriptions cut and what is deep inside arguments left open"),
        (220, "descriptions dropped and what is inside arguments left open"),
    ],
)
def test_long_tools_are_shortened(tmp_path: Path, most: int, how: str) -> None:
    """A tool is shortened until it fits, allows what it did, and the notice says how."""
    tool, lines = shorten(tmp_path, post_document(ORDER), most=most)
    assert lines == [f"tools shortened to {most:,} characters (--most-characters), {how}: f"]
    assert tool.parameters["required"] == ["lines"]
    assert list(tool.parameters["properties"]) == ["note", "lines"]
    assert check_arguments(tool, FITTING) is None
    assert check_arguments(tool, {"lines": 5}) is not None


def test_a_tool_that_cannot_be_shortened_is_left_out(tmp_path: Path) -> None:
    """Arguments whose names alone are too long are refused with the option that helps."""
    path = write(tmp_path, post_document(ORDER))
    with pytest.raises(InputError) as caught:
        import_tools(path, Selection(most_characters=100))
    assert str(caught.value).startswith(f"{path}: POST /a: takes ")
    assert str(caught.value).endswith("at most 100 are allowed, which --most-characters changes")


def test_circles_are_shortened(tmp_path: Path) -> None:
    """Schemas that hold each other are left open below a depth."""
    names = [f"Schema{i}" for i in range(30)]
    schemas = {
        name: {"type": "object", "properties": {f"to_{other}": refer(other) for other in names}}
        for name in names
    }
    document = post_document({"properties": {"a": refer("Schema0")}}, schemas=schemas)
    tool, lines = shorten(tmp_path, document, most=3_000)
    assert len(lines) == 1
    assert check_arguments(tool, {"a": {"to_Schema1": {"to_Schema2": {}}}}) is None
    assert check_arguments(tool, {"a": {"to_Schema1": 1}}) is not None


def test_what_was_written_is_not_shortened_again(tmp_path: Path) -> None:
    """Only operations are shortened: a list of tools is read as it is, and said to be long."""
    tool, _ = shorten(tmp_path, post_document(ORDER), most=10_000)
    path = tmp_path / "out.json"
    path.write_bytes(dump_tools([tool]))
    notices = Notices()
    assert import_tools(path, Selection(most_characters=500), notices=notices) == (tool,)
    assert notices.lines() == [
        f"tools longer than 500 characters, which are about 125 tokens: f ({length(tool):,})"
    ]

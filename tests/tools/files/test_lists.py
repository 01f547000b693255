"""Lists of tools are found and read in every form, and nothing that matters is lost in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tool_documents import left_out, refusal, write
from trustee.tools.files import import_tools
from trustee.tools.files.notices import Notices
from trustee.types import Tool

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
READ = Tool(name="read_note", description="Reads.", parameters=SCHEMA, effect="read")


def entry(key: str = "parameters", **more: Any) -> dict[str, Any]:
    """Write one tool with its schema under a key."""
    return {"name": "read_note", "description": "Reads.", key: SCHEMA, **more}


@pytest.mark.parametrize(
    "content",
    [
        {"tools": [entry("inputSchema")]},
        {"jsonrpc": "2.0", "id": 1, "result": {"tools": [entry("inputSchema")]}},
        [entry("input_schema")],
        {"model": "m", "tools": [{"type": "custom", **entry("input_schema")}]},
        entry("inputSchema", outputSchema={"type": "object", "properties": {"a": {}}}),
        [{"type": "function", "function": entry()}],
        [{"type": "function", **entry(), "strict": True}],
        [{"functionDeclarations": [entry()]}],
        {"tools": [{"function_declarations": [entry("parametersJsonSchema")]}]},
        {
            "toolConfig": {
                "tools": [{"toolSpec": entry("inputSchema") | {"inputSchema": {"json": SCHEMA}}}]
            }
        },
        [entry() | {"parameters": json.dumps(SCHEMA)}],
        [{"query": "q", "answers": "[]", "tools": json.dumps([entry()])}],
        [{"id": "simple_0", "question": [], "function": [entry()]}],
        {"functions": {"read_note": {"description": "Reads.", "parameters": SCHEMA}}},
        {"read_note": {"description": "Reads.", "inputSchema": SCHEMA}},
        [entry(category=None)],
        [
            entry(required=["path"])
            | {"parameters": {"type": "dict", "properties": SCHEMA["properties"]}}
        ],
        [entry() | {"parameters": {"path": {"type": "str"}}}],
        [entry() | {"parameters": [{"name": "path", "type": "string", "required": True}]}],
    ],
)
def test_forms_of_lists(tmp_path: Path, content: Any) -> None:
    """The same tool is read from every form, also from a line of a file."""
    assert import_tools(write(tmp_path, content)) == (READ,)
    if isinstance(content, dict):
        lines = "\n".join(map(json.dumps, [content, {"name": "other"}]))
        assert import_tools(write(tmp_path, lines))[0] == READ


@pytest.mark.parametrize(
    ("marks", "effect"),
    [
        ({"annotations": {"readOnlyHint": True}}, "read"),
        ({"annotations": {"readOnlyHint": False}}, "write"),
        ({"annotations": {"destructiveHint": False}}, "write"),
        ({"annotations": {"readOnlyHint": True}, "x-effect": "write"}, "write"),
        ({"annotations": {"title": "Read"}}, "read"),
        ({"annotations": None}, "read"),
    ],
)
def test_hints_of_servers(tmp_path: Path, marks: dict[str, Any], effect: str) -> None:
    """A server's hints say what a tool does; without them its name does."""
    (tool,) = import_tools(write(tmp_path, [entry("inputSchema", **marks)]))
    assert tool.effect == effect


def test_categories_are_the_way_to_a_tool(tmp_path: Path) -> None:
    """In a tree of lists the keys are the category; a tool's own one wins."""
    named = [{"name": f"get_{letter}"} for letter in "abcd"]
    tree = {
        "travel": {"flights": [named[0]], "hotels": {"list": [named[1]]}},
        "math": [named[2] | {"category": "own"}],
        "server": {"name": "files", "tools": [named[3]]},
    }
    tools = import_tools(write(tmp_path, tree))
    assert [(tool.name, tool.category) for tool in tools] == [
        *(("get_a", "travel/flights"), ("get_b", "travel/hotels/list"), ("get_c", "own")),
        ("get_d", "server/files"),
    ]


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        (
            {"name": "f", "paramSchema": SCHEMA},
            '[0] "f": "paramSchema" looks like a schema, but arguments are read from parameters,'
            " input_schema, inputSchema; rename it",
        ),
        (
            entry(input_schema={"type": "object"}),
            '[0] "read_note": has parameters and input_schema, which differ; give one of them',
        ),
        (
            {"type": "bash_20250124", "name": "bash"},
            '[0] "bash": is of type "bash_20250124", which takes no arguments by name',
        ),
        (
            {"name": "f", "parameters": "{"},
            '[0] "f".parameters: not JSON (not JSON: Input data was truncated)',
        ),
    ],
)
def test_schemas_are_not_lost_in_silence(tmp_path: Path, tool: Any, reason: str) -> None:
    """An entry whose arguments cannot be found is left out by name."""
    path = write(tmp_path, [tool])
    assert refusal(path) == f"{path}: {reason}"
    path = write(tmp_path, [tool, {"name": "get_it"}])
    assert left_out(path) == [f"{path}: {reason}"]


def test_other_schemas_are_said(tmp_path: Path) -> None:
    """A schema beside that of the arguments is named, since it may have been meant."""
    notices = Notices()
    import_tools(write(tmp_path, [entry(extraSchema=SCHEMA)]), notices=notices)
    assert notices.lines() == ['schemas under a key that is not read: [0] "extraSchema"']


def test_a_folder_of_tools(tmp_path: Path) -> None:
    """Every file of a folder is read; one with several tools names their category."""
    write(tmp_path, entry("inputSchema"), name="read_note.snap")
    write(tmp_path, [{"name": "get_a"}, {"name": "get_b", "category": "c"}], name="pair.json")
    write(tmp_path, "{", name="broken.json")
    write(tmp_path, "notes", name="README.md")
    notices = Notices()
    tools = import_tools(tmp_path, notices=notices)
    assert [(tool.name, tool.category) for tool in tools] == [
        *(("get_a", "pair"), ("get_b", "c"), ("read_note", "")),
    ]
    assert [str(error).partition(":")[0] for error in notices.left_out] == [
        str(tmp_path / "broken.json")
    ]


def test_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    """Other ends of lines may stand in a text."""
    lines = '{"name": "get_a", "description": "x\u2028y"}\n{"name": "get_b"}'
    assert len(import_tools(write(tmp_path, lines))) == 2

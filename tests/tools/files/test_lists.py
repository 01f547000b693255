"""Lists of tools are found and read in every form, and nothing that matters is lost in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tool_documents import left_out, refusal, write
from trustee.tools.files import dump_tools, import_tools
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
    """In a tree of lists the keys are category and toolset; a tool's own ones win."""
    named = [{"name": f"get_{letter}"} for letter in "abcd"]
    tree = {
        "travel": {"flights": [named[0]], "hotels": {"list": [named[1]]}},
        "math": [named[2] | {"category": "own", "toolset": "sums"}],
        "server": {"name": "files", "tools": [named[3]]},
    }
    tools = import_tools(write(tmp_path, tree))
    assert [(tool.name, tool.category, tool.toolset) for tool in tools] == [
        *(("get_a", "travel", "flights"), ("get_b", "travel", "hotels/list")),
        *(("get_c", "own", "sums"), ("get_d", "server", "files")),
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


def test_a_catalogue_of_the_web(tmp_path: Path) -> None:
    """Category, toolset and entries as web catalogues have them, with the flaws they have."""
    fields = {
        "day": {"type": "datepicker", "default": 3},
        "unit": {"type": "SELECT", "enum": ["g", "oz"], "default": "g"},
        "key": {"type": "credentials"},
        "shape": {"type": "Blob"},
        "kinds": {"type": "array"},
        "count": {"type": "integer", "default": "5"},
        "limit": {"type": "number", "default": "many"},
        "fresh": {"type": "boolean", "default": "True"},
    }

    def listed(name: str, text: str, **properties: Any) -> dict[str, Any]:
        schema = {"type": "object", "properties": properties, "required": []}
        function = {"name": name, "description": text, "parameters": schema}
        about = {"toolset_description": "Sells.", "category": "Food/Drink"}
        return {"type": "function", "function": function, **about}

    catalogue = {
        "Food/Drink": {
            "Big Pantry": [
                listed("find recipe/by name", "Finds.", **fields),
                listed("search", "Finds food."),
                listed("search", "Finds food."),
                listed("search", "Finds drinks."),
            ],
            "Shop": [listed("search", "Finds shops.")],
        },
        "Music": {"Shop": [listed("search", "Finds songs.") | {"category": "Music"}]},
    }
    notices = Notices()
    path = write(tmp_path, catalogue)
    tools = import_tools(path, notices=notices)
    assert [(tool.name, tool.category, tool.toolset) for tool in tools] == [
        ("find_recipe_by_name", "Food/Drink", "Big Pantry"),
        ("search", "Food/Drink", "Big Pantry"),
        ("Big_Pantry_search", "Food/Drink", "Big Pantry"),
        ("Shop_search", "Food/Drink", "Shop"),
        ("Shop_search_2", "Music", "Shop"),
    ]
    assert tools[0].parameters["properties"] == {
        "day": {"type": "string", "default": "3"},
        "unit": {"type": "string", "enum": ["g", "oz"], "default": "g"},
        "key": {"type": "string"},
        "shape": {},
        "kinds": {"type": "array"},
        "count": {"type": "integer", "default": 5},
        "limit": {"type": "number"},
        "fresh": {"type": "boolean", "default": True},
    }
    assert notices.left_out == []
    assert notices.lines() == [
        "defaults of another type than the parameter's, dropped: find recipe/by name",
        "kinds of a form's fields, read as text: find recipe/by name",
        "types that are not known, left open: find recipe/by name",
        "names changed to be usable and unique:"
        ' Food/Drink.Big Pantry[0]: "find recipe/by name" is "find_recipe_by_name";'
        ' Food/Drink.Big Pantry[3]: "search" is "Big_Pantry_search";'
        ' Food/Drink.Shop[0]: "search" is "Shop_search";'
        ' Music.Shop[0]: "search" is "Shop_search_2"',
        "tools that were there before, taken once: search",
    ]
    out = tmp_path / "out.json"
    out.write_bytes(dump_tools(tools))
    again = Notices()
    assert import_tools(out, notices=again) == tools
    assert again.lines() == []

"""Tool files read exactly, whatever their form, or are refused; and what is written reads back."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tool_documents import BARE, OPENAI, PETSTORE, left_out, refusal, write
from trustee.errors import InputError
from trustee.tools.arguments import check_arguments
from trustee.tools.files import dump_tools, import_tools
from trustee.tools.selection import Selection
from trustee.types import Tool

PROPERTIES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "enum": ["ä", "b c"], "default": "ä"},
        {"type": "integer", "minimum": -3, "maximum": 2**40},
        {"type": "number", "exclusiveMinimum": 0.5, "default": 1.0},
        {"type": ["boolean", "null"], "x-unknown": {"kept": [1, None]}},
        {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]},
        True,
    ]
)


@st.composite
def tool_records(draw: st.DrawFn) -> Tool:
    """Draw a tool with any allowed name, text and property names."""
    properties = draw(st.dictionaries(st.text(max_size=8), PROPERTIES, max_size=4))
    properties["a"] = {"type": "string"}
    return Tool(
        name=draw(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)),
        description=draw(st.text(max_size=40)),
        parameters={"type": "object", "properties": properties, "required": sorted(properties)},
        effect=draw(st.sampled_from(["read", "write"])),
        category=draw(st.text(max_size=10)),
    )


@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(tool_records(), min_size=1, max_size=4, unique_by=lambda tool: tool.name))
def test_dump_and_import_round_trip(tmp_path: Path, tools: list[Tool]) -> None:
    """What `dump_tools` writes, `import_tools` reads back equal."""
    path = tmp_path / "tools.json"
    path.write_bytes(dump_tools(tools))
    assert import_tools(path) == tuple(tools)


def test_dump_writes_openai_tools() -> None:
    """A dump holds OpenAI function schemas with effect and category beside them."""
    tool = Tool(
        name="get_it", description="Get it.", parameters={"type": "object"}, category="things"
    )
    assert json.loads(dump_tools([tool])) == [
        {
            "type": "function",
            "function": {
                "name": "get_it",
                "description": "Get it.",
                "parameters": {"type": "object"},
            },
            "x-effect": "write",
            "x-category": "things",
        }
    ]


GET_IT = Tool(name="get_it", description="", parameters=BARE["parameters"], effect="read")


@pytest.mark.parametrize(
    "content",
    [
        [BARE],
        [OPENAI],
        BARE,
        OPENAI,
        {"tools": [OPENAI], "model": "any"},
        {"functions": [BARE]},
        "\ufeff" + json.dumps(OPENAI),
        "\n  " + json.dumps([BARE]),
    ],
)
def test_import_json_forms(tmp_path: Path, content: Any) -> None:
    """Lists, objects with a list, and single tools read alike, wrapped or bare."""
    assert import_tools(write(tmp_path, content)) == (GET_IT,)


def test_import_decides_by_content(tmp_path: Path) -> None:
    """The file's ending does not matter."""
    assert import_tools(write(tmp_path, [BARE], name="tools.py")) == (GET_IT,)
    assert [tool.name for tool in import_tools(write(tmp_path, "def f(): pass"))] == ["f"]


def test_import_json_lines(tmp_path: Path) -> None:
    """One tool per line is read in order, empty lines are skipped."""
    lines = [json.dumps(OPENAI), "", json.dumps({"name": "put_it"}), ""]
    tools = import_tools(write(tmp_path, "\n".join(lines)))
    empty = {"type": "object", "properties": {}}
    assert tools == (GET_IT, Tool(name="put_it", description="", parameters=empty))


def test_import_keeps_declared_marks(tmp_path: Path) -> None:
    """A declared effect wins over the name, inside or outside of the function."""
    outside = {**OPENAI, "x-effect": "write", "x-category": "c"}
    inside = {"type": "function", "function": {**BARE, "name": "put", "x-effect": "read"}}
    tools = import_tools(write(tmp_path, [outside, inside]))
    assert [(tool.effect, tool.category) for tool in tools] == [("write", "c"), ("read", "")]


def test_import_keeps_unknown_keywords(tmp_path: Path) -> None:
    """Keywords that JSON Schema does not know stay as they are."""
    parameters = {"type": "object", "x-order": ["a"], "properties": {"a": {"widget": {"w": 1}}}}
    tools = import_tools(write(tmp_path, [{"name": "f", "parameters": parameters}]))
    assert tools[0].parameters == parameters


JSON_REFUSALS: list[tuple[Any, str]] = [
    (
        "",
        "no tools found; give OpenAI tools, an OpenAPI document with operations, or public"
        " Python functions",
    ),
    (
        [],
        "no tools found; give OpenAI tools, an OpenAPI document with operations, or public"
        " Python functions",
    ),
    (
        '{"name": \n "f" 1}',
        "not JSON: JSON is malformed: expected ',' or '}' (line 2 column 6); give one JSON"
        " document, or one JSON object per line",
    ),
    ({"tools": {"f": 1}}, 'tools must be a list of tools, got {"f": 1}'),
    (
        [5],
        '[0]: not a tool, got 5; a tool is {"type": "function", "function": {…}} or'
        ' {"name": …, "parameters": {…}}',
    ),
    (
        {"tools": [{"type": "web_search"}]},
        'tools[0]: not a tool, got {"type": "web_search"}; a tool is'
        ' {"type": "function", "function": {…}} or {"name": …, "parameters": {…}}',
    ),
    ([{"name": 5}], "[0].name: must be a string, got 5"),
    ([{"name": "f", "description": ["x"]}], '[0].description: must be a string, got ["x"]'),
    ([{"name": "f", "x-category": 1}], "[0].category: must be a string, got 1"),
    ([{"name": "f", "x-effect": "rw"}], '[0].x-effect: must be "read" or "write", got "rw"'),
]


@pytest.mark.parametrize(("content", "message"), JSON_REFUSALS)
def test_import_refuses_json(tmp_path: Path, content: Any, message: str) -> None:
    """Unusable JSON names the file, the position, what was given and what is allowed."""
    path = write(tmp_path, content)
    assert refusal(path) == f"{path}: {message}"


def test_import_leaves_out_bad_entries(tmp_path: Path) -> None:
    """A bad entry of a list, or a bad line, is named with its reason; the rest is used."""
    a_tool = '; a tool is {"type": "function", "function": {…}} or {"name": …, "parameters": {…}}'
    path = write(tmp_path, [5, BARE, {"name": "f", "x-effect": "rw"}])
    assert left_out(path) == [
        f"{path}: [0]: not a tool, got 5{a_tool}",
        f'{path}: [2].x-effect: must be "read" or "write", got "rw"',
    ]
    path = write(tmp_path, '{"name": "f"}\n{"name": }\n[1]\n{"name": "g"}')
    assert left_out(path) == [
        f"{path}: line 2: not JSON: JSON is malformed: invalid character (byte 9); give one JSON"
        " document, or one JSON object per line",
        f"{path}: line 3[0]: not a tool, got 1{a_tool}",
    ]
    assert [tool.name for tool in import_tools(path)] == ["f", "g"]


def test_import_refuses_a_file_without_a_good_entry(tmp_path: Path) -> None:
    """Where nothing is left, the first reason is the refusal, and the others are counted."""
    path = write(tmp_path, [{"name": 5}, 5, 6])
    assert refusal(path) == (
        f"{path}: [0].name: must be a string, got 5; 2 more cannot be used, and nothing is left"
    )


@pytest.mark.parametrize(
    ("only", "skip", "names"),
    [
        (("get_*",), (), ["get_a", "get_b"]),
        ((), ("*_b", "[[]2]"), ["get_a"]),
        (("get_?", "put_a"), ("get_b",), ["get_a", "put_a"]),
    ],
)
def test_import_chooses_tools(
    tmp_path: Path, only: tuple[str, ...], skip: tuple[str, ...], names: list[str]
) -> None:
    """Patterns choose tools by name, or by their place in the file."""
    path = write(tmp_path, [{"name": name} for name in ("get_a", "get_b", "put_a")])
    tools = import_tools(path, Selection(only=only, skip=skip))
    assert [tool.name for tool in tools] == names


def test_import_refuses_a_choice_of_nothing(tmp_path: Path) -> None:
    """Patterns that leave nothing are named."""
    path = write(tmp_path, [BARE])
    with pytest.raises(InputError) as caught:
        import_tools(path, Selection(only=("gte_*",), skip=("x",)))
    assert str(caught.value) == f"{path}: no tool is left by --only 'gte_*' --skip 'x'"


def test_import_refuses_unreadable_files(tmp_path: Path) -> None:
    """A missing file and an empty folder are refused."""
    absent = tmp_path / "absent.json"
    give = "give a JSON, JSONL, YAML or Python file"
    assert [refusal(absent), refusal(tmp_path)] == [
        f"{absent}: cannot be read (No such file or directory); {give}",
        f"{tmp_path}: no tools found; give OpenAI tools, an OpenAPI document with operations, or"
        " public Python functions",
    ]


def test_import_refuses_other_encodings(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused with the first wrong byte."""
    path = tmp_path / "tools.json"
    path.write_bytes(b'[{"name": "\xe4"}]')
    assert refusal(path) == f"{path}: is not UTF-8 (byte 11); save the file as UTF-8"


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def paths_in(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Walk over the positions of all values in a document."""
    keys = range(len(node)) if isinstance(node, list) else node if isinstance(node, dict) else ()
    for key in keys:
        yield (*path, key)
        yield from paths_in(node[key], (*path, key))


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from([PETSTORE, [OPENAI], {"tools": [OPENAI]}, {"Food": {"Shop": [OPENAI]}}]),
    st.randoms(use_true_random=False),
    ANY_JSON,
)
def test_import_survives_any_damage(
    tmp_path: Path, document: Any, rng: random.Random, value: Any
) -> None:
    """A document with any one value replaced is read or refused, never a crash."""
    damaged = json.loads(json.dumps(document))
    *route, last = rng.choice(list(paths_in(damaged)))
    target = damaged
    for key in route:
        target = target[key]
    target[last] = value
    path = write(tmp_path, damaged)
    tools: tuple[Tool, ...] = ()
    with suppress(InputError):
        tools = import_tools(path)
    for tool in tools:
        assert isinstance(check_arguments(tool, {"?": 1}), str | None)

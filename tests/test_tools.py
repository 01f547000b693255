"""The packaged tools keep their promises, and every form of tool file reads exactly or refuses."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from trustee.errors import InputError
from trustee.tools import Repository, check_arguments, dump_tools, import_tools
from trustee.types import Tool

SPECS = Path(__file__).parent / "data" / "restbench" / "specs"


@pytest.fixture(scope="module")
def repository() -> Repository:
    """Load the packaged tools once."""
    return Repository.load()


def schemas_in(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Walk over a packaged schema and all that it nests."""
    yield schema
    for inner in (*schema.get("properties", {}).values(), schema.get("items")):
        if inner is not None:
            yield from schemas_in(inner)


def required_ids(schema: dict[str, Any]) -> set[str]:
    """Name the id arguments that must be given, at any depth."""
    names = set()
    for nested in schemas_in(schema):
        for name in nested.get("required", ()):
            if name.endswith(("_id", "_ids")):
                names.add(name.removesuffix("s").removesuffix("_id").split("_")[-1])
    return names


def plural(noun: str) -> str:
    """Write a noun of the packaged tools in the plural."""
    if noun.endswith("y"):
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("ch", "sh")) else "s")


def test_package_size(repository: Repository) -> None:
    """The packaged tools number 409 in 30 categories, and half of them read."""
    sizes = {name: len(tools) for name, tools in repository.categories.items()}
    assert sizes == {
        "banking": 13,
        "calendar": 12,
        "car_rental": 13,
        "crm": 13,
        "education": 14,
        "email": 13,
        "events": 13,
        "fitness": 13,
        "flights": 13,
        "gardening": 15,
        "health_clinic": 13,
        "hotels": 12,
        "hr": 13,
        "insurance": 14,
        "inventory": 14,
        "library": 12,
        "music": 16,
        "news": 14,
        "parking": 14,
        "pets": 15,
        "pharmacy": 15,
        "project_tracking": 15,
        "real_estate": 15,
        "recipes": 13,
        "restaurants": 14,
        "shipping": 13,
        "smart_home": 13,
        "support_tickets": 13,
        "utilities_billing": 15,
        "weather": 14,
    }
    assert len(repository.tools) == 409
    assert sum(tool.effect == "read" for tool in repository.tools) == 214


def test_package_names_are_unique(repository: Repository) -> None:
    """No two packaged tools share a name."""
    names = [tool.name for tool in repository.tools]
    assert len(names) == len(set(names))


def test_package_categories_hold_both_effects(repository: Repository) -> None:
    """Each category has at least 12 tools, and at least 5 that read and 5 that write."""
    for name, tools in repository.categories.items():
        reads = sum(tool.effect == "read" for tool in tools)
        assert (name, len(tools) >= 12, reads >= 5, len(tools) - reads >= 5) == (
            name,
            True,
            True,
            True,
        )


def test_package_reads_come_first(repository: Repository) -> None:
    """In every packaged file the tools that read stand before those that write."""
    for tools in repository.categories.values():
        effects = [tool.effect for tool in tools]
        assert effects == sorted(effects)


def test_package_schemas_are_valid(repository: Repository) -> None:
    """Every packaged schema is valid and described, has 1 to 6 arguments and fitting defaults."""
    for tool in repository.tools:
        Draft202012Validator.check_schema(tool.parameters)
        assert tool.parameters["type"] == "object"
        assert 1 <= len(tool.parameters["properties"]) <= 6
        assert tool.description.endswith(".")
        for schema in schemas_in(tool.parameters):
            for name, inner in schema.get("properties", {}).items():
                assert (tool.name, name, "description" in inner) == (tool.name, name, True)
            assert set(schema.get("required", ())) <= set(schema.get("properties", {}))
            if "default" in schema:
                assert Draft202012Validator(schema).is_valid(schema["default"])


def test_package_has_about_three_arguments(repository: Repository) -> None:
    """A packaged tool has between 2.5 and 3.5 arguments on average."""
    counts = [len(tool.parameters["properties"]) for tool in repository.tools]
    assert 2.5 <= sum(counts) / len(counts) <= 3.5


def test_package_ids_can_be_learnt(repository: Repository) -> None:
    """Every id that a packaged tool needs is listed by a read tool that does not need it."""
    for tools in repository.categories.values():
        for tool in tools:
            for noun in required_ids(tool.parameters):
                givers = [
                    giver.name
                    for giver in tools
                    if giver.effect == "read"
                    and giver.name.split("_")[-1] in (noun, plural(noun))
                    and noun not in required_ids(giver.parameters)
                ]
                assert (tool.name, noun, bool(givers)) == (tool.name, noun, True)


def test_package_tools_pass_the_import_checks(repository: Repository, tmp_path: Path) -> None:
    """The packaged tools, which loading does not check again, pass the checks of user files."""
    path = tmp_path / "tools.json"
    path.write_bytes(dump_tools(repository.tools))
    assert import_tools(path) == repository.tools


@pytest.mark.parametrize("count", range(1, 11))
def test_sample_stays_in_one_category(repository: Repository, count: int) -> None:
    """Up to 10 tools come from one category, are distinct, and those that read come first."""
    for seed in range(100):
        tools = repository.sample(random.Random(seed), count)
        assert len({tool.name for tool in tools}) == count
        assert len({tool.category for tool in tools}) == 1
        effects = [tool.effect for tool in tools]
        assert effects == sorted(effects)


def test_sample_is_coherent(repository: Repository) -> None:
    """Every id that a drawn tool needs is listed by a read tool drawn with it."""
    for seed in range(300):
        rng = random.Random(seed)
        tools = repository.sample(rng, rng.randint(1, 12))
        listed = {tool.name.split("_")[-1] for tool in tools if tool.effect == "read"}
        needed = {noun for tool in tools for noun in required_ids(tool.parameters)}
        assert {noun for noun in needed if not {noun, plural(noun)} & listed} == set()


def test_sample_reaches_every_category_and_tool(repository: Repository) -> None:
    """In many draws of 5 every packaged tool turns up."""
    rng = random.Random(0)
    seen = {tool.name for _ in range(6000) for tool in repository.sample(rng, 5)}
    assert seen == {tool.name for tool in repository.tools}


def test_sample_follows_the_rng(repository: Repository) -> None:
    """Equal seeds draw equal tools, other seeds mostly others."""
    first = [repository.sample(random.Random(seed), 4) for seed in range(20)]
    assert first == [repository.sample(random.Random(seed), 4) for seed in range(20)]
    assert len({tuple(tool.name for tool in tools) for tools in first}) > 15


def test_sample_mixes_two_categories(repository: Repository) -> None:
    """With `mixed` 1 the halves come from two categories, the larger half first drawn."""
    for count in range(2, 11):
        tools = repository.sample(random.Random(count), count, mixed=1.0)
        sizes = [
            sum(tool.category == name for tool in tools)
            for name in {tool.category for tool in tools}
        ]
        assert sorted(sizes) == [count // 2, count - count // 2]


def test_sample_mixes_at_the_given_rate(repository: Repository) -> None:
    """The probability of a mixed draw is `mixed`."""
    rng = random.Random(7)
    draws = [repository.sample(rng, 2, mixed=0.25) for _ in range(2000)]
    mixed = sum(len({tool.category for tool in tools}) == 2 for tools in draws)
    assert 440 <= mixed <= 560


def test_sample_spills_over_where_no_category_suffices(repository: Repository) -> None:
    """More tools than any category has are drawn from several, up to all tools."""
    tools = repository.sample(random.Random(0), 20)
    assert (len(tools), len({tool.category for tool in tools})) == (20, 2)
    everything = repository.sample(random.Random(0), 409)
    assert {tool.name for tool in everything} == {tool.name for tool in repository.tools}


def test_sample_works_where_ids_cannot_be_learnt() -> None:
    """A category without any listing tool still gives what is asked for."""
    parameters = {
        "type": "object",
        "properties": {"order_id": {"type": "string"}},
        "required": ["order_id"],
    }
    tools = [Tool(name=f"do_{n}", description="", parameters=parameters) for n in "abc"]
    assert len(Repository(tools).sample(random.Random(0), 2)) == 2


@pytest.mark.parametrize(
    ("count", "mixed", "message"),
    [
        (0, 0.0, "count must be from 1 to 409, the repository's size; got 0"),
        (410, 0.0, "count must be from 1 to 409, the repository's size; got 410"),
        (2, 1.5, "mixed must be from 0 to 1, got 1.5"),
        (2, -0.5, "mixed must be from 0 to 1, got -0.5"),
    ],
)
def test_sample_refuses(repository: Repository, count: int, mixed: float, message: str) -> None:
    """A count or probability out of bounds is refused."""
    with pytest.raises(InputError) as caught:
        repository.sample(random.Random(0), count, mixed=mixed)
    assert str(caught.value) == message


def test_load_reads_a_folder(tmp_path: Path) -> None:
    """Every JSON file of a folder is read in name order; its name is the category where none is."""
    (tmp_path / "b.json").write_text('[{"name": "put_b", "x-category": "other"}]')
    (tmp_path / "a.json").write_text('[{"name": "get_a"}]')
    (tmp_path / "notes.txt").write_text("not a tool")
    repository = Repository.load(tmp_path)
    empty = {"type": "object", "properties": {}}
    assert repository.tools == (
        Tool(name="get_a", description="", parameters=empty, effect="read", category="a"),
        Tool(name="put_b", description="", parameters=empty, effect="write", category="other"),
    )
    assert list(repository.categories) == ["a", "other"]


def test_load_refuses_a_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there is named."""
    folder = tmp_path / "absent"
    with pytest.raises(InputError) as caught:
        Repository.load(folder)
    assert str(caught.value) == (
        f"{folder}: cannot be read (No such file or directory); give a folder of *.json tool files"
    )


def test_load_refuses_an_empty_folder(tmp_path: Path) -> None:
    """A folder without tools is refused."""
    with pytest.raises(InputError) as caught:
        Repository.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: no tools found; a tool folder holds *.json files of tools"
    )


def test_load_refuses_names_shared_by_two_files(tmp_path: Path) -> None:
    """A name must be unique among all files of a folder."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text('[{"name": "get_it"}]')
    with pytest.raises(InputError) as caught:
        Repository.load(tmp_path)
    assert str(caught.value) == (
        f'{tmp_path}/b.json: [0]: the name "get_it" was already used by {tmp_path}/a.json: [0];'
        " names must be unique"
    )


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
    deadline=None,
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


def write(tmp_path: Path, content: Any, *, name: str = "tools.json") -> Path:
    """Write text, or JSON, to a file."""
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


BARE: dict[str, Any] = {"name": "get_it", "parameters": {"type": "object", "properties": {"a": {}}}}
OPENAI = {"type": "function", "function": BARE}
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


def function(parameters: Any) -> list[dict[str, Any]]:
    """Write a tool file's content with one function."""
    return [{"name": "f", "parameters": parameters}]


JSON_REFUSALS: list[tuple[Any, str]] = [
    (
        "",
        "no tools found; allowed are OpenAI tools, an OpenAPI document with operations, or public"
        " Python functions",
    ),
    (
        [],
        "no tools found; allowed are OpenAI tools, an OpenAPI document with operations, or public"
        " Python functions",
    ),
    (
        '{"name": \n "f" 1}',
        "not JSON, line 2 column 6: Expecting ',' delimiter; allowed are one JSON document or one"
        " JSON object per line",
    ),
    (
        '{"name": "f"}\n{"name": }',
        "not JSON, line 2 column 10: Expecting value; allowed are one JSON document or one JSON"
        " object per line",
    ),
    ({"tools": {"f": 1}}, 'tools must be a list of tools, got {"f": 1}'),
    (
        [BARE, 5],
        '[1]: not a tool, got 5; allowed are {"type": "function", "function": {…}} and'
        ' {"name": …, "parameters": {…}}',
    ),
    (
        {"tools": [{"type": "web_search"}]},
        'tools[0]: not a tool, got {"type": "web_search"}; allowed are'
        ' {"type": "function", "function": {…}} and {"name": …, "parameters": {…}}',
    ),
    (
        '{"name": "f"}\n[1]',
        'line 2: not a tool, got [1]; allowed are {"type": "function", "function": {…}} and'
        ' {"name": …, "parameters": {…}}',
    ),
    ([{"name": 5}], "[0].name: must be a string, got 5"),
    ([{"name": "f", "description": ["x"]}], '[0].description: must be a string, got ["x"]'),
    ([{"name": "f", "x-category": 1}], "[0].category: must be a string, got 1"),
    ([{"name": "f", "x-effect": "rw"}], '[0].x-effect: must be "read" or "write", got "rw"'),
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
    (
        '[{"name": "f", "parameters": {"type": "object", "maxProperties": NaN}}]',
        '[0] "f".parameters: holds NaN or Infinity; only finite numbers are allowed',
    ),
]


@pytest.mark.parametrize(("content", "message"), JSON_REFUSALS)
def test_import_refuses_json(tmp_path: Path, content: Any, message: str) -> None:
    """Unusable JSON names the file, the position, what was given and what is allowed."""
    path = write(tmp_path, content)
    with pytest.raises(InputError) as caught:
        import_tools(path)
    assert str(caught.value) == f"{path}: {message}"


def test_import_refuses_duplicate_names(tmp_path: Path) -> None:
    """The second use of a name is refused and the first is named."""
    path = write(tmp_path, {"tools": [BARE, OPENAI]})
    with pytest.raises(InputError) as caught:
        import_tools(path)
    assert str(caught.value) == (
        f'{path}: tools[1]: the name "get_it" was already used by {path}: tools[0];'
        " names must be unique"
    )


def test_import_refuses_unreadable_files(tmp_path: Path) -> None:
    """A missing file and a folder are refused."""
    absent = tmp_path / "absent.json"
    with pytest.raises(InputError) as missing:
        import_tools(absent)
    with pytest.raises(InputError) as folder:
        import_tools(tmp_path)
    assert [str(missing.value), str(folder.value)] == [
        f"{absent}: cannot be read (No such file or directory); give a JSON, JSONL or Python file",
        f"{tmp_path}: cannot be read (Is a directory); give a JSON, JSONL or Python file",
    ]


def test_import_refuses_other_encodings(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused with the first wrong byte."""
    path = tmp_path / "tools.json"
    path.write_bytes(b'[{"name": "\xe4"}]')
    with pytest.raises(InputError) as caught:
        import_tools(path)
    assert str(caught.value) == (f"{path}: not UTF-8 text, byte 11 is 0xe4; save the file as UTF-8")


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
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}}
PET_ID = {"type": "integer", "format": "int64", "description": "Which pet."}


def test_import_openapi_3(tmp_path: Path) -> None:
    """Path, query and body arguments merge, references resolve, and cycles end."""
    assert import_tools(write(tmp_path, PETSTORE)) == (
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
                    "parent": {
                        "type": "object",
                        "properties": {
                            "left": {},
                            "names": {"type": "object", "additionalProperties": NAMED},
                            "any~thing": {},
                            "nothing": {"not": {}},
                        },
                        "description": "Who bore it.",
                    },
                    "code": {"type": "string"},
                    "owner": {
                        "anyOf": [
                            {"oneOf": [{"type": "string"}, {"type": "null"}]},
                            {"type": "null"},
                        ]
                    },
                    "size": {"not": {"type": "null"}},
                },
                "required": ["pet_id", "age"],
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


def test_import_swagger_2(tmp_path: Path) -> None:
    """Swagger 2 states types in the parameter, bodies as parameters, and forms field by field."""
    document = {
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
    tools = import_tools(write(tmp_path, document))
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
        'GET /a: the $ref "common.json#/a" points outside the document; allowed are references'
        " that begin with #/, so bundle the document first",
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
        openapi({"operationId": "///"}),
        'GET /a: the name "" is not allowed; names have 1 to 64 of the characters A-Z a-z 0-9 _ -',
    ),
    (
        {"openapi": "3.0.0", "paths": {}},
        "no tools found; allowed are OpenAI tools, an OpenAPI document with operations, or public"
        " Python functions",
    ),
]


@pytest.mark.parametrize(("document", "message"), OPENAPI_REFUSALS)
def test_import_refuses_openapi(tmp_path: Path, document: Any, message: str) -> None:
    """An unusable OpenAPI document names the operation and what is wrong there."""
    path = write(tmp_path, document)
    with pytest.raises(InputError) as caught:
        import_tools(path)
    assert str(caught.value) == f"{path}: {message}"


def test_import_refuses_operations_with_one_name(tmp_path: Path) -> None:
    """Two operations whose names become equal are refused."""
    item = {"get": {"operationId": "a b"}, "post": {"operationId": "a/b"}}
    path = write(tmp_path, {"openapi": "3.0.0", "paths": {"/a": item}})
    with pytest.raises(InputError) as caught:
        import_tools(path)
    assert str(caught.value) == (
        f'{path}: POST /a: the name "a_b" was already used by {path}: GET /a; names must be unique'
    )


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
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from([PETSTORE, [OPENAI], {"tools": [OPENAI]}]),
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


MODULE = '''
"""Tools of a shop."""
from __future__ import annotations

import datetime
import enum
import typing as t
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NewType, NotRequired, Optional, TypedDict

import a_package_that_does_not_exist

raise SystemExit("the module was executed")

Ids = list[int]
Depth: t.TypeAlias = "Tree | None"
UserId = NewType("UserId", str)


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = -1
    HIGH = 1


@dataclass
class Line:
    product: str
    quantity: int = 1
    kind: ClassVar[str] = "line"
    tags: list[str] = field(default_factory=list)


class Gift(Line):
    message: Annotated[str, "Printed on the card."]


class Filter(TypedDict, total=False):
    color: t.Required[Color]
    price: float


class Tree(TypedDict):
    left: NotRequired[Depth]
    label: str


def search_products(
    query: str,
    limit: int = 10,
    *,
    price: float | None = None,
    in_stock: "bool" = True,
) -> list[dict]:
    """Find products.

    They are sorted by price,
    cheapest first.

    Args:
        query: Words to find,
            on several lines.
        limit (int, optional): Most products: at least one.

        unknown: Not a parameter.

    Returns:
        query: not a description.
    """
    open("executed", "w").write("x")


async def order(
    lines: list[Line],
    /,
    gift: Optional[Gift] = None,
    mode: Literal["fast", "cheap"] = "cheap",
    level: Level = Level.LOW,
    *,
    due: datetime.date,
    **options: str,
):
    """
    Args:
        lines: What is ordered.
    """


@undefined_decorator(1 / 0)
def all_kinds(
    any_: Any,
    nothing: None,
    ids: Ids,
    pair: tuple[int, str],
    many: tuple[int, ...],
    bare_tuple: tuple,
    unique: set[str],
    bare: list,
    mapping: dict[str, list[int]],
    bare_mapping: t.Dict,
    union: int | str | None,
    union_two: t.Union[int, list[str]],
    optional_list: Optional[list[int]],
    optional_literal: Literal["a", "b"] | None,
    mixed: Literal[1, "a", None],
    level: Level,
    filter: Filter,
    tree: Tree,
    user: UserId,
    at: datetime.datetime,
    hour: datetime.time,
    everything: int | Any,
    field: Annotated[int, Field(ge=1, lt=-N, le=9, description="A number.")],
    length: Annotated[list[str], t.Annotated, Meta(min_length=1, max_length=3)],
    needed: int = Field(..., gt=-2),
    given: str = Field("x", min_length=1, pattern="^x"),
    made: list[int] = Field(default_factory=list),
    computed: int = 6 * 7,
    literal: tuple[int, int] = (1, 2),
    uncodable: set[int] = {1},
): ...


def no_arguments():
    pass


def _private(anything): ...


class Shop:
    def method(self, x): ...
'''


def string(**rest: Any) -> dict[str, Any]:
    """Write the schema of a string."""
    return {"type": "string", **rest}


LINE = {
    "product": string(),
    "quantity": {"type": "integer", "default": 1},
    "tags": {"type": "array", "items": {"type": "string"}},
}


def test_import_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints, defaults and docstrings become schemas, and nothing in the module is executed."""
    monkeypatch.chdir(tmp_path)
    search, order, _, empty = import_tools(write(tmp_path, MODULE, name="shop.py"))
    assert search == Tool(
        name="search_products",
        description="Find products.",
        parameters={
            "type": "object",
            "properties": {
                "query": string(description="Words to find, on several lines."),
                "limit": {
                    "type": "integer",
                    "default": 10,
                    "description": "Most products: at least one.",
                },
                "price": {"type": ["number", "null"], "default": None},
                "in_stock": {"type": "boolean", "default": True},
            },
            "required": ["query"],
        },
        effect="read",
    )
    assert order == Tool(
        name="order",
        description="",
        parameters={
            "type": "object",
            "properties": {
                "lines": {
                    "type": "array",
                    "items": {"type": "object", "properties": LINE, "required": ["product"]},
                    "description": "What is ordered.",
                },
                "gift": {
                    "type": ["object", "null"],
                    "properties": {**LINE, "message": string(description="Printed on the card.")},
                    "required": ["product", "message"],
                    "default": None,
                },
                "mode": string(enum=["fast", "cheap"], default="cheap"),
                "level": {"type": "integer", "enum": [-1, 1]},
                "due": string(format="date"),
            },
            "required": ["lines", "due"],
            "additionalProperties": {"type": "string"},
        },
        effect="write",
    )
    assert empty == Tool(
        name="no_arguments",
        description="",
        parameters={"type": "object", "properties": {}, "required": []},
    )
    assert [path.name for path in tmp_path.iterdir()] == ["shop.py"]


def test_import_python_hints(tmp_path: Path) -> None:
    """Every kind of hint and default has its schema."""
    tool = import_tools(write(tmp_path, MODULE, name="shop.py"))[2]
    integer = {"type": "integer"}
    strings = {"type": "array", "items": {"type": "string"}}
    integers = {"type": "array", "items": integer}
    assert tool.parameters["properties"] == {
        "any_": {},
        "nothing": {"type": "null"},
        "ids": integers,
        "pair": {
            "type": "array",
            "prefixItems": [integer, {"type": "string"}],
            "minItems": 2,
            "maxItems": 2,
        },
        "many": integers,
        "bare_tuple": {"type": "array"},
        "unique": {**strings, "uniqueItems": True},
        "bare": {"type": "array"},
        "mapping": {"type": "object", "additionalProperties": integers},
        "bare_mapping": {"type": "object"},
        "union": {"anyOf": [integer, {"type": "string"}, {"type": "null"}]},
        "union_two": {"anyOf": [integer, strings]},
        "optional_list": {**integers, "type": ["array", "null"]},
        "optional_literal": {"type": ["string", "null"], "enum": ["a", "b", None]},
        "mixed": {"enum": [1, "a", None]},
        "level": {"type": "integer", "enum": [-1, 1]},
        "filter": {
            "type": "object",
            "properties": {"color": string(enum=["red", "blue"]), "price": {"type": "number"}},
            "required": ["color"],
        },
        "tree": {
            "type": "object",
            "properties": {"left": {}, "label": string()},
            "required": ["label"],
        },
        "user": string(),
        "at": string(format="date-time"),
        "hour": string(format="time"),
        "everything": {},
        "field": {"type": "integer", "minimum": 1, "maximum": 9, "description": "A number."},
        "length": {**strings, "minItems": 1, "maxItems": 3},
        "needed": {"type": "integer", "exclusiveMinimum": -2},
        "given": string(minLength=1, pattern="^x", default="x"),
        "made": integers,
        "computed": integer,
        "literal": {
            "type": "array",
            "prefixItems": [integer, integer],
            "minItems": 2,
            "maxItems": 2,
            "default": [1, 2],
        },
        "uncodable": {**integers, "uniqueItems": True},
    }
    optional = {"given", "made", "computed", "literal", "uncodable"}
    assert tool.parameters["required"] == [
        name for name in tool.parameters["properties"] if name not in optional
    ]


HINTS = (
    "str, int, float, bool, None, Any, date, time, datetime, UUID, Path, Decimal, list, set,"
    " tuple, dict, Optional, Union, Literal, Annotated, and classes and aliases of the same module"
)
PYTHON_REFUSALS = [
    (
        "def f(:",
        "neither JSON nor Python, line 1: invalid syntax; allowed are JSON, JSONL and Python files",
    ),
    (
        "openapi: 3.0.0\npaths:\n  /a: 1",
        "neither JSON nor Python, line 1: invalid syntax; allowed are JSON, JSONL and Python files",
    ),
    (
        "x = 1\0",
        "neither JSON nor Python, source code string cannot contain null bytes; allowed are JSON,"
        " JSONL and Python files",
    ),
    ("\n\ndef f(a): ...", f"line 3 f(a): has no type hint; allowed are {HINTS}"),
    (
        "def f(a: ndarray): ...",
        f"line 1 f(a): the type hint ndarray is not known; allowed are {HINTS}",
    ),
    (
        "def f(a: list[np.array]): ...",
        f"line 1 f(a): the type hint np.array is not known; allowed are {HINTS}",
    ),
    (
        "def f(a: 'list['): ...",
        f"line 1 f(a): the type hint 'list[' is not known; allowed are {HINTS}",
    ),
    ("def f(a: 5): ...", f"line 1 f(a): the type hint 5 is not known; allowed are {HINTS}"),
    (
        "def f(a: Literal[x]): ...",
        f"line 1 f(a): the type hint Literal[x] is not known; allowed are {HINTS}",
    ),
    (
        "def f(a: Callable[[int], str]): ...",
        f"line 1 f(a): the type hint [int] is not known; allowed are {HINTS}",
    ),
    (
        'def f():\n    """Do.\n\n    Args:\n        a\n    """',
        "line 1 f: the docstring is not in Google style (Expected a colon in 'a'.);"
        " sections such as Args: hold indented lines of name: description",
    ),
    ("def f(*names: str): ...", "line 1 f: *names cannot be given by name; use a list parameter"),
    (
        "class E(Enum):\n    A = auto()\n\ndef f(a: E): ...",
        "line 4 f(a): the enum E must give its members strings or numbers",
    ),
    (
        "def _f(): ...",
        "no tools found; allowed are OpenAI tools, an OpenAPI document with operations, or public"
        " Python functions",
    ),
    (
        "def größe(): ...",
        'line 1 größe: the name "größe" is not allowed; names have 1 to 64 of the characters'
        " A-Z a-z 0-9 _ -",
    ),
]


@pytest.mark.parametrize(("text", "message"), PYTHON_REFUSALS)
def test_import_refuses_python(tmp_path: Path, text: str, message: str) -> None:
    """An unusable module names the line, function and parameter."""
    path = write(tmp_path, text, name="tools.py")
    with pytest.raises(InputError) as caught:
        import_tools(path)
    assert str(caught.value) == f"{path}: {message}"


def test_import_refuses_repeated_functions(tmp_path: Path) -> None:
    """A function defined twice is refused."""
    path = write(tmp_path, "def f(): ...\ndef f(): ...", name="tools.py")
    with pytest.raises(InputError) as caught:
        import_tools(path)
    assert str(caught.value) == (
        f'{path}: line 2 f: the name "f" was already used by {path}: line 1 f; names must be unique'
    )


ROOM = Tool(
    name="book_room",
    description="",
    parameters={
        "type": "object",
        "properties": {
            "room": {"type": "string", "pattern": "^R[0-9]+$"},
            "guests": {"type": "integer", "minimum": 1, "maximum": 4},
            "rate": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            "step": {"type": "integer", "multipleOf": 5},
            "view": {"enum": ["sea", "gärten", None]},
            "plan": {"const": "full"},
            "day": {"type": "string", "format": "date"},
            "hour": {"type": "string", "format": "time"},
            "at": {"type": "string", "format": "date-time"},
            "email": {"type": "string", "format": "email"},
            "link": {"type": "string", "format": "uri"},
            "key": {"type": "string", "format": "uuid"},
            "note": {"type": ["string", "null"], "minLength": 1, "maxLength": 3},
            "extras": {
                "type": "array",
                "minItems": 1,
                "maxItems": 2,
                "uniqueItems": True,
                "items": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
                    "required": ["name"],
                    "additionalProperties": False,
                },
            },
            "flags": {"type": "object", "minProperties": 1, "maxProperties": 2},
            "odd": {"not": {"type": "string"}},
        },
        "required": ["room"],
    },
)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"guests": 4},
        {"rate": 0.5, "step": 10, "view": None, "plan": "full"},
        {"day": "2024-02-29", "hour": "18:30", "at": "2024-02-29T18:30:00Z"},
        {"hour": "18:30:05+02:00", "at": "2024-02-29T18:30"},
        {"email": "a@b.c", "link": "https://a.b", "key": "12345678-1234-5678-1234-567812345678"},
        {"note": None, "extras": [{"name": "a"}, {"name": "b", "count": 2}]},
        {"flags": {"any": 1}, "odd": 3},
    ],
)
def test_check_arguments_accepts(arguments: dict[str, Any]) -> None:
    """Arguments that fit the schema are not refused."""
    assert check_arguments(ROOM, {"room": "R1", **arguments}) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"room": 1}, '"room" must be a string, got 1'),
        ({"room": "12"}, '"room" must match the pattern ^R[0-9]+$, got "12"'),
        ({"room": "x" * 100}, f'"room" must match the pattern ^R[0-9]+$, got "{"x" * 58}…'),
        ({"guests": "two"}, '"guests" must be an integer, got "two"'),
        ({"guests": True}, '"guests" must be an integer, got true'),
        ({"guests": 0}, '"guests" must be at least 1, got 0'),
        ({"guests": 5}, '"guests" must be at most 4, got 5'),
        ({"rate": 0}, '"rate" must be greater than 0, got 0'),
        ({"rate": 1}, '"rate" must be less than 1, got 1'),
        ({"step": 7}, '"step" must be a multiple of 5, got 7'),
        ({"view": "hill"}, '"view" must be one of "sea", "gärten", null, got "hill"'),
        ({"plan": "half"}, '"plan" must be "full", got "half"'),
        ({"day": "tomorrow"}, '"day" must be a date such as 2025-03-31, got "tomorrow"'),
        ({"day": "2023-02-29"}, '"day" must be a date such as 2025-03-31, got "2023-02-29"'),
        ({"day": "20230228"}, '"day" must be a date such as 2025-03-31, got "20230228"'),
        ({"hour": "6pm"}, '"hour" must be a time such as 18:30, got "6pm"'),
        (
            {"at": "2024-02-29"},
            '"at" must be a date and time such as 2025-03-31T18:30:00, got "2024-02-29"',
        ),
        ({"email": "ann"}, '"email" must be an email address, got "ann"'),
        ({"link": "a.b"}, '"link" must be a URI such as https://example.com, got "a.b"'),
        ({"key": "1"}, '"key" must be a UUID, got "1"'),
        ({"note": 3}, '"note" must be a string or null, got 3'),
        ({"note": ""}, '"note" must have at least 1 character, got ""'),
        ({"note": "abcd"}, '"note" must have at most 3 characters, got "abcd"'),
        ({"extras": []}, '"extras" must have at least 1 item, got []'),
        ({"extras": [{"name": "a"}] * 2}, '"extras" must not hold an item twice, got'),
        ({"extras": [{}]}, '"extras[0]" must hold "name", got {}'),
        ({"extras": [{"name": 1}]}, '"extras[0].name" must be a string, got 1'),
        (
            {"extras": [{"name": "a", "size": 1}]},
            '"extras[0]" must hold only "name", "count", got {"name": "a", "size": 1}',
        ),
        ({"flags": {}}, '"flags" must have at least 1 entry, got {}'),
        (
            {"flags": {"a": 1, "b": 2, "c": 3}},
            '"flags" must have at most 2 entries, got {"a": 1, "b": 2, "c": 3}',
        ),
        ({"odd": "x"}, '"odd" must fit the schema'),
    ],
)
def test_check_arguments_refuses(arguments: dict[str, Any], message: str) -> None:
    """A wrong value is named with what is allowed and what was given."""
    answer = check_arguments(ROOM, {"room": "R1", **arguments})
    assert answer is not None
    assert answer[: len(message) + 11] == f"book_room: {message}"
    assert answer.endswith(".")


def test_check_arguments_names_unknown_arguments() -> None:
    """Names that the schema lacks are refused, with the names that it has."""
    tool = Tool(
        name="get_it",
        description="",
        parameters={"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]},
    )
    bare = Tool(name="ping", description="", parameters={"type": "object"})
    assert [
        check_arguments(tool, {"a": 1, "c": 2, "d": 3}),
        check_arguments(tool, {"c": 2}),
        check_arguments(bare, {"c": 2}),
        check_arguments(bare, {}),
    ] == [
        'get_it does not take "c", "d"; it takes "a", "b".',
        'get_it does not take "c"; it takes "a", "b".',
        'ping does not take "c"; it takes no arguments.',
        None,
    ]


def test_check_arguments_names_missing_arguments() -> None:
    """All missing arguments are named at once."""
    parameters = {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]}
    tool = Tool(name="get_it", description="", parameters=parameters)
    assert [check_arguments(tool, {}), check_arguments(tool, {"b": 1})] == [
        'get_it needs "a", "b", got no arguments.',
        'get_it needs "a", got "b".',
    ]


def test_check_arguments_lets_open_schemas_be_open() -> None:
    """Schemas that let in other names by a keyword decide about them alone."""

    def answer(arguments: dict[str, Any], **parameters: Any) -> str | None:
        tool = Tool(name="f", description="", parameters={"type": "object", **parameters})
        return check_arguments(tool, arguments)

    inner = {"properties": {"a": {"type": "integer"}}}
    either = {"anyOf": [{"type": "string", "minLength": 2}, {"type": "null"}]}
    listed = {"oneOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}
    both = {"oneOf": [{"type": "integer"}, {"type": "number"}]}
    assert [
        answer({"x": 1}, additionalProperties=True),
        answer({"x": 1}, additionalProperties={"type": "string"}),
        answer({"x": 1}, properties={"a": {}}, additionalProperties=False),
        answer({"x": 1}, patternProperties={"^x": {}}),
        answer({"a": 1}, allOf=[inner]),
        answer({"b": 1}, allOf=[inner]),
        answer({"a": 1}, **{"$ref": "#/$defs/i", "$defs": {"i": inner}}),
        answer({"a": 1}, properties={"a": either}),
        answer({"a": "x"}, properties={"a": either}),
        answer({"a": ["x"]}, properties={"a": listed}),
        answer({"a": 1}, properties={"a": both}),
    ] == [
        None,
        'f: "x" must be a string, got 1.',
        'f: the arguments must hold only "a", got {"x": 1}.',
        None,
        None,
        "f: the arguments must fit the schema (Unevaluated properties are not allowed ('b' was"
        ' unexpected)), got {"b": 1}.',
        None,
        'f: "a" must be a string or be null, got 1.',
        'f: "a" must have at least 2 characters, got "x".',
        'f: "a[0]" must be an integer, got "x".',
        "f: \"a\" must fit the schema (1 is valid under each of {'type': 'number'},"
        " {'type': 'inte…), got 1.",
    ]


def test_check_arguments_does_not_confuse_tools() -> None:
    """Tools with one name, and a schema changed in place, are checked by their schemas' text."""
    parameters: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
    tool = Tool(name="f", description="", parameters=parameters)
    first = check_arguments(tool, {"a": 1})
    parameters["properties"]["a"]["type"] = "integer"
    twin = msgspec.structs.replace(tool, parameters={"type": "object", "properties": {"a": {}}})
    assert [first, check_arguments(tool, {"a": 1}), check_arguments(twin, {"a": []})] == [
        'f: "a" must be a string, got 1.',
        None,
        None,
    ]


def test_check_arguments_is_fast(repository: Repository) -> None:
    """A typical check takes well below a millisecond once the schema is compiled."""
    tool = next(tool for tool in repository.tools if tool.name == "search_hotels")
    arguments = {"city": "Rome", "check_in": "2025-05-01", "check_out": "2025-05-03", "guests": 2}
    durations = []
    for _ in range(50):
        start = time.perf_counter()
        assert check_arguments(tool, arguments) is None
        durations.append(time.perf_counter() - start)
    assert sorted(durations)[25] < 0.001

"""The packaged tools keep their promises, and drawn tools can be used together."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from trustee.errors import InputError
from trustee.tools.files import dump_tools, import_tools
from trustee.tools.repository import Repository
from trustee.types import Tool


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
    assert str(caught.value) == (f"{tmp_path}: no tools found; give a folder of *.json tool files")


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


def test_import_leaves_jsonschema_out() -> None:
    """Who only draws tools does not wait for the import of jsonschema."""
    script = (
        "import sys, trustee.tools.repository; trustee.tools.repository.Repository.load();"
        " print(sorted({'jsonschema', 'trustee.tools.arguments'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert output == "['trustee.tools.arguments']\n"

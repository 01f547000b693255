"""Environments on disk: what is written is read back, and whatever is broken is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blueprints import make_blueprint, make_row
from trustee.environments.executable.blueprint import TurnState
from trustee.environments.executable.blueprint_files import (
    Loaded,
    RefusedBlueprint,
    check_blueprint,
    read_blueprints,
    read_states,
    show_refused_blueprints,
    write_blueprint,
)
from trustee.environments.executable.source_check import SourceChecker
from trustee.errors import InputError
from trustee.types import Message

GOOD = make_blueprint()


def plain(**changes: Any) -> dict[str, Any]:
    """Give an environment's JSON with other values of some keys."""
    builtins: dict[str, Any] = msgspec.to_builtins(GOOD)
    return builtins | changes


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    """Give a tool's JSON."""
    return {
        "name": name,
        "description": "",
        "parameters": {"type": "object"} if parameters is None else parameters,
    }


def without(key: str) -> dict[str, Any]:
    """Give an environment's JSON that lacks a key."""
    return {name: value for name, value in plain().items() if name != key}


def write_lines(path: Path, rows: list[Any]) -> Path:
    """Write rows as lines; a text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_written_environments_are_read_back(tmp_path: Path) -> None:
    """A folder gives its environments in the order of their ids, and holds nothing else."""
    blueprints = [make_blueprint(number) for number in (2, 0, 1)]
    paths = [write_blueprint(blueprint, tmp_path / "new") for blueprint in blueprints]
    assert ["keys-2.json", "keys-0.json", "keys-1.json"] == [path.name for path in paths]
    assert Loaded(blueprints=tuple(make_blueprint(n) for n in range(3))) == read_blueprints(
        tmp_path / "new"
    )
    assert 3 == len(list((tmp_path / "new").iterdir()))
    assert Loaded(blueprints=(blueprints[0],)) == read_blueprints(paths[0])


def test_writing_again_replaces(tmp_path: Path) -> None:
    """The last environment of an id stands."""
    write_blueprint(GOOD, tmp_path)
    write_blueprint(make_blueprint(question="Another?"), tmp_path)
    assert ["Another?"] == [b.question for b in read_blueprints(tmp_path).blueprints]


def test_environments_as_lines(tmp_path: Path) -> None:
    """One file of JSON lines holds many; empty lines are passed over."""
    path = write_lines(
        tmp_path / "all.jsonl",
        [msgspec.json.encode(make_blueprint(0)).decode(), "", plain(id="second")],
    )
    loaded = read_blueprints(path)
    assert ("keys-0", "second") == tuple(blueprint.id for blueprint in loaded.blueprints)
    assert () == loaded.refused


BAD: list[tuple[Any, str]] = [
    ("{", "not JSON"),
    ("[1]", "Expected `object`, got `array`"),
    ('{"a": ' * 5000, "nested deeper"),
    ('{"id": "\\ud800"}', "not JSON"),
    (without("question"), "missing required field `question`"),
    (plain(extra=1), "unknown field `extra`"),
    (plain(tools=3), "Expected `array`, got `int`"),
    (plain(scenario="other"), "Invalid enum value 'other'"),
    (plain(id="../up"), "allowed are letters, digits"),
    (plain(id="keys-0"), "the id keys-0 was already used"),
    (plain(question=" \n"), "question is empty"),
    (plain(tools=[*plain()["tools"], tool("repeat")]), 'the name "repeat" was already used'),
    (plain(tools=[tool("find_thing", {"type": "string"})]), 'with "type": "object"'),
    (
        plain(tools=[tool("find_thing", {"type": "object", "properties": 3})]),
        "not a JSON Schema",
    ),
    (plain(tools=[tool("a b")]), "is not allowed; names have"),
    (plain(sources={}), "tools and sources differ in find_thing, read_label, repeat"),
    (plain(sources=plain()["sources"] | {"more": ""}), "tools and sources differ in more"),
    (plain(sources=plain()["sources"] | {"repeat": "def repeat(:"}), "does not compile"),
    (plain(sources=plain()["sources"] | {"repeat": "x = '\0'"}), "does not compile"),
    (plain(sources=plain()["sources"] | {"repeat": "(" * 9999}), "does not compile"),
    (plain(sources=plain()["sources"] | {"repeat": "return 1"}), "does not compile"),
    (plain(sources=plain()["sources"] | {"repeat": "def other(): 1"}), "does not define it"),
    (plain(sources=plain()["sources"] | {"repeat": "#" * 10_000_000}), "10000000 characters"),
    (plain(unsolved={"nobody": ["1"]}), "unsolved names nobody"),
    (plain(unsolved={}), "nothing to bring"),
    (plain(unsolved={"repeat": []}), "nothing to bring"),
    (plain(unsolved={"repeat": [" "]}), "an empty sub-answer"),
    (
        plain(gold=[{"name": "nobody", "arguments": {}, "answer": "1"}]),
        "gold names nobody",
    ),
]


def test_bad_rows_are_named_and_the_rest_is_used(tmp_path: Path) -> None:
    """Each broken row is refused with its line and its own reason."""
    for index, (row, _) in enumerate(BAD):
        if (
            isinstance(row, dict)
            and row.get("id") == "keys-0"
            and "was already" not in BAD[index][1]
        ):
            row["id"] = f"bad-{index}"
    path = write_lines(tmp_path / "all.jsonl", [plain(), *(row for row, _ in BAD)])
    loaded = read_blueprints(path)
    assert (GOOD,) == loaded.blueprints
    assert [f"all.jsonl:{n}" for n in range(2, len(BAD) + 2)] == [one.row for one in loaded.refused]
    for (_, reason), refused in zip(BAD, loaded.refused, strict=True):
        assert reason in refused.reason
        assert len(refused.reason) < 500


def test_file_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    """The error gives the first reasons and says how many more there are."""
    path = write_lines(tmp_path / "all.jsonl", ["{}", "{", "[]", "1", "2"])
    with pytest.raises(InputError, match=r"all.jsonl: no usable environment") as caught:
        read_blueprints(path)
    assert "all.jsonl:1: Object missing required field `id`" in str(caught.value)
    assert "all.jsonl:3: Expected `object`, got `array`" in str(caught.value)
    assert str(caught.value).endswith("; and 2 more")


def test_rows_may_be_an_array_and_have_marks_of_other_editors(tmp_path: Path) -> None:
    """An array, the mark of UTF-8, line ends of Windows and bytes that are no text are all read."""
    first, second = (json.dumps(plain(id=name)).encode() for name in ("a", "b"))
    for data in (
        b"\xef\xbb\xbf" + first + b"\r\n\r\n" + second + b"\r\n",
        b"\xef\xbb\xbf [" + first + b",\n" + second + b"]",
        first + b"\n" + b"\xff{}\n" + second,
    ):
        (tmp_path / "rows").write_bytes(data)
        loaded = read_blueprints(tmp_path / "rows")
        assert ["a", "b"] == [blueprint.id for blueprint in loaded.blueprints]
    assert ["rows:2"] == [one.row for one in loaded.refused]
    assert loaded.refused[0].reason.startswith("not JSON")


def test_one_bad_file_of_a_folder_is_named(tmp_path: Path) -> None:
    """What is no file, or no text, costs nobody the others."""
    write_blueprint(GOOD, tmp_path)
    (tmp_path / "a.json").mkdir()
    (tmp_path / "b.json").write_bytes(b"\xff")
    loaded = read_blueprints(tmp_path)
    assert (GOOD,) == loaded.blueprints
    assert ["a.json", "b.json"] == [one.row for one in loaded.refused]
    assert "is a folder" in loaded.refused[0].reason


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    """An empty folder, an empty file and no file at all are errors of the user's."""
    (tmp_path / "empty.jsonl").write_text("")
    for path in (tmp_path, tmp_path / "empty.jsonl"):
        with pytest.raises(InputError, match="there are no rows at all"):
            read_blueprints(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_blueprints(tmp_path / "nowhere.jsonl")


def test_parquet_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet needs a package; without it the message says so and names the way out."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="needs the package pyarrow"):
        read_blueprints(tmp_path / "rows.parquet")


def test_parquet_through_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a parquet file are published rows like any others."""
    table = type("Table", (), {"to_pylist": lambda self: [make_row(GOOD), {"codes": "{}"}]})
    parquet = type("Parquet", (), {"read_table": staticmethod(lambda path: table())})
    arrow = type("Arrow", (), {"ArrowInvalid": type("ArrowInvalid", (ValueError,), {})})
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", arrow)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", parquet)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    loaded = read_blueprints(tmp_path / "rows.parquet")
    assert [GOOD.question] == [blueprint.question for blueprint in loaded.blueprints]
    assert ["rows.parquet:2"] == [refused.row for refused in loaded.refused]


def test_published_rows_are_told_by_their_keys(tmp_path: Path) -> None:
    """Both forms may stand in one file."""
    path = write_lines(tmp_path / "all.jsonl", [make_row(make_blueprint(1)), plain()])
    first, second = read_blueprints(path).blueprints
    assert first.id.startswith("multi_hop-")
    assert GOOD == second


def test_row_in_mid_episode_is_a_state(tmp_path: Path) -> None:
    """It needs the row that begins its episode, which alone says what was owed."""
    begun = make_row(GOOD)
    later = make_row(
        GOOD,
        messages=[*begun["messages"], {"role": "assistant", "content": "so"}],
        unsolved_set=json.dumps({"find_thing": [], "read_label": ["400"]}),
        solve_rate=0.5,
    )
    loaded = read_blueprints(write_lines(tmp_path / "all.jsonl", [later, begun]))
    (blueprint,) = loaded.blueprints
    assert GOOD.unsolved == blueprint.unsolved
    assert [0.5, 0.0] == [state.solve_rate for state in loaded.states]
    assert {"find_thing": (), "read_label": ("400",)} == loaded.states[0].unsolved
    with pytest.raises(InputError, match="whose beginning is not in the file"):
        read_blueprints(write_lines(tmp_path / "later.jsonl", [later]))


def test_states_are_read(tmp_path: Path) -> None:
    """Lines of states and published rows are both states, of environments that are known."""
    state = TurnState(
        blueprint=GOOD.id,
        messages=(Message(role="user", content="?"),),
        unsolved={"read_label": ("400",)},
        solve_rate=0.5,
    )
    path = tmp_path / "states.jsonl"
    write_lines(path, [msgspec.json.encode(state).decode()])
    assert (state,) == read_states(path, Loaded(blueprints=(GOOD,)))
    with pytest.raises(InputError, match="the environment keys-0 is not among the 1"):
        read_states(path, Loaded(blueprints=(make_blueprint(1),)))
    with pytest.raises(InputError, match=r"states.jsonl:1: not a state"):
        read_states(write_lines(path, ["{}"]), Loaded(blueprints=(GOOD,)))
    with pytest.raises(InputError, match=r"states.jsonl:1: not a state \(not JSON"):
        read_states(write_lines(path, ["{"]), Loaded(blueprints=(GOOD,)))
    path.write_text("")
    with pytest.raises(InputError, match="no states"):
        read_states(path, Loaded(blueprints=(GOOD,)))


def test_unusable_environment_is_not_written(tmp_path: Path) -> None:
    """What could not be read back is refused, and no file is made."""
    with pytest.raises(InputError, match="question is empty"):
        write_blueprint(make_blueprint(question=""), tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_packed_environments_are_those_of_the_tests() -> None:
    """The file that other tests play holds what `make_blueprint` makes."""
    path = Path(__file__).parents[2] / "data" / "ftrl" / "keys.jsonl"
    assert tuple(map(make_blueprint, range(24))) == read_blueprints(path).blueprints


def test_reasons_are_shown() -> None:
    """A few reasons are shown whole."""
    assert "a:1: x" == show_refused_blueprints([RefusedBlueprint(row="a:1", reason="x")])


@pytest.fixture(scope="module")
def checker() -> Iterator[SourceChecker]:
    """Start one process for all examples."""
    with SourceChecker() as process:
        yield process


@settings(max_examples=60)
@given(source=st.text(max_size=60))
def test_any_source_is_taken_or_refused(checker: SourceChecker, source: str) -> None:
    """No text given as source does more than be refused."""
    sources = {**GOOD.sources, "repeat": source}
    reason = "repeat was taken"
    try:
        check_blueprint(make_blueprint(sources=sources), checker)
    except InputError as error:
        reason = str(error)
    assert "repeat" in reason

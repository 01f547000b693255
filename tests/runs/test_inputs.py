"""What a run reads is kept with it: found by type, copied, hashed, and held against the hash."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta

from golden_errors import ErrorCheck
from trustee.errors import InputError
from trustee.runs import inputs
from trustee.runs.inputs import (
    INPUT,
    InputPath,
    StoredInput,
    check_inputs,
    find_input_keys,
    find_inputs,
    hash_input,
    keep_input,
    keep_inputs,
    pin_inputs,
    place_of,
    replace_inputs,
)
from trustee.types import Record


class Inner(Record, frozen=True):
    """A section with inputs."""

    path: InputPath
    states: InputPath | None = None
    tools: Annotated[str, Meta(extra={INPUT: ("", "own")})] = ""
    note: str = "notes.txt"


class Whole(Record, frozen=True):
    """A config with a section twice."""

    env: Inner
    other: Inner | None = None


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder and two files, and work beside them."""
    (tmp_path / "blueprints" / "more").mkdir(parents=True)
    (tmp_path / "blueprints" / "a.json").write_text("{}")
    (tmp_path / "blueprints" / "more" / "b.json").write_text("[]")
    (tmp_path / "tools.json").write_text("[1]")
    (tmp_path / "notes.txt").write_text("not an input")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_inputs_are_found_by_type(there: Path) -> None:
    """At any depth; names of the package and what is not there are no inputs."""
    other = Inner(path="none", states="tools.json", tools="own")
    config = Whole(env=Inner(path="blueprints", tools="tools.json"), other=other)
    assert {
        "env.path": Path("blueprints"),
        "env.tools": Path("tools.json"),
        "other.states": Path("tools.json"),
    } == find_inputs(config)
    assert {"env.path", "env.tools", "other.path", "other.states"} == find_input_keys(config)
    moved = replace_inputs(config, {"other.states": Path("/x"), "env.path": Path("/y")})
    assert ("/y", "tools.json") == (moved.env.path, moved.env.tools)
    assert moved.other is not None
    assert ("none", "/x") == (moved.other.path, moved.other.states)


def test_inputs_are_kept(there: Path) -> None:
    """The copies are equal, and the run reads them when the originals are gone."""
    config = Whole(env=Inner(path="blueprints", tools="tools.json"))
    run = there / "run"
    stored = keep_inputs(find_inputs(config), run)
    assert str(there / "tools.json") == stored["env.tools"].origin
    for name in ("blueprints", "tools.json"):
        path = there / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run.rename(there / "moved")
    check_inputs(stored, there / "moved")
    places = {key: place_of(one, there / "moved") for key, one in stored.items()}
    assert "[1]" == places["env.tools"].read_text()
    assert "[]" == (places["env.path"] / "more" / "b.json").read_text()
    # A stage or a second call keeps what is already kept.
    again = keep_inputs(places, there / "moved")
    assert [one.sha256 for one in stored.values()] == [one.sha256 for one in again.values()]
    check_inputs(again, there / "moved")


def test_kept_again_is_replaced(there: Path) -> None:
    """A file in the place of a folder, left by a start that failed, gives way."""
    keep_input("env.path", there / "blueprints", there / "run")
    (there / "blueprints" / "a.json").unlink()
    stored = keep_input("env.path", there / "blueprints", there / "run")
    assert not (place_of(stored, there / "run") / "a.json").exists()


@pytest.mark.parametrize("change", ["gone", "other", "more"])
def test_input_that_has_changed(there: Path, check_error: ErrorCheck, change: str) -> None:
    """A copy that is gone or no longer what it was is named, with the place that it came from."""
    run = there / "run"
    stored = keep_inputs({"env.path": there / "blueprints"}, run)
    copy = place_of(stored["env.path"], run)
    if change == "gone":
        shutil.rmtree(copy)
    else:
        (copy / ("a.json" if change == "other" else "c.json")).write_text("{} ")
    with pytest.raises(InputError) as caught:
        check_inputs(stored, run)
    check_error(caught, copy, "env.path")


def test_large_input_stays_where_it_is(
    there: Path, monkeypatch: pytest.MonkeyPatch, check_error: ErrorCheck
) -> None:
    """It is not copied, but held against its hash all the same."""
    monkeypatch.setattr(inputs, "MOST_COPIED", 2)
    stored = keep_input("env.tools", there / "tools.json", there / "run")
    assert ("", there / "tools.json") == (stored.copy, place_of(stored, there / "run"))
    assert not (there / "run").exists()
    (there / "tools.json").write_text("[2]")
    with pytest.raises(InputError) as caught:
        check_inputs({"env.tools": stored}, there / "run")
    check_error(caught, there / "tools.json", stored.sha256[:12])


def test_stage_does_not_copy_what_the_run_has_kept(there: Path) -> None:
    """The stages of a run read the run's own copies."""
    stored = keep_input("env.tools", there / "tools.json", there / "run")
    inner = keep_input("env.tools", place_of(stored, there / "run"), there / "run" / "teaching")
    assert ("", stored.sha256) == (inner.copy, inner.sha256)


def test_record_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    """Of a recorded copy the name alone counts."""
    stored = StoredInput(origin="x", sha256="y", copy="../../etc/passwd")
    assert tmp_path / "inputs" / "passwd" == place_of(stored, tmp_path)


def test_hash_is_of_the_content_alone(there: Path) -> None:
    """Equal folders have equal hashes wherever they lie; a file that moves inside changes it."""
    shutil.copytree(there / "blueprints", there / "same")
    assert hash_input(there / "blueprints") == hash_input(there / "same")
    (there / "same" / "a.json").rename(there / "same" / "z.json")
    assert hash_input(there / "blueprints") != hash_input(there / "same")
    one, two = (
        pin_inputs(Whole(env=Inner(path=str(there / name)))) for name in ("blueprints", "same")
    )
    assert one != two

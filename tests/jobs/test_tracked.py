"""What trackers are told first, how a run is known again, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from golden_errors import ErrorCheck
from trustee.config import Config, read_config
from trustee.errors import InputError
from trustee.events import Emit
from trustee.jobs import tracked
from trustee.jobs.tracked import begin_of, read_tracked, run_tracked
from trustee.trackers import extras
from trustee.trackers.messages import Begin

ROOT = Path(__file__).parents[2]


def config_with(*names: str) -> Config:
    """Return the tiny config with trackers."""
    return read_config(ROOT / "configs" / "tiny.toml", [f"run.report_to={json.dumps(names)}"])


def test_a_continued_run_has_the_id_of_its_beginning(tmp_path: Path) -> None:
    """Whatever it is called meanwhile."""
    first = begin_of(config_with("wandb"), tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    second = begin_of(config_with("wandb"), tmp_path / "two")
    assert (first.id, "one") == (second.id, second.name)
    assert str(tmp_path / "two") == second.folder
    assert first.id != begin_of(config_with("wandb"), tmp_path / "three").id


def test_the_config_is_told_flat(tmp_path: Path) -> None:
    """By whole key, without what is switched off."""
    config = begin_of(config_with("wandb"), tmp_path).config
    assert "tiny" == config["model.path"]
    assert ["wandb"] == config["run.report_to"]
    assert "run.adapter" not in config


@pytest.mark.parametrize(
    "text", ["", "{", '{"id":"../../x","name":"a"}', '{"id":"abcdef012345"}', '{"id":3,"name":"a"}']
)
def test_a_record_that_cannot_be_used_is_made_again(tmp_path: Path, text: str) -> None:
    """A folder may come from a stranger, and an id may stand in paths."""
    (tmp_path / "trackers.json").write_text(text)
    assert read_tracked(tmp_path / "trackers.json") is None
    begin = begin_of(config_with("wandb"), tmp_path)
    known = read_tracked(tmp_path / "trackers.json")
    assert known is not None
    assert begin.id == known.id


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    """A run that reports to nobody leaves no id."""

    async def job(tell: Emit) -> int:
        return 3

    assert 3 == anyio.run(
        lambda: run_tracked(config_with(), tmp_path, job, emit=lambda event: None)
    )
    assert [] == list(tmp_path.iterdir())


def test_a_missing_package_is_refused_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_error: ErrorCheck
) -> None:
    """With the line that installs it; found out without importing anything."""
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "wandb" else name)

    async def job(tell: Emit) -> None:
        pytest.fail("the job was begun")

    config = config_with("wandb", "trackio", "wandb")
    with pytest.raises(InputError) as caught:
        anyio.run(lambda: run_tracked(config, tmp_path, job, emit=lambda event: None))
    check_error(caught, "pip install 'trustee[wandb]'", "run.report_to")
    assert [] == list(tmp_path.iterdir())


def test_two_missing_packages_are_one_line(
    monkeypatch: pytest.MonkeyPatch, check_error: ErrorCheck
) -> None:
    """Both are named."""
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        extras.require_trackers(["wandb", "tensorboard"])
    check_error(caught, "pip install 'trustee[wandb,tensorboard]'")


def test_trackers_are_told_which_run_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, folder and first message go to the relay."""
    seen: list[tuple[Sequence[str], Begin | None, Path]] = []

    @asynccontextmanager
    async def open_trackers(
        names: Sequence[str], begin: Begin | None, *, folder: Path, emit: Emit
    ) -> AsyncIterator[Emit]:
        seen.append((names, begin, folder))
        yield emit

    async def job(tell: Emit) -> str:
        return "done"

    monkeypatch.setattr(tracked, "open_trackers", open_trackers)
    monkeypatch.setattr(tracked, "require_trackers", lambda names: None)
    told = anyio.run(
        lambda: run_tracked(config_with("trackio"), tmp_path, job, emit=lambda event: None)
    )
    assert "done" == told
    ((names, begin, folder),) = seen
    assert (("trackio",), tmp_path) == (names, folder)
    assert begin is not None
    assert tmp_path.name == begin.name

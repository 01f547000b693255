"""What makes the command line easy: names of configs and runs, lists, first configs, dry runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden_errors import ErrorCheck
from run_folders import make_run
from trustee.cli.commands.options import (
    BAD_INPUT,
    DONE,
    EXIT_CODES,
    FAILED,
    NO_MEMORY,
    STALLED,
    error_code,
    find_config,
    find_run,
)
from trustee.cli.main import main, make_parser
from trustee.config import PACKAGED, read_config
from trustee.errors import EngineDied, InputError, OutOfMemory, RunError, TrusteeError


@pytest.mark.parametrize("name", ["tiny", "tiny.toml", "configs/tiny.toml"])
def test_a_config_of_the_package_is_found_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed program has its configs with it; a file that is there comes first."""
    monkeypatch.chdir(tmp_path)
    assert PACKAGED / "tiny.toml" == find_config(Path(name), "x.toml")
    assert PACKAGED / "ftrl.toml" == find_config(None, "ftrl.toml")
    assert Path("other/tiny.toml") == find_config(Path("other/tiny.toml"), "x.toml")
    Path("tiny").write_text("mine")
    if name == "tiny":
        assert Path("tiny") == find_config(Path(name), "x.toml")


def test_latest_is_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_error: ErrorCheck
) -> None:
    """By the time at which it began; without a run it says so."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        find_run(Path("latest"))
    check_error(caught, "latest", "runs")
    for name in ("20250101-000000", "20260101-000000", "20240101-000000"):
        make_run(tmp_path / "runs" / name)
        (tmp_path / "runs" / name / "events.jsonl").unlink()
    assert Path("runs/20260101-000000") == find_run(Path("latest"))
    assert Path("runs/x") == find_run(Path("runs/x"))


def test_runs_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line per run, with state and success."""
    make_run(tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "metrics.jsonl").write_text("{")
    assert DONE == main(["runs", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert 2 == len(lines)
    (one,) = (line for line in lines if line.startswith("one"))
    assert "finished" in one
    assert "25%" in one
    assert "step 5 of 5" in one
    assert any("foreign" in line for line in lines)
    assert DONE == main(["runs", str(tmp_path), "--json"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"finished", "foreign"} == {run["state"] for run in told}


def test_a_first_config_is_written_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], check_error: ErrorCheck
) -> None:
    """It can be read as it is; above each key stands what it means, in the words of its kind."""
    file = tmp_path / "mine.toml"
    assert DONE == main(["init", str(file), "--like", "tiny"])
    assert read_config(PACKAGED / "tiny.toml") == read_config(file)
    text = file.read_text()
    assert text.startswith("#")
    assert "# Number of optimiser steps.\nsteps = 80\n" in text
    assert BAD_INPUT == main(["init", str(file)])
    assert BAD_INPUT == main(["init", str(tmp_path / "b.toml"), "--like", "none"])
    told = capsys.readouterr().err
    assert "is there already" in told
    assert "--like none: the package has" in told


def test_a_dry_run_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what would happen, by the short options, and leaves no folder."""
    monkeypatch.chdir(tmp_path)
    options = ["--config", "tiny", "--steps", "3", "--minutes", "2", "--seed", "4", "--name", "a"]
    assert DONE == main(["run", *options, "--dry-run"])
    told = capsys.readouterr().out
    for part in ("nothing was started", "tiny", "3 steps", "2 minutes", "runs/a"):
        assert part in told
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a/b", "..", ".", ".hidden", "/a"])
def test_a_name_is_no_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path has an option of its own."""
    monkeypatch.chdir(tmp_path)
    assert BAD_INPUT == main(["run", "--config", "tiny", "--name", name, "--dry-run"])
    assert "--out takes a path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), BAD_INPUT),
        (OutOfMemory("x"), NO_MEMORY),
        (EngineDied("x"), STALLED),
        (RunError("x"), FAILED),
    ],
)
def test_each_kind_of_end_has_a_code_that_help_explains(error: TrusteeError, code: int) -> None:
    """A script can tell what happened."""
    assert code == error_code(error)
    assert f"{code}  {EXIT_CODES[code]}" in make_parser().format_help()

"""`trustee build` as users run it: what is refused, what is made, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import FTRL, ROOMY, never_start, refuse, succeed
from scripted_program import play_with
from scripts import perfect
from trustee.cli.commands.options import BAD_INPUT, FAILED
from trustee.cli.main import main
from trustee.engine.script import Request
from trustee.environments.executable.blueprint_files import read_blueprints


def command(out: Path, *more: object, count: int = 2) -> list[object]:
    """Give the words of a build of the micro-world."""
    return ["build", "--config", FTRL, "--out", out, "--count", count, *ROOMY, *more]


@pytest.mark.parametrize("count", [0, -3])
def test_count_must_be_positive(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, count: int
) -> None:
    """Nothing is made for no environments."""
    told = refuse(capfd, *command(tmp_path / "new", count=count))
    assert f"--count must be 1 or more, got {count}" == told
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "given", [["--scenario", "far_hop"], ["--count", "many"], ["--seed", "x"]], ids=str
)
def test_usage(capfd: pytest.CaptureFixture[str], tmp_path: Path, given: list[str]) -> None:
    """What is no number and no scenario is a usage error."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in command(tmp_path / "new", *given)])
    assert BAD_INPUT == caught.value.code
    assert f"argument {given[0]}: invalid" in capfd.readouterr().err


def test_missing_config(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A config that is not there is named, and nothing is made."""
    told = refuse(capfd, "build", "--config", "no.toml", "--out", tmp_path / "new", "--count", 1)
    assert told.startswith("no.toml: cannot be read (No such file or directory)")
    assert not (tmp_path / "new").exists()


def test_config_that_is_not_there(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away from the project, the configs of the package are named."""
    monkeypatch.chdir(tmp_path)
    config = ["--config", "configs/none.toml"]
    told = refuse(capfd, "build", *config, "--out", tmp_path / "new", "--count", 1)
    assert told.startswith("configs/none.toml: cannot be read (No such file")
    assert "configs/ftrl.toml" in told


def test_environments_are_built(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run in the sandbox, lie where the last line says, and a resumed build makes more."""
    engine = play_with(monkeypatch, perfect)
    lines = succeed(capfd, *command(tmp_path / "a"))
    built = tmp_path / "a" / "blueprints"
    assert f"environments  {built}" == lines[-1]
    assert f"building 2 environments in {tmp_path / 'a'}" in lines
    assert 2 == len(read_blueprints(built).blueprints)
    before = {path.name: path.read_bytes() for path in built.iterdir()}
    started = len(engine.opened)
    told = refuse(capfd, *command(tmp_path / "a", count=3))
    assert (
        f"{tmp_path / 'a'} already contains a build; give --resume to continue it, or another --out"
    ) == told
    told = refuse(capfd, *command(tmp_path / "a", "--resume", "--seed", "9", count=3))
    assert (
        f"{tmp_path / 'a'} was built with other settings: seed was 0, now 9; continue with the "
        "same, or give another --out"
    ) == told
    assert started == len(engine.opened), "the engine was started for a build that was refused"
    events = succeed(capfd, *command(tmp_path / "a", "--resume", "--json", count=3))
    last: dict[str, Any] = json.loads(events[-1])
    assert ("result", 3, 3) == (last["event"], last["accepted"], last["wanted"])
    after = {path.name: path.read_bytes() for path in built.iterdir()}
    assert 3 == len(after)
    assert before.items() < after.items()


def test_build_in_parts(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts on machines of their own are joined to the build of one, and what is double is told."""
    play_with(monkeypatch, perfect)
    succeed(capfd, *command(tmp_path / "whole", count=4))
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, start=1):
        lines = succeed(capfd, *command(part, "--shard", f"{number}/2", count=4))
        assert f"building 2 environments in {part}" in lines
    told = refuse(capfd, *command(parts[0], "--resume", count=4))
    assert f"{parts[0]} holds shard 1/2 of trustee build; continue it with --shard 1/2" in told
    lines = succeed(capfd, "merge", tmp_path / "joined", *parts)
    assert f"environments  {tmp_path / 'joined' / 'blueprints'}" == lines[-1]
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "blueprints").iterdir()}
        for name in ("whole", "joined")
    )
    assert 4 == len(one)
    assert one == other
    (twin,) = (tmp_path / "2" / "blueprints").glob("*-000001.json")
    first = json.loads((tmp_path / "1" / "blueprints" / twin.name.replace("1.", "0.")).read_bytes())
    mine = json.loads(twin.read_bytes())
    twin.write_text(json.dumps(first | {key: mine[key] for key in ("id", "provenance")}))
    assert FAILED == main(["merge", str(tmp_path / "again"), *map(str, parts)])
    (last,) = capfd.readouterr().out.splitlines()[-1:]
    assert last.startswith("double between parts: 1; build others in their places")
    words = last.partition("trustee ")[2].split()
    succeed(capfd, *words, "--config", FTRL, *ROOMY)
    assert 4 == len(read_blueprints(tmp_path / "again" / "blueprints").blueprints)


def test_build_that_falls_short(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer environments than were wanted are a failure, told with the reasons."""

    def mumble(request: Request) -> str:
        return "?"

    engine = play_with(monkeypatch, perfect)
    monkeypatch.setattr(engine, "_script", mumble)
    words = command(tmp_path, "--set", "build.attempts=1", count=1)
    assert FAILED == main([str(word) for word in words])
    captured = capfd.readouterr()
    assert "" == captured.err
    assert "place 0 stays empty (build.attempts)" in captured.out.splitlines()
    assert "0 of 1 environments from 1 candidates, 0.0 tools each" in captured.out.splitlines()


def test_card_for_a_cpu_config(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card and a config for none contradict each other."""
    started = never_start(monkeypatch)
    told = refuse(capfd, *command(tmp_path / "new", "--gpu", "0"))
    assert told.startswith("--gpu 0 was given but engine.device is cpu in the config; ")
    assert ([], False) == (started, (tmp_path / "new").exists())

"""`trustee collect` as users run it: players, folders, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import ROOMY, TINY, never_start, refuse, succeed, write_adapter
from golden_errors import ErrorCheck
from scripted_program import play_with
from scripts import perfect
from trustee.runs.store import EpisodeLine, read_lines
from trustee.sft.demonstrations import Demonstration


def command(out: Path, *more: object, count: int = 2) -> list[object]:
    """Give the words of a collection in the true micro-world."""
    world = ("--set", "env={kind='microworld'}", "--set", "collect.attempts=1")
    return ["collect", TINY, "--out", out, "--count", count, *ROOMY, *world, *more]


@pytest.mark.parametrize(
    ("given", "count", "named"),
    [
        ((), 0, ("--count", "got 0")),
        (
            ("--adapter", "a", "--teacher"),
            2,
            ("--adapter", "teacher"),
        ),
        (
            ("--teacher-model", "m"),
            2,
            ("--teacher-model", "--teacher-url"),
        ),
        (
            ("--adapter", "/none"),
            2,
            ("/none", "adapter_config.json", "adapters/policy-*"),
        ),
    ],
    ids=["count", "two players", "model", "adapter"],
)
def test_bad_input_makes_no_folder(
    check_error: ErrorCheck,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str, ...],
    count: int,
    named: tuple[str, ...],
) -> None:
    """What cannot be played is refused in one line, without an engine and without a trace."""
    started = never_start(monkeypatch)
    check_error(refuse(capfd, *command(tmp_path / "new", *given, count=count)), *named)
    assert ([], []) == (started, list(tmp_path.iterdir()))


def test_adapter_of_another_rank(
    check_error: ErrorCheck,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An adapter must have the rank that the config trains."""
    started = never_start(monkeypatch)
    folder = write_adapter(tmp_path / "adapter", rank=32)
    real = ("--set", "engine={device='cpu', weights='bf16'}", "--set", "model.path=tiny")
    check_error(
        refuse(capfd, *command(tmp_path / "new", "--adapter", folder), *real),
        folder,
        "rank 32",
        "learn.rank is 16",
        "learn.rank=32",
    )
    assert ([], False) == (started, (tmp_path / "new").exists())


def test_folder_of_a_run(
    check_error: ErrorCheck,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run's folder is left as it is."""
    started = never_start(monkeypatch)
    (tmp_path / "run.json").write_text("{}")
    check_error(refuse(capfd, *command(tmp_path)), tmp_path)
    assert ([], "{}") == (started, (tmp_path / "run.json").read_text())


def test_teacher_is_collected(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection says what to do next; the same call goes on, another one is refused."""
    play_with(monkeypatch, perfect)
    lines = succeed(capfd, *command(tmp_path, "--teacher"))
    assert "task 2 of 2  kept 2 episodes" in lines
    assert [
        "2 tasks, 2 episodes, 2 kept",
        f"2 demonstrations  {tmp_path / 'demonstrations.jsonl'}",
        f"next  trustee sft CONFIG {tmp_path}",
        f"read them  trustee view {tmp_path} --limit 0",
    ] == lines[-4:]
    shown: list[Demonstration] = read_lines(tmp_path / "demonstrations.jsonl", Demonstration)
    assert 2 == len(shown)
    before = (tmp_path / "episodes.jsonl").read_bytes()
    told = refuse(capfd, *command(tmp_path))
    assert told.startswith(f"{tmp_path} was collected with another player; name another folder")
    assert before == (tmp_path / "episodes.jsonl").read_bytes()
    events = succeed(capfd, *command(tmp_path, "--teacher", "--json", count=3))
    last = json.loads(events[-1])
    assert ("result", 3, 3) == (last["event"], last["tasks"], last["kept"])
    assert (tmp_path / "episodes.jsonl").read_bytes().startswith(before)
    assert 3 == len(list(read_lines(tmp_path / "episodes.jsonl", EpisodeLine)))

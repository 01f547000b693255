"""`--shard` and `trustee merge` as users run them: a collection in parts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from command_line import FTRL, ROOMY, TINY, never_start, refuse, succeed, write_adapter
from golden_errors import ErrorCheck
from scripted_program import learnt, play_with, small_config
from scripts import perfect
from trustee.jobs.run_metadata import describe_run
from trustee.runs.store import read_lines
from trustee.types import Trajectory


def command(out: Path, *more: object) -> list[object]:
    """Give the words of a collection of three tasks in the true micro-world."""
    world = ("--set", "env={kind='microworld'}", "--set", "collect.attempts=1")
    return ["collect", TINY, "--out", out, "--count", 3, "--teacher", *ROOMY, *world, *more]


def test_collection_in_parts(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two parts are collected and joined; the joined folder is read and continued like another."""
    play_with(monkeypatch, perfect)
    for number in (1, 2):
        succeed(capfd, *command(tmp_path / f"{number}", "--shard", f"{number}/2"))
    out = tmp_path / "out"
    said = succeed(capfd, "merge", out, tmp_path / "1", tmp_path / "2")
    assert "3 tasks, 3 episodes, 3 kept" == said[0]
    assert f"3 demonstrations  {out / 'demonstrations.jsonl'}" in said
    told = succeed(capfd, "merge", tmp_path / "again", tmp_path / "1", tmp_path / "2", "--json")
    result = json.loads(told[-1])
    assert ("result", 3, 3) == (result["event"], result["tasks"], result["demonstrations"])
    engine = play_with(monkeypatch, perfect)
    assert "3 tasks, 3 episodes, 3 kept" in succeed(capfd, *command(out))
    assert [] == engine.requests


def test_evaluation_in_parts(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two parts of a run's evaluation are played beside it and joined to its comparison."""
    play_with(monkeypatch, learnt)
    run, out = tmp_path / "run", tmp_path / "out"
    write_adapter(run / "adapters" / "policy-000001", rank=16)
    (run / "run.json").write_bytes(msgspec.json.encode(describe_run(small_config("eval.tasks=3"))))
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, start=1):
        said = succeed(capfd, "eval", run, "--out", part, "--shard", f"{number}/2")
        assert f"shard {number}/2" in said
    assert {"adapters", "run.json"} == {path.name for path in run.iterdir()}
    said = succeed(capfd, "merge", out, *parts)
    assert said[0].startswith("base     0.0% (")
    assert said[1].startswith("adapter  100.0% (")
    assert 3 == len(read_lines(out / "eval-adapter.jsonl", Trajectory))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("collect", TINY, "--out", "x", "--count", 3, "--shard", "4/3"), ("4/3", "K/N")),
        (("collect", TINY, "--out", "x", "--count", 3, "--shard", "1/4"), ("1/4", "at most 3")),
        (
            ("build", "--config", FTRL, "--out", "x", "--count", 2, "--shard", "1/3"),
            ("1/3", "at most 2"),
        ),
        (("eval", "run", "--shard", "1/2"), ("--out",)),
        (("eval", "run", "--shard", "1/2", "--out", "x", "--suite", "bfcl"), ("--suite",)),
        (("eval", "run", "--shard", "1/2", "--out", "x", "--retention"), ("--retention",)),
        (("eval", "run", "--shard", "1/2", "--out", "x", "--where"), ("--where",)),
        (("merge", "x", "none"), ("none", "shard.json")),
    ],
    ids=["number", "tasks", "environments", "out", "suite", "retention", "where", "no shard"],
)
def test_refusals(
    check_error: ErrorCheck,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
    named: tuple[str, ...],
) -> None:
    """What cannot be shared out or joined is refused in one line, without an engine."""
    monkeypatch.chdir(tmp_path)
    started = never_start(monkeypatch)
    check_error(refuse(capfd, *words), *named)
    assert ([], []) == (started, list(tmp_path.iterdir()))

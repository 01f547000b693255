"""`trustee sft` as users run it: files, folders, resuming, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from command_line import ROOMY, TINY, never_start, refuse, succeed
from golden_errors import ErrorCheck
from scripted_program import play_with
from scripts import perfect
from trustee.sft.demonstrations import Demonstration
from trustee.types import Message

FEW = ("sft.epochs=1", "sft.demonstrations=2", "sft.held_out=0")
CHANGES = [*ROOMY, *(word for change in FEW for word in ("--set", change))]
ROWS = [
    Demonstration(
        task_id=f"{number}",
        tools=(),
        messages=(
            Message(role="user", content=f"say {number}"),
            Message(role="assistant", content=f"{number}"),
        ),
    )
    for number in range(4)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write four demonstrations and a row that is none."""
    path = tmp_path / "shown.jsonl"
    path.write_bytes(b"\n".join([b"{broken", *map(msgspec.json.encode, ROWS)]) + b"\n")
    return path


@pytest.mark.parametrize("given", [(), (TINY,)], ids=["nothing", "config alone"])
def test_config_and_file_are_needed(
    check_error: ErrorCheck, capfd: pytest.CaptureFixture[str], given: tuple[str, ...]
) -> None:
    """Without both there is nothing to imitate."""
    check_error(refuse(capfd, "sft", *given), "CONFIG", "FILE")


@pytest.mark.parametrize(
    "more",
    [
        (TINY,),
        (TINY, "shown.jsonl"),
        ("--out", "x"),
        ("--set", "run.seed=3"),
    ],
    ids=["config", "config and file", "folder", "change"],
)
def test_resume_takes_no_changes(
    check_error: ErrorCheck,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    more: tuple[str, ...],
) -> None:
    """A continued run is the same run."""
    check_error(refuse(capfd, "sft", "--resume", tmp_path, *more), "--resume", "--set")


def test_resume_of_no_run(
    check_error: ErrorCheck, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Only what was begun can be continued."""
    check_error(refuse(capfd, "sft", "--resume", tmp_path), tmp_path, "run.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            None,
            "{file}: cannot be read (No such file or directory)",
        ),
        ("", "{file} holds nothing that can be imitated: "),
        ("{broken\n", "{file} holds nothing that can be imitated: "),
    ],
    ids=["missing", "empty", "broken"],
)
def test_file_without_demonstrations(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    message: str,
) -> None:
    """A file that teaches nothing is refused without an engine, and no folder is left."""
    started = never_start(monkeypatch)
    file = tmp_path / "shown.jsonl"
    if text is not None:
        file.write_text(text)
    told = refuse(capfd, "sft", TINY, file, "--out", tmp_path / "new")
    assert told.startswith(message.format(file=file))
    assert ([], False) == (started, (tmp_path / "new").exists())


def test_folder_of_a_run(
    check_error: ErrorCheck,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run is never written over."""
    started = never_start(monkeypatch)
    (tmp_path / "run.json").write_text("{}")
    check_error(
        refuse(capfd, "sft", TINY, file, "--out", tmp_path), tmp_path, f"--resume {tmp_path}"
    )
    assert ([], "{}") == (started, (tmp_path / "run.json").read_text())


def test_demonstrations_are_imitated(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good rows are imitated, bad ones counted; the last line is the next command."""
    engine = play_with(monkeypatch, perfect)
    out = tmp_path / "new"
    lines = succeed(capfd, "sft", TINY, file, "--out", out, *CHANGES)
    assert f"next  trustee run --adapter {out}" == lines[-1]
    assert f"adapter  {out / 'adapters' / 'policy-000002'}" == lines[-2]
    assert lines[-3].startswith("trained on 4 demonstrations in 2 steps and ")
    assert lines[-3].endswith(" minutes; 1 rows were refused")
    assert ["step    1 of 2", "step    2 of 2"] == [
        line[:14] for line in lines if line.startswith("step ")
    ]
    assert 2 == sum(request.move for request in engine.learner.finished)
    events = succeed(capfd, "sft", "--resume", out, "--json")
    last = json.loads(events[-1])
    assert ("result", 2, 4, 1) == (
        last["event"],
        last["steps"],
        last["demonstrations"],
        last["refused"],
    )

"""A run folder has one writer, and the writer stays inside."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from golden_errors import ErrorCheck
from trustee.errors import InputError
from trustee.runs.ownership import LOCK, own_folder
from trustee.runs.store import Store

OWNER = """
import sys
from pathlib import Path
from trustee.runs.ownership import own_folder
with own_folder(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_owner(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Have another process own a folder."""
    parts = [sys.executable, "-c", OWNER, str(folder)]
    with subprocess.Popen(
        parts, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "mine\n" == process.stdout.readline()
        yield process


def test_second_writer_is_refused(tmp_path: Path, check_error: ErrorCheck) -> None:
    """The second process learns who is at work, whatever it wants to do there."""
    with other_owner(tmp_path) as process:
        with pytest.raises(InputError) as caught, own_folder(tmp_path):
            pass
        assert f"in use by process {process.pid}, " in str(caught.value)
        (tmp_path / LOCK).write_text("17\n")
        with pytest.raises(InputError) as caught, own_folder(tmp_path):
            pass
        check_error(caught, tmp_path, "process 17")
    with own_folder(tmp_path):
        assert f"{os.getpid()}\n" == (tmp_path / LOCK).read_text()


def test_folder_that_vanishes(tmp_path: Path) -> None:
    """Whoever removes the folder of a run under way causes no second error at its end."""
    with own_folder(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.anyio
async def test_killed_owner_leaves_nothing_behind(tmp_path: Path) -> None:
    """The kernel takes the lock back, so a killed run can be resumed at once."""
    with other_owner(tmp_path) as process:
        with pytest.raises(InputError):
            async with Store(tmp_path):
                pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        async with Store(tmp_path) as store:
            store.append("lines.jsonl", [{"a": 1}])


@pytest.mark.anyio
async def test_jobs_of_one_process_share(tmp_path: Path) -> None:
    """A command owns its folder before its job does; the folder is free after the last of them."""
    (tmp_path / "run").mkdir()
    (tmp_path / "same").symlink_to(tmp_path / "run")
    with own_folder(tmp_path / "run"):
        async with Store(tmp_path / "same"), Store(tmp_path / "run"):
            pass
        with pytest.raises(AssertionError), other_owner(tmp_path / "run"):
            pass
    with other_owner(tmp_path / "run"):
        pass


def test_empty_folder_is_removed(tmp_path: Path) -> None:
    """A job that was refused leaves no folder; one that was there before stays."""
    with own_folder(tmp_path / "new"):
        pass
    (tmp_path / "old").mkdir()
    with own_folder(tmp_path / "old"):
        pass
    with own_folder(tmp_path / "used"):
        (tmp_path / "used" / "log.jsonl").touch()
    assert {"old", "used"} == {path.name for path in tmp_path.iterdir()}


def test_folder_that_cannot_be_written(
    tmp_path: Path, check_error: ErrorCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only place is refused in one sentence."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught, own_folder(tmp_path / "file" / "run"):
        pass
    assert "cannot be written (Not a directory)" in str(caught.value)

    def refuse(*arguments: object) -> NoReturn:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError) as caught, own_folder(tmp_path):
        pass
    check_error(caught, tmp_path, "Read-only file system", "--out")


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "adapters/policy-000001", LOCK])
def test_link_to_the_outside_is_refused(tmp_path: Path, check_error: ErrorCheck, name: str) -> None:
    """Nothing outside is appended to or cut, and the link is named."""
    folder, victim = tmp_path / "run", tmp_path / "victim"
    victim.write_text("mine")
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(victim)
    with pytest.raises(InputError) as caught, own_folder(folder):
        pass
    check_error(caught, folder)
    assert "mine" == victim.read_text()


def test_links_inside_are_followed(tmp_path: Path) -> None:
    """The folder itself may be reached by a link, and may have links of its own."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "policy-2").mkdir()
    (folder / "newest").symlink_to("policy-2")
    (tmp_path / "latest").symlink_to(folder)
    with own_folder(tmp_path / "latest"):
        pass


def test_pipe_is_refused(tmp_path: Path, check_error: ErrorCheck) -> None:
    """A pipe in the place of a file would be waited for."""
    os.mkfifo(tmp_path / "episodes.jsonl")
    with pytest.raises(InputError) as caught, own_folder(tmp_path):
        pass
    check_error(caught, tmp_path / "episodes.jsonl")

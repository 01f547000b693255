"""The engine's temporary folder, and that nothing of a killed run stays: processes nor files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from trustee.engine.scratch import OWNER, open_scratch, remove_abandoned
from trustee.trainer.die_with_parent import read_start

ROOT = Path(__file__).parents[2]
PARENT = """
import multiprocessing, sys, time
sys.path.insert(0, {folder!r})
from pathlib import Path
from trustee.engine.scratch import open_scratch, tie_children
import slow_to_import

if __name__ == "__main__":
    with open_scratch() as folder:
        with tie_children(folder):
            child = multiprocessing.get_context("spawn").Process(target=slow_to_import.nothing)
            child.start()
        print(child.pid, flush=True)
        time.sleep(60)
"""
SLOW = """
import multiprocessing, tempfile, time

def nothing():
    pass

if multiprocessing.current_process().name != "MainProcess":
    tempfile.mkstemp(prefix="left-")
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a temporary folder of its own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def start_parent(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a process with a child that never gets beyond its imports; return both."""
    (folder / "slow_to_import.py").write_text(SLOW)
    script = folder / "parent.py"
    script.write_text(PARENT.format(folder=str(folder)))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process; its output stays open while a child lives, so nobody waits for that."""
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def wait_for_file(temporary: Path) -> None:
    """Wait until the child has begun its slow import, in which it leaves a file."""
    deadline = time.monotonic() + 60
    while not list(temporary.rglob("left-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_end(pid: int, seconds: float = 10) -> bool:
    """Wait until a process is gone or a zombie; return whether that happened in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True
        if text.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01, 0.03, 0.1])
def test_child_dies_with_its_parent_at_any_moment(
    tmp_path: Path, temporary: Path, delay: float
) -> None:
    """However early the parent is killed, the child is gone, and so are the files after a start.

    The first case waits until the child is in the midst of its imports.
    """
    process, child = start_parent(tmp_path)
    if delay:
        time.sleep(delay)
    else:
        wait_for_file(temporary)
    end(process)
    assert wait_for_end(child)
    assert [] != list(temporary.iterdir())
    with open_scratch() as folder:
        assert [folder] == list(temporary.iterdir())
    assert [] == list(temporary.iterdir())


def test_child_ignores_the_terminal(tmp_path: Path, temporary: Path) -> None:
    """Ctrl-C and a closed terminal reach the whole group; what they mean is the parent's to say."""
    process, child = start_parent(tmp_path)
    wait_for_file(temporary)
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(child, number)
    assert not wait_for_end(child, 0.3)
    end(process)
    assert wait_for_end(child)


def test_living_owner_keeps_its_folder(tmp_path: Path, temporary: Path) -> None:
    """Two engines at once do not remove each other's folders."""
    process, child = start_parent(tmp_path)
    wait_for_file(temporary)
    before = set(temporary.iterdir())
    assert 1 == len(before), "what a child leaves lies in the engine's folder"
    with open_scratch() as folder:
        assert before | {folder} == set(temporary.iterdir())
    assert before == set(temporary.iterdir())
    assert not wait_for_end(child, 0.1)
    end(process)


def test_stale_child_is_ended(temporary: Path) -> None:
    """A child that has outlived its owner is killed; another process with its old pid is not."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        for started, ended in (("1", None), (read_start(child.pid), -signal.SIGKILL)):
            folder = temporary / "trustee-engine-1"
            folder.mkdir()
            (folder / OWNER).touch()
            (folder / f"child-{child.pid}").write_text(started)
            remove_abandoned(temporary)
            assert [] == list(temporary.iterdir())
            assert ended == (child.wait(timeout=10) if ended else child.poll())


def test_only_own_folders_are_removed(temporary: Path) -> None:
    """Neither another program's folder nor one that is just being made is touched."""
    kept = [temporary / name for name in ("trustee-notes", "trustee-engine-new")]
    for folder in kept:
        folder.mkdir()
    old = temporary / "trustee-engine-old"
    old.mkdir()
    os.utime(old, (1, 1))
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    link = temporary / "trustee-engine-link"
    link.symlink_to(elsewhere)
    remove_abandoned(temporary)
    assert {*kept, elsewhere, link} == set(temporary.iterdir())

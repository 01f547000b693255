"""The diversion of noise: what lands where, and that the streams come back.

It moves the file descriptors of its process, so each case runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

SETUP = """
import logging, os, subprocess, sys
from pathlib import Path
import structlog
from trustee.cli.capture import divert_noise
folder = Path(sys.argv[1])
log = structlog.get_logger()
"""


class Ran(NamedTuple):
    """What a program left behind."""

    code: int
    out: str
    err: str
    noise: str
    logs: list[dict[str, object]]


def run(folder: Path, body: str) -> Ran:
    """Run a program with the diversion at hand."""
    ran = subprocess.run(
        [sys.executable, "-c", SETUP + body, str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    logs = (folder / "log.jsonl").read_text().splitlines()
    return Ran(
        ran.returncode,
        ran.stdout,
        ran.stderr,
        (folder / "engine.log").read_text(),
        [json.loads(line) for line in logs],
    )


@pytest.mark.parametrize(
    "speak",
    [
        "print('noise')",
        "print('noise', file=sys.stderr)",
        "sys.stdout.write('noise\\n')",
        "os.write(1, b'noise\\n')",
        "os.write(2, b'noise\\n')",
        "subprocess.run(['echo', 'noise'])",
        "subprocess.run('echo noise >&2', shell=True)",
    ],
)
def test_noise_goes_to_the_file(tmp_path: Path, speak: str) -> None:
    """Whoever writes to the process's streams, by whatever way, writes to `engine.log`."""
    ran = run(tmp_path, f"with divert_noise(folder):\n    {speak}")
    assert Ran(0, "", "", "noise\n", []) == ran


def test_screen_gets_what_is_written_to_it(tmp_path: Path) -> None:
    """The user sees what is said to the user, on the stream that was meant, and no noise."""
    body = """
with divert_noise(folder) as screen:
    print("noise")
    screen.out.write("for the user ü\\n")
    screen.err.write("an error\\n")
"""
    assert Ran(0, "for the user ü\n", "an error\n", "noise\n", []) == run(tmp_path, body)


def test_logs_are_json_lines(tmp_path: Path) -> None:
    """Both kinds of log go to `log.jsonl`, none to the screen or among the noise."""
    body = """
with divert_noise(folder):
    logging.getLogger("library").info("loaded %d", 3)
    logging.getLogger("library").debug("not worth it")
    log.warning("rolled_back", to=2)
    with structlog.contextvars.bound_contextvars(group=5):
        log.info("played")
"""
    ran = run(tmp_path, body)
    assert (0, "", "", "") == ran[:4]
    assert [
        {"event": "loaded 3", "level": "info"},
        {"event": "rolled_back", "level": "warning", "to": 2},
        {"event": "played", "level": "info", "group": 5},
    ] == [{key: row[key] for key in row if key != "timestamp"} for row in ran.logs]
    assert all(str(row["timestamp"]).endswith("Z") for row in ran.logs)


def test_streams_come_back(tmp_path: Path) -> None:
    """Afterwards the process and its children speak to the user again, and nothing stays open."""
    body = """
def opened():
    return sorted(os.listdir("/proc/self/fd"))
before = opened()
print("before")
with divert_noise(folder):
    print("noise")
assert before == opened(), (before, opened())
print("after", flush=True)
os.write(2, b"after too\\n")
subprocess.run(["echo", "child"])
"""
    assert Ran(0, "before\nafter\nchild\n", "after too\n", "noise\n", []) == run(tmp_path, body)


def test_streams_come_back_after_an_error(tmp_path: Path) -> None:
    """An error passes through, and is told to the user."""
    body = """
try:
    with divert_noise(folder):
        print("noise")
        raise ZeroDivisionError("a bug")
except ZeroDivisionError as error:
    print("caught", error)
    print("after", file=sys.stderr)
"""
    assert Ran(0, "caught a bug\n", "after\n", "noise\n", []) == run(tmp_path, body)


def test_uncaught_error_reaches_the_user(tmp_path: Path) -> None:
    """A bug's traceback is on the user's screen, not in the file."""
    ran = run(tmp_path, "with divert_noise(folder):\n    raise ZeroDivisionError('a bug')")
    assert (1, "", "ZeroDivisionError: a bug") == (ran.code, ran.out, ran.err.splitlines()[-1])
    assert "" == ran.noise


def test_logs_end_with_the_diversion(tmp_path: Path) -> None:
    """What is logged afterwards does not go to a closed file."""
    body = """
with divert_noise(folder):
    logging.getLogger("library").info("inside")
logging.getLogger("library").warning("outside")
log.info("outside too")
"""
    ran = run(tmp_path, body)
    assert (0, ["inside"]) == (ran.code, [row["event"] for row in ran.logs])
    assert ["outside", "outside too"] == [line.split("] ")[-1] for line in ran.err.splitlines()]
    assert "" == ran.out


def test_second_diversion_appends(tmp_path: Path) -> None:
    """A continued run adds to the files of the first; the folder is made where it is missing."""
    folder = tmp_path / "new" / "run"
    body = "with divert_noise(folder):\n    print('noise')\n    log.info('said')"
    run(folder, body)
    ran = run(folder, body)
    assert ("noise\nnoise\n", ["said", "said"]) == (ran.noise, [row["event"] for row in ran.logs])

"""The end of `trustee ui`: Ctrl-C while pages are open says nothing and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from run_folders import make_run

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from trustee.cli.main import main
from trustee.pages import answers

def read_slowly(library, seconds=float(sys.argv[1]), read=answers.describe_runs):
    if seconds:
        print("reads")
        time.sleep(seconds)
    return read(library)

answers.describe_runs = read_slowly
sys.exit(main(["ui", sys.argv[2], "--port", "0"]))
"""


@contextmanager
def served(folder: Path, *, seconds: float = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve a folder from a process of its own, which takes so long to list the runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(seconds), str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split("/")[2]
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def ask(place: str, path: str, connections: ExitStack) -> HTTPResponse:
    """Ask for a path; the connection stays open as long as the others."""
    connection = connections.enter_context(closing(HTTPConnection(place, timeout=30)))
    connection.request("GET", path)
    return connection.getresponse()


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Press Ctrl-C; return the exit code and all that was said from then on."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


@pytest.mark.parametrize("pages", [1, 3])
def test_pages_that_follow_a_run_end_with_the_server(tmp_path: Path, pages: int) -> None:
    """They are told no more and closed in time, so that nothing has to be cut short."""
    make_run(tmp_path / "one")
    with served(tmp_path) as (process, place), ExitStack() as connections:
        (run,) = json.loads(ask(place, "/api/runs", connections).read())
        opened = [ask(place, f"/api/runs/{run['id']}/follow", connections) for _ in range(pages)]
        assert [b"retry: 2000\n"] * pages == [answer.readline() for answer in opened]
        assert (0, "") == end(process)
        for answer in opened:
            assert b"data: {}" in answer.read(), "the stream was torn and not ended"


def test_a_request_that_still_reads_is_cut_short_without_a_word(tmp_path: Path) -> None:
    """A large file takes longer than the grace that is given at the end."""
    make_run(tmp_path / "one")
    with (
        served(tmp_path, seconds=4) as (process, place),
        closing(HTTPConnection(place, timeout=30)) as connection,
    ):
        connection.request("GET", "/api/runs")
        assert process.stdout is not None
        assert "reads" == process.stdout.readline().strip()
        assert (0, "") == end(process)

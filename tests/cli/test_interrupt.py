"""Signals outside the event loop, and a terminal that goes away."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from trustee.cli.interrupt import SIGNALS, signals_interrupt

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
import anyio
from trustee.cli.main import main
from trustee.jobs import assemble, stages

async def run_stages_of(config, folder, *, emit, **more):
    from trustee.events import Note
    (folder / "run.json").touch()
    while True:
        emit(Note(text="here"))
        await anyio.sleep(0.01)

assemble.prepare_model = lambda config: None
stages.run_stages_of = run_stages_of
{before}
sys.exit(main(["run", "--config", "configs/tiny.toml", "--out", sys.argv[1]]))
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_are_interrupts(number: signal.Signals) -> None:
    """Where no loop listens, each of them is a KeyboardInterrupt; the handlers come back."""
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        os.kill(os.getpid(), number)
    assert before == [signal.getsignal(each) for each in SIGNALS]


def start_on_terminal(folder: Path, before: str = "") -> tuple[subprocess.Popen[bytes], int]:
    """Start a run that talks for ever, on a terminal; return it and the terminal's other end."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(before=before), str(folder)],
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    os.close(slave)
    shown = b""
    while b"here" not in shown:
        shown += os.read(master, 4096)
    return process, master


def read_log(folder: Path) -> list[dict[str, object]]:
    """Read the program's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_closed_terminal_ends_the_run(tmp_path: Path) -> None:
    """The run ends cleanly, and the way to go on is in its log, as nobody can read a screen."""
    process, master = start_on_terminal(tmp_path)
    os.close(master)
    assert 130 == process.wait(timeout=20)
    [entry] = [line for line in read_log(tmp_path) if line["event"] == "ended"]
    assert f"continue with: trustee run --resume {tmp_path}" in str(entry["text"])
    assert "Traceback" not in (tmp_path / "engine.log").read_text()


def test_ignored_hang_up_is_ignored(tmp_path: Path) -> None:
    """Under nohup a run outlives its terminal, though it can write there no more."""
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process, master = start_on_terminal(tmp_path, ignore)
    os.close(master)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.terminate()
    assert 130 == process.wait(timeout=20)


def test_reader_that_stops_ends_the_run(tmp_path: Path) -> None:
    """A pipe that nobody reads any more is like a closed terminal."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(before=""), str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert b"here\n" == process.stdout.readline()
    process.stdout.close()
    text = f"interrupted; continue with: trustee run --resume {tmp_path}\n"
    assert text == process.stderr.read().decode()
    process.stderr.close()
    assert 130 == process.wait(timeout=20)

"""Trackers that fail, hang, are slow or talk too much: the run goes on, and says so once."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from trustee.events import Event, Note, StepTrained
from trustee.trackers import relay
from trustee.trackers.messages import Begin
from trustee.trackers.relay import environment_of, open_trackers

HEAD = "import json, os, sys, time\n"
OPENED = 'print(json.dumps({"type": "opened", "where": "here"}), flush=True)\n'
COUNTS = HEAD + OPENED + "lines = sys.stdin.readlines(); print(len(lines), file=sys.stderr)\n"
HANGS = HEAD + "time.sleep(600)\n"
SLOW = HEAD + OPENED + "for line in sys.stdin: time.sleep(0.05)\n"
ENDS = HEAD + "sys.exit(3)\n"
FAILS = HEAD + 'print(json.dumps({"type": "failed", "why": "no such key: s3cret-value"}))\n'
TALKS = HEAD + 'print("x" * 200_000, flush=True); sys.stdin.read()\n'
LEAKS = HEAD + 'print("the key is s3cret-value", file=sys.stderr); sys.stdin.read()\n'
LEAVES_ONE = (
    HEAD
    + 'import subprocess; subprocess.Popen(["sleep", "600"])\n'
    + 'open(os.environ["LEFT"], "w").write(str(os.getpid()))\n'
    + OPENED
    + "time.sleep(600)\n"
)

Notes = list[str]


def step(number: int) -> StepTrained:
    """Return a step with a large figure, so that few fit into a pipe."""
    return StepTrained(
        step=number,
        version=number,
        progress=0.5,
        reward=0.5,
        frac_reward_zero_std=0.0,
        clip_ratio=0.0,
        mismatch_abs=None,
        lag_mean=0.0,
        lag_max=0,
        waited_s=0.0,
        train_s=0.0,
        publish_s=0.0,
        checkpoint_s=0.0,
        tokens={},
        figures={f"figure_{n}": 0.5 for n in range(100)},
    )


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Notes]:
    """Give a function that runs a job of many steps beside a tracker, and returns the notes."""
    monkeypatch.setenv("SOME_API_KEY", "s3cret-value")
    monkeypatch.setenv("LEFT", str(tmp_path / "left"))

    def run(program: str, *, steps: int = 10, until_open: bool = False, end: float = 60.0) -> Notes:
        monkeypatch.setattr(relay, "END_SECONDS", end)
        monkeypatch.setattr(relay, "command_of", lambda name: [sys.executable, "-c", program])
        notes: Notes = []
        opened = anyio.Event()

        def emit(event: Event) -> None:
            if isinstance(event, Note):
                notes.append(event.text)
                if "is open" in event.text:
                    opened.set()

        async def job() -> None:
            begin = Begin(folder=str(tmp_path), id="a" * 12, name="run", config={})
            async with open_trackers(["wandb"], begin, folder=tmp_path, emit=emit) as tell:
                began = time.monotonic()
                for number in range(steps):
                    tell(step(number))
                    if not number % 100:
                        await anyio.lowlevel.checkpoint()
                assert 20 > time.monotonic() - began, "the run waited for its tracker"
                if until_open:
                    with anyio.fail_after(60):
                        await opened.wait()

        anyio.run(job)
        return notes

    return run


def test_what_a_tracker_takes_in_time_is_all_there(
    play: Callable[..., Notes], tmp_path: Path
) -> None:
    """Begin, figures and end, in this order and without loss."""
    assert ["tracker wandb is open: here"] == play(COUNTS, steps=500)
    assert "502\n" == (tmp_path / "trackers.log").read_text()


@pytest.mark.parametrize("program", [HANGS, SLOW])
def test_one_that_hangs_or_is_slow_is_left_behind(play: Callable[..., Notes], program: str) -> None:
    """What it cannot take is counted and said once; at the end it has two seconds."""
    notes = [note for note in play(program, steps=3000, end=2.0) if "is open" not in note]
    assert (
        "tracker wandb does not keep up; what it cannot take is left out, and training goes on"
        == notes[0]
    )
    left_out = int(notes[1].removeprefix("tracker wandb did not get ").split()[0])
    assert 1000 < left_out < 3000
    assert "tracker wandb was not done 2 s after the end; what it had not taken is lost" == notes[2]
    assert 3 == len(notes)


def test_one_that_ends_is_told_nothing_more(play: Callable[..., Notes]) -> None:
    """It is said once, with the code."""
    assert [
        "tracker wandb has failed and gets nothing more: its process ended with code 3; see "
        "trackers.log; training goes on"
    ] == play(ENDS)


def test_one_that_fails_says_why_without_secrets(play: Callable[..., Notes]) -> None:
    """A reason may repeat a key of the environment."""
    assert [
        "tracker wandb has failed and gets nothing more: no such key: ...; training goes on"
    ] == play(FAILS)


def test_one_that_answers_nonsense_is_fed_all_the_same(play: Callable[..., Notes]) -> None:
    """Answers are a convenience."""
    assert [] == play(TALKS)


def test_what_it_prints_is_kept_without_secrets(play: Callable[..., Notes], tmp_path: Path) -> None:
    """A library may print a key."""
    play(LEAKS)
    assert "the key is ...\n" == (tmp_path / "trackers.log").read_text()


def test_what_it_started_ends_with_it(play: Callable[..., Notes], tmp_path: Path) -> None:
    """A process of its own that a tracker left behind does not stay."""
    play(LEAVES_ONE, until_open=True, end=1.0)
    group = int((tmp_path / "left").read_text())
    # Whoever takes in what lost its parent may need a moment to see its end.
    deadline = time.monotonic() + 20
    while is_there(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_there(group)


def is_there(group: int) -> bool:
    """Return whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_program_that_cannot_be_started_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on."""
    monkeypatch.setattr(relay, "command_of", lambda name: [str(tmp_path / "nothing")])
    notes: list[Event] = []
    begin = Begin(folder=str(tmp_path), id="a" * 12, name="run", config={})

    async def job() -> None:
        async with open_trackers(["wandb"], begin, folder=tmp_path, emit=notes.append) as tell:
            tell(step(1))

    anyio.run(job)
    assert [
        Note(
            text="tracker wandb has failed and gets nothing more: its process cannot be started: "
            "No such file or directory; training goes on"
        )
    ] == [note for note in notes if isinstance(note, Note)]


def test_a_cancelled_run_still_gives_its_trackers_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C cancels the job; what waits is sent first, and the exit code says how it ended."""
    program = HEAD + "print(list(sys.stdin)[-1], file=sys.stderr)\n"
    monkeypatch.setattr(relay, "command_of", lambda name: [sys.executable, "-c", program])
    begin = Begin(folder=str(tmp_path), id="a" * 12, name="run", config={})

    async def job() -> None:
        with anyio.move_on_after(0.2):
            async with open_trackers(["a"], begin, folder=tmp_path, emit=lambda _: None) as tell:
                tell(step(1))
                await anyio.sleep(60)

    anyio.run(job)
    assert '{"type":"end","code":1}' == (tmp_path / "trackers.log").read_text().strip()


def test_without_trackers_nothing_is_between(tmp_path: Path) -> None:
    """The run's own `emit` is handed back."""

    def emit(event: Event) -> None:
        """Listen to nothing."""

    async def job() -> None:
        async with open_trackers([], None, folder=tmp_path, emit=emit) as tell:
            assert emit is tell

    anyio.run(job)
    assert [] == list(tmp_path.iterdir())


def test_trackio_sees_no_way_out() -> None:
    """Variables that would have it send figures elsewhere stay outside; its folder is kept."""
    given = {
        "PATH": "p",
        "TRACKIO_DIR": "d",
        "TRACKIO_PROJECT": "j",
        "TRACKIO_SPACE_ID": "a/b",
        "TRACKIO_SERVER_URL": "https://example.org",
        "TRACKIO_WEBHOOK_URL": "https://example.org",
    }
    seen = environment_of("trackio", given)
    assert {"PATH": "p", "TRACKIO_DIR": "d", "TRACKIO_PROJECT": "j"} == {
        key: value for key, value in seen.items() if key in given
    }
    assert "1" == seen["HF_HUB_OFFLINE"]
    assert given == environment_of("wandb", given)

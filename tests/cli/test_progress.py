"""What the user sees: each event in each mode, to the letter, and the panel's figures."""

from __future__ import annotations

import json
import math
import sys
from io import StringIO
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from trustee.cli import progress
from trustee.cli.progress import DisplayMode, ProgressDisplay, sparkline
from trustee.events import (
    CandidateBuilt,
    CandidateRejected,
    Compared,
    EpisodeBegun,
    EpisodePlayed,
    Event,
    Note,
    RolledBack,
    SftStepTrained,
    Stage,
    StageMoved,
    StepTrained,
    TaskCollected,
    TaskWritten,
)
from trustee.types import RejectReason, Role

STEP_FIELDS: dict[str, Any] = {
    "step": 7,
    "version": 6,
    "reward": 0.5,
    "difficulty": 40,
    "frac_reward_zero_std": 0.25,
    "clip_ratio": 0.0124,
    "mismatch_abs": 0.00314,
    "lag_mean": 0.5,
    "lag_max": 1,
    "tokens": {"user": 500, "tool": 100},
    "progress": 0.25,
    "waited_s": 1.0,
    "train_s": 2.0,
    "publish_s": 0.5,
    "checkpoint_s": 0.25,
}
STEP = StepTrained(**STEP_FIELDS, figures={"step": 7, "kl": 0.125, "failed_user": 2})
STAGE = Stage(name="training, 80 steps")
NOTE = Note(text="held-out success before: 12.0%")
ROLLED_BACK = RolledBack(to=3, why="no group with different rewards")
COLLECTED = TaskCollected(tasks=3, of=20, kept=5)
IMITATED = SftStepTrained(step=7, of=14, loss=0.51239, held_out_loss=None, progress=0.5)
BEGIN = EpisodeBegun(group=0, member=0)
COMPARED = Compared(base=0.1, adapter=0.2, gain_points=10.0)
REJECTED = CandidateRejected(
    place=3,
    attempt=1,
    scenario="multi_hop",
    stage="verification",
    kind="duplicate",
    reason="another has the same question",
    accepted=3,
    wanted=20,
    candidates=9,
)


def episode(
    *, failed_by: Role | None = None, failed: bool = False, tokens: int = 10
) -> EpisodePlayed:
    """Make the event of a finished episode."""
    return EpisodePlayed(
        group=0,
        member=0,
        reward=1.0,
        turns=2,
        tokens=tokens,
        failed_by=failed_by,
        failed=failed,
    )


def built(count: int, wanted: int) -> CandidateBuilt:
    """Make the event of a candidate that was accepted."""
    return CandidateBuilt(
        place=count,
        attempt=0,
        scenario="multi_hop",
        id=f"tiny-{count}",
        accepted=count,
        wanted=wanted,
        candidates=2 * count,
    )


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Give the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give progress a clock of its own."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def show(mode: DisplayMode, *events: Event) -> str:
    """Give what is written for events."""
    out = StringIO()
    with ProgressDisplay(out, mode=mode) as shown:
        for event in events:
            shown.emit(event)
    return out.getvalue()


def rows_of(shown: ProgressDisplay) -> dict[str, str]:
    """Draw the panel and give its rows."""
    out = StringIO()
    Console(file=out, width=160).print(shown.panel())
    pairs = (line.split("  ", 1) for line in out.getvalue().splitlines())
    return {name: text.strip() for name, text in pairs}


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (STAGE, "training, 80 steps\n"),
        (NOTE, "held-out success before: 12.0%\n"),
        (ROLLED_BACK, "rolled back to version 3: no group with different rewards\n"),
        (BEGIN, ""),
        (episode(), ""),
        (TaskWritten(group=0, failed_by=None, failed=False), ""),
        (COMPARED, ""),
        (REJECTED, ""),
        (COLLECTED, "task 3 of 20  kept 5 episodes\n"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_lines(event: Event, line: str) -> None:
    """What is worth a line is written as one; the rest is only counted."""
    assert line == show("lines", event)


def test_line_of_a_step(clock: Clock) -> None:
    """A step's line has its figures, the counts so far, and the time that is left."""
    out = StringIO()
    with ProgressDisplay(out, mode="lines") as shown:
        shown.emit(episode())
        shown.emit(episode(failed_by=Role.POLICY))
        shown.emit(episode(failed_by=Role.JUDGE, failed=True))
        clock.now += 30
        shown.emit(STEP)
    assert (
        "step    7  reward +0.50  difficulty  40  mixed 75%  clipped 0.012  mismatch 0.0031  "
        "lag 0.5  episodes 3  failed 1  left 1:30\n"
    ) == out.getvalue()


def test_a_recorded_step_has_the_time_of_its_events() -> None:
    """Whoever reads them later takes no time over it, and hears of no single episode."""
    times = [500.0]
    out = StringIO()
    shown = ProgressDisplay(out, mode="lines", recorded=lambda: times[-1])
    shown.emit(STAGE)
    times.append(530.0)
    shown.emit(replace(STEP, difficulty=40.0))
    assert (
        "step    7  reward +0.50  difficulty  40  mixed 75%  clipped 0.012  mismatch 0.0031  "
        "lag 0.5  left 1:30\n"
    ) == out.getvalue().partition("\n")[2]
    assert "episodes" not in rows_of(shown)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("held_out", "more"), [(None, ""), (0.4, "  held-out loss 0.4000")], ids=["off", "on"]
)
def test_line_of_sft(clock: Clock, held_out: float | None, more: str) -> None:
    """A step of imitation tells its loss, that of the held-out rows where it was measured."""
    out = StringIO()
    with ProgressDisplay(out, mode="lines") as shown:
        clock.now += 20
        shown.emit(replace(IMITATED, held_out_loss=held_out))
    assert f"step    7 of 14  loss 0.5124{more}  left 0:20\n" == out.getvalue()


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (5, [1, 2, 3, 4, 5]),
        (20, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
        (25, [3, 5, 8, 10, 13, 15, 18, 20, 23, 25]),
        (1, [1]),
    ],
)
def test_build_is_told_by_tenths(wanted: int, told: list[int]) -> None:
    """A line for every tenth of what is wanted, and always one at the end."""
    events = [built(count, wanted) for count in range(1, wanted + 1)]
    assert "".join(
        f"built {count:>4} of {wanted} from {2 * count} candidates\n" for count in told
    ) == show("lines", *events)


def test_line_of_a_bare_step() -> None:
    """No fresh sample is a dash, a world without difficulty a 0, a run just begun has no end."""
    bare = replace(STEP, mismatch_abs=None, progress=0.0, reward=-1.0, step=1, difficulty=None)
    assert (
        "step    1  reward -1.00  difficulty   0  mixed 75%  clipped 0.012  mismatch -  "
        "lag 0.5  episodes 0  failed 0  left unknown\n"
    ) == show("lines", bare)


@pytest.mark.parametrize(
    ("progress", "left"),
    [(0.0, "unknown"), (0.01, "99:00"), (0.5, "1:00"), (0.9, "0:06"), (1.0, "0:00"), (2, "0:00")],
)
def test_time_left(clock: Clock, progress: float, left: str) -> None:
    """What is left is in proportion to what was spent; a run over its time has none left."""
    shown = ProgressDisplay(StringIO(), mode="lines")
    clock.now += 60
    assert left == shown.left(progress)


def test_time_left_is_of_the_stage(clock: Clock) -> None:
    """What came before training, and what a resumed run had done, tell nothing of its speed."""
    shown = ProgressDisplay(StringIO(), mode="lines")
    clock.now += 600
    shown.emit(replace(STAGE, progress=0.5))
    clock.now += 30
    assert "unknown" == shown.left(0.5)
    assert "2:00" == shown.left(0.6)


def test_json() -> None:
    """Every event is one JSON object on a line, whatever it holds."""
    events: list[Event] = [
        BEGIN,
        STAGE,
        replace(STAGE, progress=0.0),
        episode(failed_by=Role.USER, failed=True),
        replace(episode(), rejected=RejectReason.LOOP),
        TaskWritten(group=2, failed_by=None, failed=False),
        STEP,
        replace(STEP, difficulty=None, mismatch_abs=None, figures={}),
        IMITATED,
        NOTE,
        ROLLED_BACK,
        COLLECTED,
        COMPARED,
        built(1, 20),
        REJECTED,
    ]
    played = {"group": 0, "member": 0, "reward": 1.0, "turns": 2, "tokens": 10}
    bare = {key: value for key, value in STEP_FIELDS.items() if key != "difficulty"}
    place = {"attempt": 0, "scenario": "multi_hop"}
    assert [
        {"event": "begin", "group": 0, "member": 0},
        {"event": "stage", "name": "training, 80 steps"},
        {"event": "stage", "name": "training, 80 steps", "progress": 0.0},
        {"event": "episode", **played, "failed_by": "user", "failed": True},
        {
            "event": "episode",
            **played,
            "failed_by": None,
            "failed": False,
            "rejected": "the same call again",
        },
        {"event": "task", "group": 2, "failed_by": None, "failed": False},
        {"event": "step", **STEP_FIELDS, "kl": 0.125, "failed_user": 2},
        {"event": "step", **bare, "mismatch_abs": None},
        {
            "event": "sft_step",
            "step": 7,
            "of": 14,
            "loss": 0.51239,
            "held_out_loss": None,
            "progress": 0.5,
        },
        {"event": "note", "text": "held-out success before: 12.0%"},
        {"event": "rolled_back", "to": 3, "why": "no group with different rewards"},
        {"event": "collected", "tasks": 3, "of": 20, "kept": 5},
        {"event": "compared", "base": 0.1, "adapter": 0.2, "gain_points": 10.0},
        {
            "event": "built",
            "place": 1,
            **place,
            "id": "tiny-1",
            "accepted": 1,
            "wanted": 20,
            "candidates": 2,
        },
        {
            "event": "rejected",
            "place": 3,
            **place,
            "attempt": 1,
            "stage": "verification",
            "kind": "duplicate",
            "reason": "another has the same question",
            "accepted": 3,
            "wanted": 20,
            "candidates": 9,
        },
    ] == [json.loads(line) for line in show("json", *events).splitlines()]


def test_json_is_written_at_once() -> None:
    """A reader of a pipe gets an event when it happens."""

    class Pipe(StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    for mode in ("json", "lines"):
        pipe = Pipe()
        shown = ProgressDisplay(pipe, mode="json" if mode == "json" else "lines")
        shown.emit(NOTE)
        assert 1 == pipe.flushed, mode


def test_live_prints_all_but_steps(clock: Clock) -> None:
    """Notes stand above the panel, which says the last step once; the last panel stays."""
    clock.now += 60
    lines = show("live", STAGE, NOTE, STEP, ROLLED_BACK).splitlines()
    assert [
        "training, 80 steps",
        "held-out success before: 12.0%",
        "rolled back to version 3: no group with different rewards",
    ] == [line.rstrip() for line in lines[:3]]
    panel = [line.split("  ", 1) for line in lines[3:]]
    assert ["now", "episodes", "step", "reward", "difficulty", "tokens/s"] == [
        name for name, _ in panel[:6]
    ]
    assert "7 (version 6)" == panel[2][1].strip()


def test_live_shows_brackets_and_colons_as_they_are() -> None:
    """A folder's name is no markup: nothing of it is lost and nothing is refused."""
    text = "see runs/[bold]a/[/b]:smile:"
    assert text == show("live", Note(text=text)).splitlines()[0].rstrip()
    lines = show("live", Stage(name=text)).splitlines()
    assert [text, f"now       {text}"] == [line.rstrip() for line in lines[:2]]


def test_live_that_fails_ends_the_panel() -> None:
    """An error passes through and leaves the last panel standing."""
    out = StringIO()

    def fail() -> None:
        with ProgressDisplay(out, mode="live") as shown:
            shown.emit(STAGE)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "training, 80 steps" == out.getvalue().splitlines()[-2].removeprefix("now").strip()


def test_panel_before_the_first_step() -> None:
    """Without a step the panel has the stage and the episodes."""
    shown = ProgressDisplay(StringIO(), mode="json")
    shown.emit(STAGE)
    for _ in range(3):
        shown.emit(BEGIN)
    shown.emit(episode())
    assert {
        "now": "training, 80 steps",
        "episodes": "1 done, 2 running, failed by: none",
    } == rows_of(shown)


def test_panel_counts_by_role() -> None:
    """Episodes and tasks that failed are counted by who failed."""
    shown = ProgressDisplay(StringIO(), mode="json")
    shown.emit(episode(failed_by=Role.POLICY))
    shown.emit(episode(failed_by=Role.POLICY))
    shown.emit(episode(failed_by=Role.JUDGE, failed=True))
    shown.emit(TaskWritten(group=1, failed_by=Role.WRITER, failed=True))
    shown.emit(TaskWritten(group=2, failed_by=None, failed=False))
    failed = rows_of(shown)["episodes"].partition("failed by: ")[2]
    assert "judge 1, policy 2, writer 1" == failed


def test_panel_after_steps(clock: Clock) -> None:
    """The panel has the figures of the last step, and rates since the step before."""
    shown = ProgressDisplay(StringIO(), mode="json")
    shown.emit(episode(tokens=100))
    clock.now += 10
    shown.emit(replace(STEP, step=1, reward=-0.25, tokens={"user": 500, "tool": 100}))
    shown.emit(episode(tokens=60))
    clock.now += 20
    shown.emit(replace(STEP, step=2, tokens={"user": 900, "tool": 100, "judge": 40}, progress=0.5))
    assert {
        "now": "",
        "episodes": "2 done, -2 running, failed by: none",
        "step": "2 (version 6)",
        "reward": "▁█  +0.50",
        "success": "▁▁  100%",
        "difficulty": "40",
        "tokens/s": "policy 3  user 20  tool 0  judge 2",
        "lag": "0.5, at most 1",
        "mismatch": "0.0031 nats per token",
        "time left": "0:30",
    } == rows_of(shown)


@pytest.mark.usefixtures("clock")
def test_panel_of_a_bare_step() -> None:
    """What a step does not have is a dash."""
    shown = ProgressDisplay(StringIO(), mode="json")
    shown.emit(replace(STEP, mismatch_abs=None, difficulty=None))
    rows = rows_of(shown)
    assert ("-", "- nats per token") == (rows["difficulty"], rows["mismatch"])


@pytest.mark.usefixtures("clock")
def test_panel_draws_the_last_forty_rewards() -> None:
    """Of many steps the panel draws the newest."""
    shown = ProgressDisplay(StringIO(), mode="json")
    for number in range(50):
        shown.emit(replace(STEP, step=number, reward=number / 10))
    drawn, newest = rows_of(shown)["reward"].split("  ")
    assert (40, "▁", "█", "+4.90") == (len(drawn), drawn[0], drawn[-1], newest)


@pytest.mark.usefixtures("clock")
def test_panel_draws_success_of_each_step() -> None:
    """Episodes that another part spoiled do not count."""
    shown = ProgressDisplay(StringIO(), mode="json")
    for outcomes in ((None, Role.POLICY), (None, None, Role.USER)):
        for culprit in outcomes:
            shown.emit(episode(failed_by=culprit, failed=culprit == Role.USER))
        shown.emit(STEP)
    assert "▁█  100%" == rows_of(shown)["success"]


def test_a_sparkline_has_a_block_for_each_value() -> None:
    """Equal values are a flat line; what is not a number is left out."""
    assert "" == sparkline([])
    assert "▁▁" == sparkline([0.3, 0.3])
    assert "▁▅█" == sparkline([-1.0, 0.1, math.nan, 1.0])


MOVED = StageMoved(
    done=12, of=48, unit="episodes", seconds=30.0, sampled_per_s=5.2, read_per_s=210.4, left_s=90.0
)
MOVED_TEXT = "12 of 48 episodes, 5 tokens/s sampled, 210 read, left 1:30"


def test_panel_shows_that_a_stage_moves() -> None:
    """Done of all, tokens a second and time left stand below the stage, and go with it."""
    shown = ProgressDisplay(StringIO(), mode="json")
    shown.emit(STAGE)
    shown.emit(MOVED)
    assert MOVED_TEXT == rows_of(shown)["so far"]
    shown.emit(STAGE)
    assert "so far" not in rows_of(shown)


def test_lines_about_a_stage_are_few(clock: Clock) -> None:
    """A stage tells a line every ten seconds, and none if it is shorter."""
    out = StringIO()
    with ProgressDisplay(out, mode="lines") as shown:
        shown.emit(STAGE)
        for _ in range(15):
            clock.now += 2
            shown.emit(MOVED)
    line = f"training, 80 steps: {MOVED_TEXT}"
    assert ["training, 80 steps", line, line, line] == out.getvalue().splitlines()


def test_a_stage_without_figures_shows_its_time() -> None:
    """Before anything can be counted the time alone moves."""
    bare = replace(MOVED, done=0, of=0, seconds=75.0, sampled_per_s=0, read_per_s=0, left_s=None)
    shown = ProgressDisplay(StringIO(), mode="json")
    shown.emit(bare)
    assert "under way for 1:15" == rows_of(shown)["so far"]


class Terminal(StringIO):
    """A screen, to which rich draws as to a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_what_libraries_print_stays_off_the_panel(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning of an engine goes where the standard streams go, not through the panel."""
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    with ProgressDisplay(screen, mode="live") as display:
        print("a warning of the engine", file=sys.stderr)  # noqa: T201
        print("a line of a library")  # noqa: T201
        display.emit(Note(text="our own line"))
    assert "our own line" in screen.getvalue()
    assert "warning" not in screen.getvalue()
    assert "library" not in screen.getvalue()
    told = capfd.readouterr()
    assert "a warning of the engine\n" == told.err
    assert "a line of a library\n" == told.out

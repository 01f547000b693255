"""No text acts on a terminal, and none passes for a line of this program."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from command_line import TINY
from trustee.cli.episodes import show_trajectories
from trustee.cli.main import main
from trustee.cli.progress import DisplayMode, ProgressDisplay
from trustee.cli.terminal import ACTING, BAR, Page, barred, complain, say_json, show_bug, visible
from trustee.events import Note, RolledBack, Stage
from trustee.runs.store import EpisodeLine, Store, TaskLine
from trustee.runs.view import Filter
from trustee.types import (
    BadCall,
    Completion,
    Message,
    Stop,
    Task,
    Tool,
    ToolCall,
    Trajectory,
    Turn,
)

ATTACKS = {
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;cm0gLXJm\x1b\\",
    "link": "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\",
    "8 bit": "\x9b2J\x9d0;owned\x9c",
    "hidden": "\x1b[8mhidden\x1b[0m",
    "up": "\x1b[5A\rreward +1",
    "back": "no\b\byes",
    "return": "bad\rgood",
    "delete": "\x7f",
    "form feed": "\x0c\x0b",
    "shift out": "\x0e\x0f",
    "next line": "\x85reward +1",
    "separators": "\u2028reward +1\u2029",
    "bidi": "\u202egnp.exe\u202c\u2066a\u2069\u200f\u061c",
    "zero width": "a\u200bb\u200c\u200d\u2060\ufeff\u00adc",
    "tags": "\U000e0041\U000e0042",
    "fillers": "\u3164\u115f\uffa0\u2800",
    "marks": "a" + "\u0336" * 50,
    "markup": "[bold red]x[/] [link=http://evil]y[/link] [/nothing]",
    "lines": "so\n  user: yes\nreward +1\n\n\ntrustee: all is well",
}


def acts(text: str) -> list[str]:
    """List what in a text acts on a terminal, besides its lines."""
    return [letter for letter in text if letter != "\n" and unicodedata.category(letter) in ACTING]


@given(st.text())
def test_visible_texts(text: str) -> None:
    """Nothing acts; lines stay; what is visible stays as it is."""
    shown = visible(text)
    assert [] == acts(shown)
    assert shown.count("\n") == text.count("\n")
    assert shown == visible(shown)
    assert all(line.startswith(BAR) for line in barred(text).split("\n")[1:])


ORDINARY = ("", "abc", "größer 日本語 한국어 😀 é", "[bold]", "ไม่เป็นไร", "שָׁלוֹם")


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_texts_stay(text: str) -> None:
    """Also those of other scripts, with their marks."""
    assert text == visible(text)


def test_long_lines_are_broken_here() -> None:
    """A terminal would go on at its left edge."""
    text = "x" + " " * 200 + "reward +1"
    lines = barred(text, width=80).split("\n")
    assert 3 == len(lines)
    assert all(line.startswith(BAR) for line in lines[1:])
    assert all(len(line) <= 80 for line in lines)
    assert all(len(line) <= 46 for line in barred("日" * 100, width=80).split("\n"))


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_stays_json(value: object) -> None:
    """It is the same value, and nothing acts."""
    out = io.StringIO()
    say_json(msgspec.json.encode(value), to=out)
    assert [] == acts(out.getvalue())
    assert 1 == out.getvalue().count("\n")
    assert value == json.loads(out.getvalue())


def write_run(folder: Path, text: str) -> None:
    """Write a run in which every text is hostile."""
    turn = Turn(
        rendered_ids=(),
        completion=Completion(ids=(1,), logprobs=(0.0,), stop="stop", version=0),
        message=Message(
            role="assistant",
            content=text,
            thinking=text,
            calls=(
                ToolCall(id=text, name=text, arguments={text: text}),
                BadCall(id=text, text=text, reason=text),
            ),
        ),
        replies=(Message(role="tool", content=text, call_id=text),),
    )
    trajectory = Trajectory(
        id=text,
        task_id=text,
        turns=(turn,),
        stop=Stop.DONE,
        rewards={text: 1.0},
        notes={text: text},
    )
    task = Task(
        id=text,
        messages=(Message(role="user", content=text),),
        tools=(Tool(name=text, description=text, parameters={"properties": {text: {}}}),),
        difficulty=1,
        hidden={text: text},
    )
    store = Store(folder)
    store.append("episodes.jsonl", [EpisodeLine(group=0, member=0, trajectory=trajectory)])
    store.append("tasks.jsonl", [TaskLine(group=0, version=0, task=task)])
    for file in store._files.values():
        file.close()


@pytest.mark.parametrize("name", ATTACKS)
def test_view_shows_what_is_there(tmp_path: Path, name: str) -> None:
    """At every place of a record, for people and as JSON."""
    write_run(tmp_path, ATTACKS[name])
    out = io.StringIO()
    show_trajectories(tmp_path, Filter(), out=out, as_json=False)
    text = out.getvalue()
    assert [] == acts(text)
    if name == "markup":
        assert ATTACKS[name] in text
    forged = ("reward", "  user: yes", "trustee")
    assert [] == [line for line in text.split("\n") if line.startswith(forged)]
    out = io.StringIO()
    show_trajectories(tmp_path, Filter(), out=out, as_json=True)
    assert [] == acts(out.getvalue())
    assert ATTACKS[name] == json.loads(out.getvalue())["episode"]["trajectory"]["id"]


class Screen(io.StringIO):
    """An output that is a terminal of 80 columns, without styles."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("name", ATTACKS)
def test_a_terminal_gets_only_the_programs_own_styles(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No line is so long that the terminal breaks it."""
    monkeypatch.setenv("TERM", "dumb")
    # Else it is as wide as the terminal in which the tests run.
    monkeypatch.setenv("COLUMNS", "80")
    out = Screen()
    page = Page(out)
    page.rule(ATTACKS[name])
    page.line(("user", "bold"), f": {ATTACKS[name] * 9}", indent="  ")
    assert [] == acts(out.getvalue())
    assert all(cell_len(line) <= 80 for line in out.getvalue().split("\n"))


@pytest.mark.parametrize("mode", ["lines", "json", "live"])
@pytest.mark.parametrize("name", ATTACKS)
def test_progress_of_hostile_texts(name: str, mode: DisplayMode) -> None:
    """Stages, notes and reasons may quote anything."""
    out, text = io.StringIO(), ATTACKS[name]
    with ProgressDisplay(out, mode=mode) as display:
        for event in (Stage(name=text), Note(text=text), RolledBack(to=1, why=text)):
            display.emit(event)
    assert [] == acts(out.getvalue())
    if mode == "lines":
        assert all(
            line.startswith((BAR, "rolled back", text[:1], "\\"))
            for line in out.getvalue().rstrip("\n").split("\n")
        )


@pytest.mark.parametrize("name", ATTACKS)
def test_errors_quote_visibly(capfd: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    """Names that the user was given by others, in errors of commands and of the parser."""
    given = ATTACKS[name].replace("/", "-")
    folder = tmp_path / "run"
    commands = (
        ["view", f"{folder}{given}"],
        ["view", str(folder), "--reward", given],
        ["tools", "import", f"{folder}{given}"],
        ["tools", "list", "--category", given],
        ["config", given],
        ["plan", TINY, "--set", f"run.{given}=1"],
        ["eval", f"{folder}{given}"],
        ["run", "--resume", f"{folder}{given}"],
    )
    for command in commands:
        assert 0 != main(command)
        captured = capfd.readouterr()
        assert [] == acts(captured.out + captured.err)
        assert "" == captured.out
        lines = captured.err.rstrip("\n").split("\n")
        assert lines[0].startswith("trustee: ")
        assert all(line.startswith(BAR) for line in lines[1:])
    with pytest.raises(SystemExit):
        main(["view", "x", f"--{given}"])
    assert [] == acts(capfd.readouterr().err)


def test_bugs_quote_visibly(capfd: pytest.CaptureFixture[str]) -> None:
    """A traceback shows what the bug met."""
    error = ValueError(ATTACKS["clear"])
    show_bug(ValueError, error, None)
    assert [] == acts(capfd.readouterr().err)
    main(["tools", "list"])
    assert sys.excepthook is show_bug


def test_logs_quote_visibly(capfd: pytest.CaptureFixture[str]) -> None:
    """Logs go to the error stream where no job writes them to a file."""
    import structlog

    main(["tools", "list"])
    capfd.readouterr()
    structlog.get_logger().warning(ATTACKS["clear"], path=ATTACKS["title"], why=ATTACKS["bidi"])
    captured = capfd.readouterr()
    assert ("", []) == (captured.out, acts(captured.err))
    assert "owned" in captured.err


def test_complaints_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """What an error quotes stands behind bars."""
    complain("a\nb")
    assert f"trustee: a\n{BAR}b\n" == capfd.readouterr().err

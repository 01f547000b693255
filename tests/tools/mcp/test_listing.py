"""The tools of MCP servers, as they are listed and never called; a bad server is named in time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from golden_errors import ErrorCheck
from trustee.cli.main import main
from trustee.errors import InputError
from trustee.tools.files import import_tools
from trustee.tools.files.notices import Notices
from trustee.tools.mcp.address import parse_server
from trustee.tools.mcp.listing import import_from_server
from trustee.tools.selection import Selection
from trustee.types import Tool

RAW = Path(__file__).parents[2] / "raw_mcp_server.py"
ANSWERS = 3.0
"""Deadline in seconds where a server will not answer; the machine may be busy."""


def read(mode: str = "", *, seconds: float = 30, only: str = "*") -> tuple[Tool, ...]:
    """Import the tools of the raw server in a mode."""
    server = parse_server(f"mcp:{sys.executable} {RAW} {mode}")
    return import_from_server(server, Selection(only=(only,)), notices=Notices(), seconds=seconds)


def children() -> set[str]:
    """Return the processes that this one has started."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@contextmanager
def leaving_no_process() -> Iterator[None]:
    """Check that a server that was started is gone again."""
    before = children()
    yield
    assert children() == before


def test_all_pages_are_listed_and_nothing_is_called(tmp_path: Path) -> None:
    """Every tool comes with the effect that its hints say, or else its name; schemas are whole."""
    with leaving_no_process():
        tools = {tool.name: tool for tool in read()}
    assert len(tools) == 12, "two a page"
    assert tools["find_place"].parameters["$defs"]["At"]["required"] == ["x"]
    assert tools["find_place"].parameters["properties"]["near"]["anyOf"][1] == {"type": "null"}
    effects = {name: tools[name].effect for name in ("find_place", "get_rid_of", "list_notes")}
    assert effects == {"find_place": "read", "get_rid_of": "write", "list_notes": "read"}
    assert tools["add_note"].effect == "write"


def test_lines_that_are_no_messages_are_passed_over() -> None:
    """Many servers log to their output; the tools are read all the same."""
    assert len(read("noisy")) == 12


@pytest.mark.parametrize(
    ("mode", "named"),
    [
        ("die", "no disk left"),
        ("hang", "initialize"),
        ("flood", "8 MiB"),
        ("chatter", "rubbish"),
        ("endless", "no end"),
        ("empty", "no tools"),
        ("nonsense", "tools"),
    ],
)
def test_a_bad_server_is_named_and_ended(mode: str, named: str) -> None:
    """Whatever a server does, the import ends with a sentence, and the process with it."""
    with leaving_no_process(), pytest.raises(InputError, match=named):
        read(mode, seconds=ANSWERS if mode == "hang" else 30)


def test_a_server_that_stays_is_killed() -> None:
    """A server that does not leave when its input is closed does not outlive the import."""
    with leaving_no_process():
        assert len(read("stays")) == 12


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("mcp:", "no command"),
        ("mcp:no-such-program-here x", "cannot be started"),
        ("mcp:'open", "cannot be split"),
        ("http://127.0.0.1:1/mcp", "cannot be reached"),
    ],
)
def test_a_server_that_is_not_there(text: str, named: str, check_error: ErrorCheck) -> None:
    """The error has the server and what to give."""
    with pytest.raises(InputError) as caught:
        import_from_server(parse_server(text), Selection(), notices=Notices(), seconds=30)
    check_error(caught, named)


def test_secrets_stay_here_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server gets the variables that the user names, and none of the others."""
    monkeypatch.setenv("SECRET_A", "a")
    monkeypatch.setenv("SECRET_B", "b")
    server = parse_server("mcp:x", variables={"TOKEN": "$SECRET_A", "FILE": "a b"})
    given = server.environment()
    assert {"TOKEN": "a", "FILE": "a b"}.items() <= given.items()
    assert "PATH" in given
    assert not {"SECRET_A", "SECRET_B"} & given.keys()
    assert server.name == "mcp:FILE='a b' TOKEN='$SECRET_A' x", "and the name has no secret"
    with pytest.raises(InputError, match="SECRET_C"):
        parse_server("mcp:x", variables={"A": "$SECRET_C"}).environment()


def test_the_command_writes_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`trustee tools import mcp:COMMAND --out FILE` writes a file that `--tools` takes."""
    out = tmp_path / "tools.json"
    source = f"mcp:{sys.executable} {RAW}"
    assert main(["tools", "import", source, "--only", "*note*", "--out", str(out)]) == 0
    assert {tool.name for tool in import_tools(out)} == {"list_notes", "add_note"}


@pytest.mark.parametrize(
    "words",
    [
        ["FILE", "--env", "HOME"],
        ["mcp:x", "--bearer", "TOKEN"],
        ["http://127.0.0.1:1/mcp", "--env", "HOME"],
        ["mcp:x", "--seconds", "0"],
    ],
)
def test_options_that_do_nothing_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that the source has no use for is named."""
    assert main(["tools", "import", *words]) == 2
    assert words[1] in capsys.readouterr().err

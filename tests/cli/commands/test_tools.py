"""`trustee tools import` takes the chosen tools and says what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trustee.cli.main import main
from trustee.tools.files import import_tools

NAMES = ("get_a", "get_b", "put_a")


def write(tmp_path: Path, *more: object) -> Path:
    """Write a file of tools, and entries that are none."""
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([*({"name": name} for name in NAMES), *more]))
    return path


def test_import_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Good entries are written; bad ones are named on stderr, and those beyond five counted."""
    path, out = write(tmp_path, *range(7)), tmp_path / "out.json"
    assert main(["tools", "import", str(path), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"3 tools written to {out}; ")
    lines = said.err.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith(f"trustee: left out: {path}: [3]: not a tool, got 0")
    assert lines[-1] == "trustee: left out: 2 more"
    assert [tool.name for tool in import_tools(out)] == list(NAMES)
    assert main(["tools", "import", str(path), "--all-notices"]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 7


def test_import_takes_chosen_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--only` and `--skip` choose, and can be repeated."""
    command = ["tools", "import", str(write(tmp_path)), "--only", "get_*", "--only", "*_a"]
    assert main([*command, "--skip", "get_a"]) == 0
    said = capsys.readouterr()
    assert [line.split()[-1] for line in said.out.splitlines()] == ["get_b()", "put_a()", "tools"]
    assert said.err == ""


def test_import_writes_nothing_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is there stays as it is, even the one that is read; so does a missing folder."""
    path = write(tmp_path)
    before = path.read_bytes()
    assert main(["tools", "import", str(path), "--out", str(path)]) == 2
    assert f"{path} exists and is kept; give another name with --out" in capsys.readouterr().err
    out = tmp_path / "none" / "out.json"
    assert main(["tools", "import", str(path), "--out", str(out)]) == 2
    assert f"{out}: cannot be written (No such file or directory)" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["tools.json"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "x*"], "no tool is left by --only 'x*'"),
        (["--most-characters", "0"], "--most-characters must be at least 1, got 0"),
    ],
)
def test_import_refuses_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    """A choice of nothing, and a length below one, are refused."""
    assert main(["tools", "import", str(write(tmp_path)), *more]) == 2
    assert message in capsys.readouterr().err

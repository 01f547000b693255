"""A report of whole, broken and hostile runs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from golden_errors import ErrorCheck
from run_folders import HOSTILE, make_episode, make_run, write_lines
from trustee.cli.main import main
from trustee.errors import InputError
from trustee.pages.report.findings import find_out, hash_file
from trustee.pages.report.page import MOST_BYTES, write_report


class Reader(HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def read_report(*folders: Path) -> Reader:
    """Write a report and read it as a browser would."""
    reader = Reader()
    reader.feed(write_report([find_out(folder) for folder in folders], now=0.0).decode())
    return reader


def test_a_report_says_what_the_intervals_allow(tmp_path: Path) -> None:
    """Two tasks won of four is no proof, and the report does not say that it is one."""
    text = read_report(make_run(tmp_path / "one")).text
    assert "+50.0 points on the 4 held-out tasks" in text
    assert "The interval holds zero" in text
    assert "75.0%" in text


def test_a_clear_gain_is_called_one(tmp_path: Path) -> None:
    """With many tasks won the interval is above zero."""
    folder = make_run(tmp_path / "one")
    for name, reward in (("before", -1.0), ("after", 1.0)):
        lines = [make_episode(g, 0, reward=reward)["trajectory"] for g in range(4, 60)]
        write_lines(folder / f"held-out-{name}.jsonl", lines)
    text = read_report(folder).text
    assert "on such tasks the trained policy is better" in text
    assert "Better than the base: the clearest 5" in text
    assert "Worse than the base: none" in text


def test_hostile_texts_make_no_element(tmp_path: Path) -> None:
    """They are there to be read, and no element or attribute came of them."""
    reader = read_report(make_run(tmp_path / "one", text=HOSTILE))
    assert HOSTILE[:60] in reader.text
    assert not reader.tags & {"script", "img", "iframe", "link", "object", "a", "form"}
    assert not any(name.startswith("on") for name in reader.attributes)
    assert not reader.attributes & {"src", "href", "style"}


def test_a_report_holds_its_policy_and_no_address(tmp_path: Path) -> None:
    """It loads nothing and runs nothing, wherever it is opened."""
    page = write_report([find_out(make_run(tmp_path / "one"))], now=0.0).decode()
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"https?:|url\(|@import|unsafe", page)


def test_runs_are_held_against_the_first(tmp_path: Path) -> None:
    """Settings that differ and paired differences."""
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two", lr=0.5)
    text = read_report(one, two).text
    assert "two against one" in text
    assert "learner.lr" in text
    assert "0.5" in text


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    """Whoever has the folder can check it."""
    folder = make_run(tmp_path / "one")
    assert hash_file(folder / "metrics.jsonl") in read_report(folder).text


def test_a_broken_run_is_reported_with_what_is_broken(tmp_path: Path) -> None:
    """Torn lines and a missing result are said; the rest is there."""
    folder = make_run(tmp_path / "one")
    (folder / "run.json").write_text("{")
    with (folder / "held-out-after.jsonl").open("a") as file:
        file.write('{"id": "torn')
    (folder / "tasks.jsonl").unlink()
    (folder / "held-out-tasks.jsonl").unlink()
    text = read_report(folder).text
    assert "What could not be read" in text
    assert "75.0%" in text


def test_long_conversations_are_cut_until_the_file_is_small(tmp_path: Path) -> None:
    """Five megabytes of text become less than three, and the report says how much was cut."""
    folder = make_run(tmp_path / "one", text="word " * 200_000, groups=1)
    page = write_report([find_out(folder)], now=0.0)
    assert MOST_BYTES >= len(page)
    assert b"more letters" in page


def test_what_is_no_run_is_refused(tmp_path: Path, check_error: ErrorCheck) -> None:
    """A folder without any file of a run."""
    with pytest.raises(InputError) as caught:
        find_out(tmp_path)
    check_error(caught, str(tmp_path))


def test_a_file_that_is_there_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command writes a new file, and only a new one."""
    folder = make_run(tmp_path / "one")
    out = tmp_path / "report.html"
    assert 0 == main(["report", str(folder), "--out", str(out)])
    assert out.read_bytes().startswith(b"<!doctype html>")
    assert 2 == main(["report", str(folder), "--out", str(out)])
    assert "is there already" in capsys.readouterr().err

"""The figures and the table of what was forgotten."""

from __future__ import annotations

import msgspec
import pytest

from trustee.checks.general_prompts import GeneralPrompt
from trustee.evaluation.retention_report import (
    PromptResult,
    RetentionReport,
    report_on,
    retention_text,
)


def result(number: int, *, kl: float = 0.0, change: float = 0.0, said: str = "yes") -> PromptResult:
    """Give the result of a prompt of ten tokens; odd ones are German."""
    return PromptResult(
        prompt=GeneralPrompt(
            kind="fact" if number % 3 else "code",
            language="de" if number % 2 else "en",
            prompt=f"prompt {number}",
            answer="yes",
        ),
        tokens=10,
        kl=kl,
        written_tokens=4,
        change=change,
        base="yes",
        policy=said,
        differs=said != "yes",
    )


RESULTS = [
    result(0),
    result(
        1, kl=2.0, change=-4.0, said="a long\nanswer that has nothing at all to do with it " * 3
    ),
    result(2, kl=0.5, change=1.0, said="no"),
    result(3),
]


def test_figures() -> None:
    """Means are over tokens, shares over prompts; each kind and language has a row of its own."""
    report = report_on(RESULTS, adapter="a", left_out=2)
    assert (4, 0.5) == (report.total.prompts, report.total.differing.value)
    assert report.total.kl.value == pytest.approx(2.5 / 40)
    assert report.total.change.value == pytest.approx(-3.0 / 16)
    assert [("code", 2), ("fact", 2)] == [(row.name, row.prompts) for row in report.kinds]
    assert ["de", "en"] == [row.name for row in report.languages]
    assert [0.1, 0.025] == pytest.approx([row.kl.value for row in report.languages])
    assert ["prompt 1", "prompt 2"] == [one.prompt.prompt for one in report.moved_most[:2]]
    for estimate in (report.total.kl, report.total.change):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high


def test_one_prompt_has_no_interval() -> None:
    """What cannot be told is left out of the table, and null for programs, which read it back."""
    report = report_on(RESULTS[:1], adapter="a")
    assert (None, None) == (report.total.kl.low, report.total.kl.high)
    assert report == msgspec.json.decode(msgspec.json.encode(report), type=RetentionReport)
    assert "0.0000  " in retention_text(report)


def test_table() -> None:
    """A line each for all, kinds and languages, then the answers that moved most, on one line."""
    lines = retention_text(report_on(RESULTS, adapter="runs/a", left_out=2)).splitlines()
    names = [line.split()[0] for line in lines]
    assert ["all", "by", "code", "fact", "by", "de", "en"] == names[2:9]
    assert lines[0].endswith("runs/a")
    assert "0.0625 (" in lines[2]
    assert "-0.1875 (" in lines[2]
    assert "50.0% (" in lines[2]
    assert "2 prompts leave no room" in lines[10]
    assert ["    base     yes"] == lines[13:14]
    assert lines[14].startswith("    adapter  a long answer that has")
    assert lines[14].endswith("…")
    assert all(len(line) < 160 for line in lines)

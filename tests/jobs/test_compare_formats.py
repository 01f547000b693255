"""Which four-bit format `trustee doctor` proposes, and the measuring itself on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import TINY as TINY_TOML
from trustee.checks.agreement import Gaps
from trustee.config import read_config
from trustee.jobs.assemble import prepare_model
from trustee.jobs.compare_formats import FormatFigures, compare_formats, judge_formats

NF4 = FormatFigures(decoding=1000, gaps=Gaps(alone=0.004, at_once=0.002, requests=32))


@pytest.mark.parametrize(
    ("decoding", "gap", "used", "best"),
    [
        (1900, 0.001, "nf4", "int4"),
        (1900, 0.001, "int4", "int4"),
        (1050, 0.001, "nf4", "nf4"),
        (1900, 0.5, "int4", "nf4"),
        (1900, float("nan"), "nf4", "nf4"),
    ],
)
def test_int4_is_taken_where_it_is_right_and_faster(
    decoding: float, gap: float, used: str, best: str
) -> None:
    """A tenth faster at least; otherwise the default stays."""
    int4 = FormatFigures(decoding=decoding, gaps=Gaps(alone=0.3, at_once=gap, requests=32))
    finding = judge_formats(nf4=NF4, int4=int4, limit=0.02, used=used)
    assert finding.why.endswith(f"take {best}")
    assert "in nf4 by 0.0040 alone, 0.0020 with 32 at once, in int4 by 0.3000 al" in finding.why
    assert finding.state == ("ok" if best == used else "warn")
    assert finding.fix == ("" if best == used else f"--set engine.weights={best}")


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_both_formats_are_started_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU the speeds say nothing of a card, but each engine agrees with its trainer."""
    monkeypatch.setenv("TRUSTEE_CACHE", str(tmp_path / "caches"))
    config = read_config(Path(TINY_TOML), ["engine.max_sequences=4"])
    model, renderer = prepare_model(config)
    finding = await compare_formats(config, model, renderer)
    assert finding.name == "four bits"
    assert "take nf4" in finding.why or "take int4" in finding.why
    assert len(list((tmp_path / "caches").glob("*/manifest.json"))) == 2

"""Engine and trainer on the same ids: asked alone and together, and both told."""

from __future__ import annotations

import math

import anyio
import pytest

from trustee.checks.agreement import Gaps, measure_gaps
from trustee.types import Sample

pytestmark = pytest.mark.anyio


def answer(seed: int, *, off: float) -> Sample:
    """Give an answer of two ids after a prompt of one."""
    return Sample(
        ids=(1, 2, 3),
        mask=(False, True, True),
        logprobs=(0.0, -1.0 + off, -2.0),
        advantage=1.0,
        version=0,
        trajectory_id=str(seed),
    )


async def test_both_are_asked_and_held_to_the_trainer() -> None:
    """One by one no two overlap; together all do, and a few of them are computed again."""
    running, most, scored = 0, [], []

    async def ask(seed: int) -> Sample:
        nonlocal running
        running += 1
        await anyio.sleep(0.01)
        seen, running = running, running
        most.append(seen)
        await anyio.sleep(0.01)
        running -= 1
        return answer(seed, off=0.4 if seen == 1 else 0.1)

    async def score(sample: Sample) -> list[float]:
        scored.append(sample.trajectory_id)
        return [-1.0, -2.0]

    gaps = await measure_gaps(ask, score, requests=9, compared=3)
    assert [1, 1, 1, *[9] * 9] == most
    assert ["0", "1", "2"] * 2 == scored
    assert gaps.alone == pytest.approx(0.2)
    assert gaps.at_once == pytest.approx(0.05)
    assert "0.2000 alone, 0.0500 with 9 at once" == gaps.describe()


@pytest.mark.parametrize(
    ("alone", "at_once", "state"),
    [
        (0.02, 0.02, "ok"),
        (0.03, 0.02, "warn"),
        (0.01, 0.03, "fail"),
        (0.03, 0.03, "fail"),
        (math.nan, 0.01, "fail"),
        (0.01, math.nan, "fail"),
    ],
)
def test_a_run_is_judged_by_what_it_samples_with(alone: float, at_once: float, state: str) -> None:
    """Many at once decide; one alone is worth a word, and no number is no agreement."""
    assert state == Gaps(alone=alone, at_once=at_once, requests=32).judge(0.02)

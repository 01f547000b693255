"""Intervals: known values, a width on any data, and how often they hold the truth."""

from __future__ import annotations

import math
import random
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.evaluation.intervals import (
    Z95,
    mean_interval,
    paired_interval,
    ratio_interval,
    share_interval,
)

counts = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60)).filter(sum)


@given(counts)
def test_paired_interval_has_a_width_and_holds_the_difference(cells: tuple[int, int, int]) -> None:
    """Wins and losses exchanged mirror it; it never leaves -1 to 1."""
    better, worse, _ = cells
    count = sum(cells)
    low, high = paired_interval(better, worse, count)
    assert -1 <= low <= (better - worse) / count <= high <= 1
    assert high - low > 1 / (count + 5)
    mirrored = paired_interval(worse, better, count)
    assert (-high, -low) == pytest.approx(mirrored, abs=1e-9)


@settings(max_examples=40)
@given(counts)
def test_more_tasks_of_the_same_kind_say_more(cells: tuple[int, int, int]) -> None:
    """Four times the tasks make the interval narrower."""
    better, worse, _ = cells
    low, high = paired_interval(better, worse, sum(cells))
    low4, high4 = paired_interval(4 * better, 4 * worse, 4 * sum(cells))
    assert high4 - low4 < high - low


@pytest.mark.parametrize("count", [1, 3, 10, 100])
def test_changes_that_are_all_alike(count: int) -> None:
    """All won, all lost or none changed: what is not seen on few tasks may still be there."""
    z2 = Z95**2
    low, high = paired_interval(0, 0, count)
    assert (-z2 / (count + z2), z2 / (count + z2)) == pytest.approx((low, high), abs=1e-6)
    low, high = paired_interval(count, 0, count)
    assert high == 1
    assert 1 - low > 2 / (count + 4)
    assert (-1.0, -low) == pytest.approx(paired_interval(0, count, count))


@pytest.mark.parametrize(
    ("better", "worse", "count"), [(7, 2, 30), (1, 0, 9), (4, 4, 8), (0, 5, 60)]
)
def test_limits_are_where_the_score_test_rejects(better: int, worse: int, count: int) -> None:
    """A limit's standard error is that of the likeliest shares with just that difference."""
    for limit in paired_interval(better, worse, count):
        if abs(limit) == 1:
            continue

        def likelihood(loss: float, gap: float = limit) -> float:
            win = loss + gap
            if min(win, loss) < 0 or win + loss > 1:
                return -math.inf
            cells = ((better, win), (worse, loss), (count - better - worse, 1 - win - loss))
            return sum(n * math.log(max(share, 1e-300)) for n, share in cells if n)

        loss = max((n / 200_000 for n in range(200_001)), key=likelihood)
        error = math.sqrt((2 * loss + limit - limit**2) / count)
        assert abs((better - worse) / count - limit) / error == pytest.approx(Z95, rel=1e-3)


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_paired_interval_holds_the_truth(count: int) -> None:
    """Over all true shares of wins and losses it does so in 95 of 100 cases or more."""
    found = {
        (b, c): paired_interval(b, c, count) for b in range(count + 1) for c in range(count + 1 - b)
    }
    held = []
    for win, loss in ((i / 20, j / 20) for i in range(21) for j in range(21 - i)):
        tie = max(0.0, 1 - win - loss)
        held.append(
            sum(
                comb(count, b) * comb(count - b, c) * win**b * loss**c * tie ** (count - b - c)
                for (b, c), (low, high) in found.items()
                if low - 1e-9 <= win - loss <= high + 1e-9
            )
        )
    assert sum(held) / len(held) > 0.95
    assert min(held) > 0.79


@given(st.integers(0, 400), st.integers(0, 400))
def test_share_interval_stays_in_its_range(successes: int, failures: int) -> None:
    """It holds the share and never leaves 0 to 1, also by rounding."""
    count = successes + failures
    low, high = share_interval(successes, count)
    assert 0 <= low <= (successes / count if count else 0.5) <= high <= 1
    assert high > low


@settings(max_examples=15)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_mean_interval_has_a_width_and_holds_the_mean(gains: list[float]) -> None:
    """Also where all gains are equal."""
    low, high = mean_interval(gains, seed=1)
    mean = math.fsum(gains) / len(gains)
    assert -1 - 1e-9 <= low <= mean <= high <= 1 + 1e-9
    assert high - low > 0.2 / (len(gains) + 1)
    assert (low, high) == mean_interval(gains, seed=1)


def test_mean_interval_holds_the_truth() -> None:
    """On gains of any kind it holds the true mean about nineteen times in twenty."""
    rng = random.Random(3)
    held = 0
    for _ in range(60):
        gains = [rng.betavariate(2, 3) - 0.2 for _ in range(25)]
        low, high = mean_interval(gains, seed=0)
        held += low <= 0.2 <= high
    assert held >= 52


def test_intervals_of_nothing() -> None:
    """Without tasks anything may be true."""
    assert (-1.0, 1.0) == paired_interval(0, 0, 0) == mean_interval([], seed=0)
    assert (0.0, 1.0) == share_interval(0, 0)


def test_mean_over_tokens_varies_with_texts() -> None:
    """95 % intervals over texts hold the mean of all texts in about 95 % of samples."""
    rng = random.Random(3)
    held = 0
    for trial in range(60):
        parts = []
        for _ in range(40):
            level, count = rng.gammavariate(2.0, 0.01), rng.randint(5, 48)
            parts.append((sum(level * rng.expovariate(1.0) for _ in range(count)), count))
        low, high = ratio_interval(parts, seed=trial)
        held += low <= 0.02 <= high
    assert 52 <= held <= 60


def test_mean_of_few_texts() -> None:
    """One text says nothing of others; texts without tokens do not count; equal ones are sure."""
    for parts in ([], [(1.0, 3)], [(1.0, 3), (0.0, 0)]):
        assert (-math.inf, math.inf) == ratio_interval(parts, seed=1)
    assert (0.5, 0.5) == pytest.approx(ratio_interval([(1.0, 2), (2.0, 4)], seed=1))
    low, high = ratio_interval([(0.0, 9), (9.0, 9)], seed=1)
    assert 0 <= low < 0.1 < 0.9 < high <= 1

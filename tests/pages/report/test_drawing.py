"""Charts without a script: what is drawn of any figures."""

from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from trustee.pages.report.drawing import (
    HEIGHT,
    MOST_POINTS,
    WIDTH,
    Bar,
    Line,
    Mark,
    draw_bars,
    draw_lines,
    round_numbers,
    thin,
)

FIGURES = st.floats(min_value=-1e12, max_value=1e12) | st.sampled_from([math.nan, math.inf])


@given(st.lists(FIGURES, max_size=40), st.none() | st.just(0.0), st.none() | st.floats(0, 1e6))
def test_all_figures_stay_inside_their_chart(
    ys: list[float], low: float | None, limit: float | None
) -> None:
    """Whatever the values are, points lie within the frame unless they are below a fixed floor."""
    line = Line("reward", [(float(x), y) for x, y in enumerate(ys)])
    drawn = draw_lines("Reward", [line], show=lambda value: f"{value:.3g}", low=low, limit=limit)
    if not any(math.isfinite(y) for y in ys):
        assert drawn is None
        return
    assert drawn is not None
    places = re.findall(r"[ML](-?[\d.e+]+) (-?[\d.e+]+)", drawn.html)
    assert places
    for x, y in places:
        assert 0 <= float(x) <= WIDTH
        if low is None:
            assert 0 <= float(y) <= HEIGHT


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_round_numbers_lie_between(low: float, span: float, wanted: int) -> None:
    """They are within the bounds, in order, and not many more than wanted."""
    high = low + span
    found = round_numbers(low, high, wanted)
    assert all(low - span * 1e-3 <= at <= high + span * 1e-3 for at in found)
    assert found == sorted(found)
    assert wanted + 2 >= len(found)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-10, 10)), max_size=2000))
def test_many_points_become_few_with_the_same_mean(points: list[tuple[float, float]]) -> None:
    """Neighbours are averaged, so nothing is left out."""
    thinned = thin(points)
    assert min(MOST_POINTS, len(points)) >= len(thinned) > 0 or not points
    if points and len(points) % len(thinned) == 0:
        mean = sum(y for _, y in points) / len(points)
        assert math.isclose(mean, sum(y for _, y in thinned) / len(thinned), abs_tol=1e-6)


def test_marks_and_bars_say_what_they_are() -> None:
    """A reader who sees no picture gets the words."""
    chart = draw_lines(
        "Reward",
        [Line("reward", [(1, 0.0), (2, 1.0)])],
        show=lambda value: f"{value:+.1f}",
        marks=[Mark(2, "rollback", "rolled back to version 1"), Mark(9, "gate", "too late")],
    )
    assert chart is not None
    assert "reward from +0.0 to +1.0" in chart.html
    assert "rolled back to version 1" in chart.html
    assert "too late" not in chart.html
    bars = draw_bars([Bar("base", 0.5, 0.4, 0.6, "40% to 60%")], show=lambda value: f"{value:.0%}")
    assert "base: 50%, 40% to 60%" in bars.html

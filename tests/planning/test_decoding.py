"""The time of a decoding step: by card, format and requests at once, held to a model by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustee.engine.weights import WeightFormat
from trustee.planning.cards import CARDS, Card, choose_card
from trustee.planning.decoding import (
    NF4_SLOWNESS,
    OVERHEAD_SECONDS,
    bandwidth_share,
    nf4_slowness,
    step_seconds,
)
from trustee.planning.shapes import find_shape

SHAPE = find_shape("Qwen/Qwen3-8B")
LARGE = [card for card in CARDS if card.has_bf16]


def middle(card: str, *, weights: WeightFormat, sequences: int, context: int) -> float:
    """Give the middle of the range of a step, in milliseconds."""
    ends = [
        step_seconds(
            SHAPE,
            choose_card(card),
            weights=weights,
            sequences=sequences,
            tokens=sequences * context,
            end=end,
        )
        for end in (0, 1)
    ]
    return 1e3 * sum(ends) / 2


@pytest.mark.parametrize(
    ("card", "sequences", "context", "nf4", "int4"),
    [
        ("RTX 3090", 1, 80, 10.2, 10.1),
        ("RTX 3090", 16, 80, 26.2, 10.4),
        ("RTX 3090", 32, 2500, 44.1, 29.9),
        ("RTX 4090", 16, 80, 16.8, 9.5),
        ("RTX 4090", 16, 2500, 24.2, 16.9),
        ("RTX 4090", 32, 2500, 31.8, 24.5),
        ("RTX 5090", 16, 2500, 21.2, 11.2),
        ("RTX 5090", 32, 2500, 25.6, 15.7),
    ],
)
def test_a_step_is_that_of_the_finer_model(
    card: str, sequences: int, context: int, nf4: float, int4: float
) -> None:
    """Kernel by kernel, in milliseconds, the same sources give these; the range must hold them."""
    for weights, expected in (("nf4", nf4), ("int4", int4)):
        found = middle(card, weights=weights, sequences=sequences, context=context)  # type: ignore[arg-type]
        assert expected == pytest.approx(found, rel=0.35)


def test_more_requests_cost_nf4_what_they_do_not_cost_int4() -> None:
    """At 16 requests a 3090 has lost three quarters of its bandwidth to NF4, and int4 little."""
    one, many = (
        {
            weights: bandwidth_share(
                SHAPE, choose_card("RTX 3090"), weights=weights, sequences=n, tokens=80 * n, end=0
            )
            for weights in ("nf4", "int4")
        }
        for n in (1, 16)
    )
    assert one["nf4"] > 0.6
    assert many["nf4"] < 0.35 < 0.6 < many["int4"]


@given(
    st.sampled_from(LARGE),
    st.sampled_from(["nf4", "int4", "bf16"]),
    st.integers(1, 300),
    st.integers(1, 300),
)
def test_more_requests_never_make_a_step_shorter(
    card: Card, weights: WeightFormat, first: int, second: int
) -> None:
    """Nor does the worst case beat the best one, nor any the overhead."""
    fewer, more = sorted((first, second))

    def seconds(sequences: int, end: int) -> float:
        return step_seconds(
            SHAPE, card, weights=weights, sequences=sequences, tokens=900.0 * sequences, end=end
        )

    share = bandwidth_share(
        SHAPE, card, weights=weights, sequences=more, tokens=900.0 * more, end=0
    )
    assert 0 < share < 1, "nothing is faster than reading"
    assert seconds(fewer, 0) <= seconds(more, 0)
    assert OVERHEAD_SECONDS[0] < seconds(more, 0) < seconds(more, 1)


def test_a_card_between_two_known_ones_is_as_the_older() -> None:
    """An A100, older than all of the table, is taken for the oldest."""
    assert nf4_slowness((8, 0), 16) == nf4_slowness((8, 6), 16) == 5.5
    assert nf4_slowness((10, 0), 16) == nf4_slowness((9, 0), 16)
    assert nf4_slowness((8, 6), 1) == 1.4
    assert nf4_slowness((8, 6), 999) == 23.5
    assert all(list(table) == sorted(table) for table in NF4_SLOWNESS.values())

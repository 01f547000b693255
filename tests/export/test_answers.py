"""When an exported model says what base and adapter say."""

from __future__ import annotations

import pytest

from golden_errors import ErrorCheck
from trustee.errors import RunError
from trustee.export.answers import TIE, Answer, compare, demand

ANSWER = Answer(
    prompt=(1, 2), ids=(5, 6, 7), gaps=({5: 0.0, 9: TIE / 2}, {6: 0.0, 9: 2 * TIE}, {7: 0.0})
)


def test_ties_are_counted_apart() -> None:
    """A token that is as likely counts; one that is less likely does not."""
    found = compare([ANSWER], [(9, 9, 7)])
    assert (3, 1, 1, 2 * TIE) == (found.tokens, found.equal, found.ties, found.worst)
    assert pytest.approx(2 / 3) == found.share


def test_a_token_far_off_is_infinitely_far() -> None:
    """The reference keeps the distance of its best candidates alone."""
    assert float("inf") == compare([ANSWER], [(5, 6, 80)]).worst


def test_an_export_that_says_something_else_is_refused(check_error: ErrorCheck) -> None:
    """The error has the figures; one that agrees is let through."""
    demand(compare([ANSWER], [(9, 6, 7)]), share=1.0, what="m.gguf")
    with pytest.raises(RunError) as caught:
        demand(compare([ANSWER], [(5, 9, 7)]), share=1.0, what="m.gguf")
    check_error(caught, "m.gguf", "of 3 greedy tokens 2 are equal")

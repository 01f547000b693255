"""What pays: the published scale of the judge's criteria, and which messages it hears."""

from __future__ import annotations

import pytest

from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.episode import shorten
from trustee.environments.simulated.verdicts import count_criteria, leave_out_cut
from trustee.types import Completion, Message, Turn


@pytest.mark.parametrize(
    ("met", "of", "reward"),
    [(2, 2, 1), (1, 2, -1), (0, 2, -1), (1, 1, 1), (0, 1, -1), (2, 3, 0), (1, 3, -1), (3, 5, 0)],
)
def test_scale_of_criteria(met: int, of: int, reward: int) -> None:
    """All met pays 1, more than half 0, else -1."""
    criteria = {c: place < met for place, c in enumerate(tuple(Criterion)[:of])}
    assert reward == count_criteria(criteria)


@pytest.mark.parametrize(("stop", "heard"), [("length", 1), ("stop", 2)])
def test_cut_message_is_not_heard(stop: str, heard: int) -> None:
    """Only a last message that was cut off is left out."""

    def turn(end: str) -> Turn:
        completion = Completion(ids=(), logprobs=(), stop=end, version=0)  # type: ignore[arg-type]
        return Turn(
            rendered_ids=(),
            completion=completion,
            message=Message(role="assistant", content="x"),
            replies=(),
        )

    assert heard == len(leave_out_cut([turn("stop"), turn(stop)]))


def test_long_result_loses_its_middle() -> None:
    """Both ends of a result stay, and what is missing is said."""
    text = "a" * 300 + "b" * 300
    short = shorten(text, most=512)
    assert short.startswith("a" * 256 + " [")
    assert short.endswith("] " + "b" * 256)
    assert "[88 characters cut]" in short
    assert text == shorten(text, most=0) == shorten(text, most=600)

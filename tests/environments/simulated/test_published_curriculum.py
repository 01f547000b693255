"""The authors' curriculum: their table, its first changes, their draw and thresholds."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from trustee.environments.simulated.curriculum import Aspects, Curriculum, TurnLimits

PUBLISHED = Curriculum(
    mapping="published",
    reach="whole",
    inclusive=True,
    turns=(1, 3),
    bounds_turns=(3, 6, 3),
)
DRAWS = 20_000


@pytest.mark.parametrize(
    ("difficulty", "aspects", "limits"),
    [
        (1, (1, 1, 1, "detailed", "expert", "clear", 1), (1, 2, 1)),
        (17, (1, 1, 1, "detailed", "expert", "clear", 1), (1, 2, 1)),
        (25, (2, 1, 1, "detailed", "expert", "clear", 2), (1, 2, 1)),
        (34, (3, 1, 1, "medium", "expert", "clear", 2), (1, 2, 1)),
        (50, (5, 1, 2, "medium", "beginner", "somewhat", 3), (1, 3, 1)),
        (67, (6, 2, 2, "brief", "beginner", "somewhat", 3), (2, 4, 2)),
        (75, (7, 2, 2, "brief", "beginner", "somewhat", 4), (2, 4, 2)),
        (100, (10, 3, 3, "generic", "novice", "highly", 5), (3, 6, 3)),
    ],
)
def test_table(
    difficulty: int,
    aspects: tuple[int, int, int, str, str, str, int],
    limits: tuple[int, int, int],
) -> None:
    """Each difficulty has the aspects and limits of the authors' code."""
    tools, calls, turns, guidance, persona, ambiguity, strictness = aspects
    assert PUBLISHED.bound(difficulty) == Aspects(
        tools=tools,
        calls=calls,
        turns=turns,
        guidance=guidance,  # type: ignore[arg-type]
        persona=persona,  # type: ignore[arg-type]
        ambiguity=ambiguity,  # type: ignore[arg-type]
        strictness=strictness,
    )
    user, assistant, tool = limits
    assert PUBLISHED.limit_turns(difficulty) == TurnLimits(
        user=user, assistant=assistant, tool=tool
    )


@pytest.mark.parametrize(
    ("aspect", "changes"),
    [
        ("tools", [20, 30, 40, 50, 60, 70, 80, 90, 100]),
        ("calls", [67, 100]),
        ("turns", [50, 100]),
        ("persona", [50, 100]),
        ("ambiguity", [50, 100]),
        ("strictness", [25, 50, 75, 100]),
        ("guidance", [34, 67, 100]),
    ],
)
def test_first_changes(aspect: str, changes: list[int]) -> None:
    """An aspect changes at these difficulties and at no other."""
    values = [getattr(PUBLISHED.bound(d), aspect) for d in range(1, 101)]
    assert changes == [d for d in range(2, 101) if values[d - 1] != values[d - 2]]


@pytest.mark.parametrize(
    ("limit", "changes"),
    [("user", [67, 100]), ("tool", [67, 100]), ("assistant", [50, 67, 84, 100])],
)
def test_first_changes_of_limits(limit: str, changes: list[int]) -> None:
    """A limit of turns changes at these difficulties and at no other."""
    values = [getattr(PUBLISHED.limit_turns(d), limit) for d in range(1, 101)]
    assert changes == [d for d in range(2, 101) if values[d - 1] != values[d - 2]]


@pytest.mark.parametrize("difficulty", [1, 50, 100])
def test_draw_has_two_coins(difficulty: int) -> None:
    """Tools are drawn by a coin of their own; words and calls share the other."""
    rng = random.Random(difficulty)
    most = PUBLISHED.bound(difficulty)
    drawn = [PUBLISHED.draw_aspects(difficulty, rng) for _ in range(DRAWS)]
    shares: dict[str, tuple[Counter[object], dict[object, float]]] = {
        "tools": (
            Counter(a.tools for a in drawn),
            {k: (k == most.tools) / 2 + 1 / 20 for k in range(1, 11)},
        ),
        "calls": (
            Counter(a.calls for a in drawn),
            {c: (c == most.calls) / 2 + 1 / 6 for c in (1, 2, 3)},
        ),
        "persona": (
            Counter(a.persona for a in drawn),
            {w: (w == most.persona) / 2 + 1 / 6 for w in ("expert", "beginner", "novice")},
        ),
    }
    for counts, wanted in shares.values():
        for value, share in wanted.items():
            sigma = math.sqrt(share * (1 - share) / DRAWS)
            assert abs(counts[value] / DRAWS - share) < 4.5 * sigma
    both = sum(a.tools != most.tools and a.calls != most.calls for a in drawn) / DRAWS
    assert abs(both - 0.45 / 3) < 4.5 * math.sqrt(0.15 * 0.85 / DRAWS)
    assert {(most.guidance, most.strictness)} == {(a.guidance, a.strictness) for a in drawn}


@pytest.mark.parametrize(
    ("difficulty", "mean", "then"),
    [
        (50, 0.5, 53),
        (50, 0.0, 47),
        (50, 0.25, 50),
        (99, 1.0, 100),
        (2, -1.0, 1),
        (100, 0.0, 97),
    ],
)
def test_thresholds_are_inclusive(difficulty: int, mean: float, then: int) -> None:
    """A mean at a threshold moves the difficulty, which stays between 1 and 100."""
    assert then == PUBLISHED.advance(difficulty, [mean, mean])


def test_no_rewards_move_nothing() -> None:
    """A step without a valid episode says nothing."""
    assert 50 == PUBLISHED.advance(50, [])


def test_small_judge_keeps_two_criteria() -> None:
    """The cap holds at every difficulty: one criterion up to 24, two from 25 on."""
    small = Curriculum(mapping="published", criteria=2)
    assert [1, 2, 2] == [small.bound(d).strictness for d in (24, 25, 100)]


def test_pinned_aspects_stay_at_their_hardest() -> None:
    """A pinned aspect has its value at 100 from the start and is never drawn."""
    pinned = Curriculum(mapping="published", reach="whole", pinned=("tools", "persona"), soft=1.0)
    rng = random.Random(1)
    drawn = [pinned.draw_aspects(1, rng) for _ in range(200)]
    assert {(10, "novice")} == {(a.tools, a.persona) for a in drawn}
    assert len({a.calls for a in drawn}) == 3


def test_pinned_turns_pin_their_limits() -> None:
    """The word for the length and the limits belong together."""
    pinned = Curriculum(bounds_turns=(3, 6, 3), pinned=("turns",))
    assert TurnLimits(user=3, assistant=6, tool=3) == pinned.limit_turns(1)

"""The authors' curriculum: their table, its first changes, their draw and thresholds."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.environments.simulated.curriculum import (
    AMBIGUITIES,
    HARDEST,
    PERSONAS,
    AspectName,
    Aspects,
    Curriculum,
    TurnLimits,
)
from trustee.environments.simulated.mapping import MAPPINGS

PUBLISHED = Curriculum(
    mapping="published",
    reach="whole",
    inclusive=True,
    turns=(1, 3),
    bounds_turns=(3, 6, 3),
)
DRAWS = 20_000
DIFFICULTIES = st.integers(1, HARDEST)


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


@settings(max_examples=60)
@given(DIFFICULTIES, DIFFICULTIES)
def test_published_mapping_grows(one: int, other: int) -> None:
    """No aspect gets easier when the difficulty rises."""
    low, high = PUBLISHED.bound(min(one, other)), PUBLISHED.bound(max(one, other))
    words = MAPPINGS["published"].guidance

    def numbers(aspects: Aspects) -> tuple[int, ...]:
        return (
            aspects.tools,
            aspects.calls,
            aspects.turns,
            words.index(aspects.guidance),
            PERSONAS.index(aspects.persona),
            AMBIGUITIES.index(aspects.ambiguity),
            aspects.strictness,
        )

    assert all(a <= b for a, b in zip(numbers(low), numbers(high), strict=True))


ABOVE = {1: 0.7216, 17: 0.7216, 25: 0.6963, 34: 0.6710, 50: 0.5880, 67: 0.5210, 75: 0.4910, 100: 0}
"""By difficulty, the probability that some aspect is above its bound."""
MORE_CALLS = {
    1: 0.1917,
    17: 0.1917,
    25: 0.1083,
    34: 0.0250,
    50: 0.0250,
    67: 0.0500,
    75: 0.0500,
    100: 0.0750,
}
"""By difficulty, the probability that more calls are expected than there are tools."""


@pytest.mark.parametrize("difficulty", ABOVE)
def test_whole_reach_has_the_published_probabilities(difficulty: int) -> None:
    """One coin for tools, one for the four others; guidance and strictness stay at the bound."""
    rng = random.Random(f"whole {difficulty}")
    bound = PUBLISHED.bound(difficulty)
    drawn = [PUBLISHED.draw_aspects(difficulty, rng) for _ in range(DRAWS)]

    def share(holds: Callable[[Aspects], bool]) -> float:
        return sum(map(holds, drawn)) / DRAWS

    def near(probability: float) -> object:
        # Five deviations of a share of so many draws.
        return pytest.approx(probability, abs=5 * 0.5 / DRAWS**0.5)

    def four(aspects: Aspects) -> tuple[object, ...]:
        return (aspects.calls, aspects.persona, aspects.ambiguity, aspects.turns)

    assert {bound.guidance} == {a.guidance for a in drawn}
    assert {bound.strictness} == {a.strictness for a in drawn}
    for k in range(1, 11):
        assert near(0.05 + 0.5 * (k == bound.tools)) == share(lambda a, k=k: a.tools == k)  # type: ignore[misc]
    for name, values in (
        ("calls", (1, 2, 3)),
        ("turns", (1, 2, 3)),
        ("persona", PERSONAS),
        ("ambiguity", AMBIGUITIES),
    ):
        for value in values:
            at = getattr(bound, name) == value
            assert near(1 / 6 + 0.5 * at) == share(
                lambda a, name=name, value=value: getattr(a, name) == value  # type: ignore[misc]
            )
    assert near(0.5062) == share(lambda a: four(a) == four(bound))
    assert near(0.2784) == share(lambda a: a == bound)
    assert near(ABOVE[difficulty]) == share(
        lambda a: any(
            x > y
            for x, y in (
                (a.tools, bound.tools),
                (a.calls, bound.calls),
                (a.turns, bound.turns),
                (PERSONAS.index(a.persona), PERSONAS.index(bound.persona)),
                (AMBIGUITIES.index(a.ambiguity), AMBIGUITIES.index(bound.ambiguity)),
            )
        )
    )
    assert near(MORE_CALLS[difficulty]) == share(lambda a: a.calls > a.tools)
    # A single coin would give twice as much at difficulty 1.
    other_tools = 0.5 * (1 - 0.1)
    assert near(other_tools / 3) == share(
        lambda a: a.tools != bound.tools and a.calls != bound.calls
    )


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


@pytest.mark.parametrize("name", get_args(AspectName))
@pytest.mark.parametrize("reach", ["bound", "whole"])
def test_pinned_aspect_is_the_hardest(name: AspectName, reach: Literal["bound", "whole"]) -> None:
    """It has its value at 100 whatever the difficulty, and a soft draw leaves it alone."""
    rule = msgspec.structs.replace(PUBLISHED, pinned=(name,), reach=reach, soft=1.0)
    hardest = getattr(PUBLISHED.bound(HARDEST), name)
    rng = random.Random(0)
    for difficulty in (1, 40, 99):
        assert hardest == getattr(rule.bound(difficulty), name)
        drawn = [rule.draw_aspects(difficulty, rng) for _ in range(50)]
        assert {hardest} == {getattr(aspects, name) for aspects in drawn}
        rest = msgspec.structs.replace(rule.bound(difficulty), **{name: None})
        assert rest == msgspec.structs.replace(PUBLISHED.bound(difficulty), **{name: None})


def test_pinned_turns_pin_their_limits() -> None:
    """The word for the length and the limits belong together."""
    pinned = Curriculum(bounds_turns=(3, 6, 3), pinned=("turns",))
    assert TurnLimits(user=3, assistant=6, tool=3) == pinned.limit_turns(1)


@pytest.mark.parametrize(
    ("most", "at_1", "at_100"),
    [((1, 2, 1), (1, 2, 1), (1, 2, 1)), ((5, 10, 5), (1, 2, 1), (5, 10, 5))],
)
def test_other_limits(
    most: tuple[int, int, int], at_1: tuple[int, int, int], at_100: tuple[int, int, int]
) -> None:
    """The published ablations halve and nearly double them."""
    rule = msgspec.structs.replace(PUBLISHED, bounds_turns=most)
    for difficulty, expected in ((1, at_1), (100, at_100)):
        found = rule.limit_turns(difficulty)
        assert found is not None
        assert expected == (found.user, found.assistant, found.tool)


@pytest.mark.parametrize(("most", "at_50"), [(5, 2), (20, 10)])
def test_other_numbers_of_tools(most: int, at_50: int) -> None:
    """The published ablations of the number of tools are their upper bound."""
    rule = msgspec.structs.replace(PUBLISHED, tools=(1, most))
    assert (1, at_50, most) == tuple(rule.bound(d).tools for d in (1, 50, 100))


def test_defaults_bound_no_turns() -> None:
    """Only a curriculum that is told to bounds an episode."""
    assert Curriculum().limit_turns(1) is None


def test_bounds_as_figures() -> None:
    """The figures of a step are the bounds themselves, never a draw; words count from 0."""
    assert PUBLISHED.list_bounds(67) == {
        "most_tools": 6,
        "most_calls": 2,
        "most_turns": 2,
        "most_strictness": 3,
        "most_guidance": 2,
        "most_persona": 1,
        "most_ambiguity": 1,
        "most_user_turns": 2,
        "most_assistant_turns": 4,
        "most_tool_turns": 2,
    }
    assert "most_user_turns" not in Curriculum().list_bounds(67)

"""The curriculum: the difficulty moves as the paper says, and bounds every aspect."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Literal, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.environments.simulated.curriculum import (
    AMBIGUITIES,
    GUIDANCE,
    HARDEST,
    PERSONAS,
    AspectName,
    Aspects,
    Curriculum,
    TurnLimits,
)
from trustee.environments.simulated.mapping import MAPPINGS

DIFFICULTIES = st.integers(1, HARDEST)
REWARDS = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=12)
EASIEST = Aspects(
    tools=1,
    calls=1,
    turns=1,
    guidance="detailed",
    persona="expert",
    ambiguity="clear",
    strictness=1,
)
HARD = Aspects(
    tools=10,
    calls=3,
    turns=2,
    guidance="generic",
    persona="novice",
    ambiguity="highly",
    strictness=5,
)


def rank(aspects: Aspects) -> tuple[int, ...]:
    """Give the aspects as numbers that grow with difficulty."""
    return (
        aspects.tools,
        aspects.calls,
        aspects.turns,
        GUIDANCE.index(aspects.guidance),
        PERSONAS.index(aspects.persona),
        AMBIGUITIES.index(aspects.ambiguity),
        aspects.strictness,
    )


def test_defaults_are_the_papers() -> None:
    """Step, thresholds and share are those of the paper."""
    rule = Curriculum()
    assert (3, 0.5, 0.0, 0.5) == (rule.delta, rule.raise_above, rule.lower_below, rule.soft)


@pytest.mark.parametrize(
    ("expected", "difficulty"),
    [
        (EASIEST, 1),
        (HARD, 100),
        (
            Aspects(
                tools=5,
                calls=2,
                turns=1,
                guidance="plain",
                persona="beginner",
                ambiguity="somewhat",
                strictness=3,
            ),
            50,
        ),
    ],
)
def test_bound_at_both_ends_and_between(expected: Aspects, difficulty: int) -> None:
    """The even mapping, which is ours, goes from the paper's easiest task to its hardest."""
    assert expected == Curriculum().bound(difficulty)


@pytest.mark.parametrize(
    ("expected", "difficulty", "rewards"),
    [
        (13, 10, [1.0]),
        (10, 10, [1.0, 0.0]),
        (13, 10, [1.0, 1.0, 0.0]),
        (10, 10, [0.0]),
        (10, 10, [1.0, -1.0]),
        (7, 10, [-1.0, 0.0]),
        (10, 10, []),
        (100, 99, [1.0]),
        (1, 2, [-1.0]),
    ],
)
def test_advance_follows_the_mean(expected: int, difficulty: int, rewards: list[float]) -> None:
    """Means above 0.5 raise by 3, below 0 lower by 3, the thresholds themselves do nothing."""
    assert expected == Curriculum().advance(difficulty, rewards)


@settings(max_examples=60)
@given(DIFFICULTIES, st.lists(REWARDS, max_size=8), st.integers(0, 60))
def test_advance_stays_in_range(start: int, steps: list[list[float]], delta: int) -> None:
    """Difficulty stays in 1..100; off the ends it moves by exactly delta or not at all."""
    rule = Curriculum(delta=delta)
    difficulty = start
    for rewards in steps:
        moved = rule.advance(difficulty, rewards)
        assert 1 <= moved <= HARDEST
        if 1 < moved < HARDEST:
            assert abs(moved - difficulty) in (0, delta)
        if not rewards:
            assert difficulty == moved
        difficulty = moved


@settings(max_examples=60)
@given(DIFFICULTIES, DIFFICULTIES)
def test_bound_grows_with_difficulty(one: int, other: int) -> None:
    """No aspect gets easier when the difficulty rises, and all stay within the paper's range."""
    rule = Curriculum()
    low, high = rank(rule.bound(min(one, other))), rank(rule.bound(max(one, other)))
    bounds = zip(rank(EASIEST), low, high, rank(HARD), strict=True)
    assert all(least <= easier <= harder <= most for least, easier, harder, most in bounds)


@settings(max_examples=60)
@given(DIFFICULTIES, st.integers(0, 1 << 30))
def test_soft_draws_stay_below_the_bound(difficulty: int, seed: int) -> None:
    """A soft draw is nowhere harder than the bound and nowhere easier than the easiest."""
    rule = Curriculum(soft=1.0)
    drawn = rank(rule.draw_aspects(difficulty, random.Random(seed)))
    bounds = zip(rank(EASIEST), drawn, rank(rule.bound(difficulty)), strict=True)
    assert all(least <= value <= most for least, value, most in bounds)


@settings(max_examples=30)
@given(DIFFICULTIES, st.integers(0, 1 << 30))
def test_hard_draws_are_the_bound(difficulty: int, seed: int) -> None:
    """Without softness every task is as hard as its difficulty allows."""
    rule = Curriculum(soft=0.0)
    assert rule.bound(difficulty) == rule.draw_aspects(difficulty, random.Random(seed))


@pytest.mark.parametrize("soft", [0.25, 0.5])
def test_soft_share_is_epsilon(soft: float) -> None:
    """The share of soft tasks is the configured one."""
    rule, rng = Curriculum(soft=soft), random.Random(1)
    drawn = [rule.draw_aspects(HARDEST, rng) for _ in range(2000)]
    # A soft draw equals the bound once in 8100 times, so it hides no more than a task or two.
    assert soft == pytest.approx(sum(aspects != HARD for aspects in drawn) / 2000, abs=0.03)


def test_soft_draws_reach_every_value() -> None:
    """At the top, soft draws cover each aspect from its easiest to its hardest value."""
    rule, rng = Curriculum(soft=1.0), random.Random(1)
    drawn = [rank(rule.draw_aspects(HARDEST, rng)) for _ in range(400)]
    assert [
        set(range(least, most + 1)) for least, most in zip(rank(EASIEST), rank(HARD), strict=True)
    ] == [set(values) for values in zip(*drawn, strict=True)]


def test_curriculum_refuses_impossible_values() -> None:
    """Difficulty, step and share are checked when a config is read."""
    for wrong in ({"start": 0}, {"start": 101}, {"delta": -1}, {"soft": 1.5}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Curriculum)


# What the authors' code does, with its values.

PUBLISHED = Curriculum(
    mapping="published",
    reach="whole",
    inclusive=True,
    criteria=2,
    turns=(1, 3),
    bounds_turns=(3, 6, 3),
)
TABLE: dict[int, tuple[int, int, int, str, int, int, tuple[int, int, int]]] = {
    1: (1, 1, 0, "detailed", 1, 1, (1, 2, 1)),
    17: (1, 1, 0, "detailed", 1, 1, (1, 2, 1)),
    25: (2, 1, 0, "detailed", 2, 2, (1, 2, 1)),
    34: (3, 1, 0, "medium", 2, 2, (1, 2, 1)),
    50: (5, 1, 1, "medium", 3, 2, (1, 3, 1)),
    67: (6, 2, 1, "brief", 3, 2, (2, 4, 2)),
    75: (7, 2, 1, "brief", 4, 2, (2, 4, 2)),
    100: (10, 3, 2, "generic", 5, 2, (3, 6, 3)),
}
"""By difficulty: tools, calls, level of the three words, guidance, criteria without and with the
cap of a small judge, user, assistant and tool turns."""


@pytest.mark.parametrize("difficulty", TABLE)
def test_published_mapping(difficulty: int) -> None:
    """The published table, aspect by aspect."""
    tools, calls, level, guidance, criteria, counted, limits = TABLE[difficulty]
    wide = msgspec.structs.replace(PUBLISHED, criteria=5)
    found = wide.bound(difficulty)
    assert found == Aspects(
        tools=tools,
        calls=calls,
        turns=1 + level,
        guidance=guidance,  # type: ignore[arg-type]  # one of the words
        persona=PERSONAS[level],
        ambiguity=AMBIGUITIES[level],
        strictness=criteria,
    )
    assert counted == PUBLISHED.bound(difficulty).strictness
    assert TurnLimits(user=limits[0], assistant=limits[1], tool=limits[2]) == PUBLISHED.limit_turns(
        difficulty
    )


def test_published_first_changes() -> None:
    """Each aspect changes exactly where the published products reach the next whole number."""
    wide = msgspec.structs.replace(PUBLISHED, criteria=5)

    def changes(value: Callable[[int], object]) -> list[int]:
        return [d for d in range(2, HARDEST + 1) if value(d) != value(d - 1)]

    def limits(difficulty: int) -> TurnLimits:
        found = wide.limit_turns(difficulty)
        assert found is not None
        return found

    assert [20, 30, 40, 50, 60, 70, 80, 90, 100] == changes(lambda d: wide.bound(d).tools)
    assert [67, 100] == changes(lambda d: wide.bound(d).calls)
    for word in ("persona", "ambiguity", "turns"):
        assert [50, 100] == changes(lambda d, word=word: getattr(wide.bound(d), word))  # type: ignore[misc]
    assert [34, 67, 100] == changes(lambda d: wide.bound(d).guidance)
    assert [25, 50, 75, 100] == changes(lambda d: wide.bound(d).strictness)
    assert [67, 100] == changes(lambda d: limits(d).user) == changes(lambda d: limits(d).tool)
    assert [50, 67, 84, 100] == changes(lambda d: limits(d).assistant)


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


@pytest.mark.parametrize(
    ("expected", "difficulty", "rewards"),
    [
        (13, 10, [0.5]),
        (13, 10, [1.0, 0.0]),
        (7, 10, [0.0]),
        (7, 10, [1.0, -1.0]),
        (10, 10, [0.25]),
        (100, 99, [1.0]),
        (1, 2, [-1.0]),
        (97, 100, [0.0]),
        (10, 10, []),
    ],
)
def test_published_thresholds_are_inclusive(
    expected: int, difficulty: int, rewards: list[float]
) -> None:
    """A mean of 0.5 raises, one of 0 lowers; without any valid episode nothing moves."""
    assert expected == PUBLISHED.advance(difficulty, rewards)


DRAWS = 20_000
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


@pytest.mark.parametrize("difficulty", TABLE)
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


def test_whole_reach_follows_chi_square() -> None:
    """Tools are uniform among soft draws; 27.9 is exceeded once in 1,000 times by chance."""
    rng = random.Random(1)
    rule = msgspec.structs.replace(PUBLISHED, soft=1.0)
    counts = Counter(rule.draw_aspects(1, rng).tools for _ in range(DRAWS))
    expected = DRAWS / 10
    assert sum((counts[k] - expected) ** 2 / expected for k in range(1, 11)) < 27.9


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


def test_pinned_turns_pin_the_limits() -> None:
    """Whoever pins the length of the talk gives it the room as well."""
    rule = msgspec.structs.replace(PUBLISHED, pinned=("turns",))
    assert rule.limit_turns(1) == PUBLISHED.limit_turns(HARDEST)


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

"""The curriculum: the difficulty moves as the paper says, and bounds every aspect."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.environments.simulated.curriculum import (
    AMBIGUITIES,
    GUIDANCE,
    HARDEST,
    PERSONAS,
    Aspects,
    Curriculum,
)

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

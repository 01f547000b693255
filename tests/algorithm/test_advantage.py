"""Advantages against those of TRL and verl, and the properties that hold for any rewards."""

from __future__ import annotations

import json
import math
from itertools import chain
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.algorithm.advantage import Scale, advantages, is_constant, whiten

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
TRL: list[dict[str, Any]] = json.loads((GOLDEN / "trl_advantages.json").read_text())
VERL: list[dict[str, Any]] = json.loads((GOLDEN / "verl_grpo.json").read_text())["advantages"]

SCALES: tuple[Scale, ...] = ("group", "batch", "none")
ULP = 2.0**-24
"""Relative rounding of float32, in which both recorded their figures."""

rewards = st.integers(-100, 100).map(lambda n: n / 100)
groups = st.lists(rewards, min_size=1, max_size=8)
batches = st.lists(groups, min_size=1, max_size=4)
scales = st.sampled_from(SCALES)


def spread(group: list[float]) -> float:
    """The deviation by which a rounding of the group's mean is magnified."""
    return 1.0 if is_constant(group) else stdev(group)


@pytest.mark.parametrize("case", TRL, ids=lambda case: case["scale_rewards"])
def test_advantages_are_those_of_trl(case: dict[str, Any]) -> None:
    """Each scale gives TRL's figures, up to the float32 in which TRL computes."""
    size = case["num_generations"]
    split = [case["rewards"][i : i + size] for i in range(0, len(case["rewards"]), size)]
    actual = list(chain.from_iterable(advantages(split, scale=case["scale_rewards"])))
    tolerance = 2 * ULP * max(case["rewards"]) / min(spread(group) for group in split)
    assert case["advantages"] == pytest.approx(actual, rel=0, abs=tolerance)


@pytest.mark.parametrize("case", VERL)
def test_advantages_are_those_of_verl(case: dict[str, Any]) -> None:
    """With verl's epsilon, verl's figures come out; in groups of one it takes the reward, we 0."""
    names = sorted(set(case["group"]))
    numbered = list(zip(case["group"], case["rewards"], case["advantages"], strict=True))
    split = [[reward for name, reward, _ in numbered if name == wanted] for wanted in names]
    golden = [[value for name, _, value in numbered if name == wanted] for wanted in names]
    actual = advantages(
        split,
        scale="group" if case["norm_by_std"] else "none",
        epsilon=case["epsilon"],
    )
    for group, expected, values in zip(split, golden, actual, strict=True):
        if len(group) == 1:
            assert [0.0] == values
            continue
        tolerance = 2 * ULP * max(group) / spread(group)
        assert expected == pytest.approx(values, rel=0, abs=tolerance)


def test_verl_cases_hold_a_group_of_one() -> None:
    """The recorded cases do cover the rule for a group of one."""
    lone = [case for case in VERL if len(set(case["group"])) == len(case["group"])]
    assert [case["rewards"] for case in lone] == [
        [0.4399999976158142, 0.5600000023841858, 0.6399999856948853]
    ]


def test_values_by_hand() -> None:
    """Small groups give figures that can be checked by hand."""
    two = [[0.0, 2.0], [1.0, 1.0]]
    assert advantages(two, scale="none") == [[-1.0, 1.0], [0.0, 0.0]]
    assert advantages([[0.0, 2.0]], scale="group", epsilon=0.0) == [[-1 / 2**0.5, 1 / 2**0.5]]
    assert advantages(
        [[0.0, 2.0], [1.0, 3.0]], scale="batch", epsilon=1 - stdev([0.0, 2.0, 1.0, 3.0])
    ) == [[-1.0, 1.0], [-1.0, 1.0]]


@pytest.mark.parametrize(
    ("group", "values"),
    [
        ([1.0] * 4 + [-1.0] * 4, [0.93541] * 4 + [-0.93541] * 4),
        ([1.0] * 7 + [-1.0], [0.35355] * 7 + [-2.47487]),
        ([1.0] + [-1.0] * 7, [2.47487] + [-0.35355] * 7),
        (
            [1.0, 1.0, 0.0, 0.0, 0.0, -1.0, -1.0, -1.0],
            [1.34807] * 2 + [0.14979] * 3 + [-1.04850] * 3,
        ),
        ([1.0] * 8, [0.0] * 8),
    ],
)
def test_published_advantages_of_trustee(group: list[float], values: list[float]) -> None:
    """Groups of eight with its three rewards and its epsilon, worked out by hand."""
    (found,) = advantages([group], scale="group", epsilon=1e-6)
    assert values == pytest.approx(found, abs=5e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_lone_member_has_no_advantage(scale: Scale) -> None:
    """A group of one has no baseline, so it teaches nothing."""
    zero, _ = advantages([[0.7], [0.0, 1.0]], scale=scale)
    assert zero == [0.0]


def test_nothing_gives_nothing() -> None:
    """No groups and empty groups pass through."""
    assert advantages([], scale="batch") == []
    assert advantages([[], [0.3]], scale="batch") == [[], [0.0]]


@settings(max_examples=60)
@given(batches, scales)
def test_each_group_sums_to_zero(batch: list[list[float]], scale: Scale) -> None:
    """What one member gains, the others lose."""
    for group in advantages(batch, scale=scale):
        assert sum(group) == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=60)
@given(batches, scales, st.randoms(use_true_random=False))
def test_advantages_follow_a_permutation(batch: list[list[float]], scale: Scale, rng: Any) -> None:
    """A member's advantage does not depend on its place, to the last bit."""
    orders = [rng.sample(range(len(group)), len(group)) for group in batch]
    shuffled = [[g[i] for i in order] for g, order in zip(batch, orders, strict=True)]
    straight = advantages(batch, scale=scale)
    expected = [[g[i] for i in order] for g, order in zip(straight, orders, strict=True)]
    assert expected == advantages(shuffled, scale=scale)


@settings(max_examples=60)
@given(st.floats(-10, 10), st.integers(1, 50), groups, scales)
def test_constant_groups_give_exact_zeros(
    reward: float, size: int, other: list[float], scale: Scale
) -> None:
    """Rounding never turns equal rewards into something to learn, with or without epsilon."""
    for epsilon in (0.0, 1e-4):
        first, _ = advantages([[reward] * size, other], scale=scale, epsilon=epsilon)
        assert [0.0] * size == first


@settings(max_examples=60)
@given(groups, st.sampled_from([0.125, 0.3, 7.0, 1000.0]))
def test_group_scale_forgets_the_unit(group: list[float], factor: float) -> None:
    """Rewards in another unit give the same advantages, once epsilon is in that unit too."""
    scaled = [reward * factor for reward in group]
    [expected] = advantages([group], scale="group", epsilon=1e-4)
    [actual] = advantages([scaled], scale="group", epsilon=1e-4 * factor)
    assert expected == pytest.approx(actual, rel=1e-9, abs=1e-12)


def test_whitened_values_by_hand() -> None:
    """The batch's mean and unbiased deviation count each token once."""
    even = whiten([[0.0, 2.0], [2.0, 0.0]], [[1, 1], [1, 1]], epsilon=0.0)
    one = 0.75**0.5
    assert [[-one, one], [one, -one]] == [
        [pytest.approx(value, abs=1e-15) for value in group] for group in even
    ]
    # Tokens carry 0, 1, 1, 1: mean 3/4, variance (9/16 + 3/16) / 3 = 1/4.
    assert [[-1.5, 0.5]] == whiten([[0.0, 1.0]], [[1, 3]], epsilon=0.0)
    assert [[-0.75 / 1.25**0.5, 0.25 / 1.25**0.5]] == whiten([[0.0, 1.0]], [[1, 3]], epsilon=1.0)


def test_constant_groups_teach_where_the_batch_is_the_baseline() -> None:
    """A group that always succeeds is better than one that always fails."""
    first, second = whiten([[1.0, 1.0], [0.0, 0.0]], [[5, 5], [5, 5]])
    assert first[0] == first[1] > 0 > second[0] == second[1]
    assert [[0.0, 0.0], [0.0, 0.0]] == advantages([[1.0, 1.0], [0.0, 0.0]], scale="group")


def test_whitening_nothing() -> None:
    """No members, one member, equal rewards and silent members give zeros."""
    assert [] == whiten([], [])
    assert [[], [0.0]] == whiten([[], [0.3]], [[], [7]])
    assert [[0.0, 0.0], [0.0]] == whiten([[0.1, 0.1], [0.1]], [[3, 1], [2]])
    assert [[0.0, 0.0]] == whiten([[0.1, 0.9]], [[3, 0]])


@settings(max_examples=60)
@given(batches, st.randoms(use_true_random=False))
def test_whitened_tokens_have_mean_zero_and_variance_one(
    batch: list[list[float]], rng: Any
) -> None:
    """Over all tokens, and whatever the groups are."""
    tokens = [[rng.randint(1, 9) for _ in group] for group in batch]
    result = whiten(batch, tokens, epsilon=0.0)
    carried = [
        value
        for values, counts in zip(result, tokens, strict=True)
        for value, count in zip(values, counts, strict=True)
        for _ in range(count)
    ]
    assert sum(carried) == pytest.approx(0.0, abs=1e-9)
    if any(carried):
        assert stdev(carried) == pytest.approx(1.0, rel=1e-9)
    flat = whiten([[r for g in batch for r in g]], [[n for g in tokens for n in g]], epsilon=0.0)
    assert [v for values in result for v in values] == flat[0]


def test_is_constant() -> None:
    """Only a difference between members makes a group worth training on."""
    assert [is_constant(group) for group in ([], [0.3], [0.3, 0.3], [0.3, 0.3, 0.4])] == [
        True,
        True,
        True,
        False,
    ]


odd = st.one_of(
    st.floats(),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-200, 1e200, 1.7e308, -1.7e308, float("inf")]),
    st.booleans(),
    st.integers(-(10**20), 10**20),
)
odd_batches = st.lists(st.lists(odd, max_size=6), max_size=4)


@settings(max_examples=300)
@given(odd_batches, scales, st.sampled_from([0.0, 1e-8, 1e-4]), st.randoms(use_true_random=False))
def test_advantages_are_finite_whatever_rewards_are(
    batch: list[list[float]], scale: Scale, epsilon: float, rng: Any
) -> None:
    """No reward makes an advantage that is not finite, and what is not finite teaches nothing."""
    tokens = [[rng.randint(0, 9) for _ in group] for group in batch]
    for result in (
        advantages(batch, scale=scale, epsilon=epsilon),
        whiten(batch, tokens, epsilon=epsilon),
    ):
        assert [len(group) for group in batch] == [len(group) for group in result]
        for rewards, values in zip(batch, result, strict=True):
            assert all(math.isfinite(value) for value in values)
            assert all(
                value == 0.0
                for reward, value in zip(rewards, values, strict=True)
                if not math.isfinite(reward)
            )


@settings(max_examples=60)
@given(batches, scales, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_reward_that_is_not_finite_changes_no_other(
    batch: list[list[float]], scale: Scale, broken: float
) -> None:
    """The other members' advantages are those that they would have without it."""
    spoiled = [[broken, *group] for group in batch]
    expected = [[0.0, *group] for group in advantages(batch, scale=scale)]
    assert expected == advantages(spoiled, scale=scale)
    tokens = [[3] * len(group) for group in batch]
    assert [[0.0, *group] for group in whiten(batch, tokens)] == whiten(
        spoiled, [[5, *counts] for counts in tokens]
    )

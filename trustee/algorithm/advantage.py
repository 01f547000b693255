"""From rewards to advantages: how much better each member did than others.

The one idea: with GRPO the group's mean is the baseline, so a group whose members all got the same
reward teaches nothing; with REINFORCE++ the whole batch is, so such a group teaches too. Inner
sequences hold the valid members of one task; nobody else's faults count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from statistics import fmean, stdev
from typing import Literal

Estimator = Literal["grpo", "reinforce++"]
"""Whose mean is the baseline: a member's own group's, or the batch's."""

Scale = Literal["group", "batch", "none"]
"""What the centred reward is divided by: the unbiased standard deviation (n - 1) of its group, that
of all rewards given, or nothing."""

Lone = Literal["zero", "reward"]
"""The advantage of a group of one, which has no baseline: 0 as in TRL, or the reward itself as if
mean 0 and deviation 1, as in verl."""


def advantages(
    rewards: Sequence[Sequence[float]],
    *,
    scale: Scale,
    epsilon: float = 1e-4,
    lone: Lone = "zero",
) -> list[list[float]]:
    """Give each reward its advantage, in the same order.

    `epsilon` is added to the deviation: 1e-4 in TRL, 1e-6 in verl. Constant groups give exact
    zeros under every scale.

    Source: TRL 1.16.0 `GRPOTrainer`; verl 0.3.1 `compute_grpo_outcome_advantage`.
    """
    overall = _deviation(list(chain.from_iterable(rewards)))
    result = []
    for group in rewards:
        if len(group) == 1 and lone == "reward":
            centred, deviation = list(group), 1.0
        else:
            centred = _centre(group)
            deviation = overall if scale == "batch" else _deviation(group)
        divisor = 1.0 if scale == "none" else deviation + epsilon
        result.append([value / divisor for value in centred])
    return result


def whiten(
    rewards: Sequence[Sequence[float]],
    tokens: Sequence[Sequence[int]],
    *,
    epsilon: float = 1e-8,
) -> list[list[float]]:
    """Give each reward its advantage over the batch, whatever its group, in the same order.

    Mean and unbiased variance are taken over sampled tokens, each of which carries its episode's
    reward (no discount), so a long episode weighs more. `epsilon` is added to the variance. A batch
    of equal rewards gives exact zeros.

    Args:
        rewards: By group and member.
        tokens: Sampled tokens of each of them.
        epsilon: As in verl.

    Source: REINFORCE++, arXiv 2501.03262; verl 0.3.1
        `compute_reinforce_plus_plus_outcome_advantage`.
    """
    flat = list(chain.from_iterable(rewards))
    weights = list(chain.from_iterable(tokens))
    count = sum(weights)
    spoken = [reward for reward, weight in zip(flat, weights, strict=True) if weight]
    if is_constant(spoken):
        return [[0.0] * len(group) for group in rewards]
    mean = math.fsum(r * n for r, n in zip(flat, weights, strict=True)) / count
    squares = math.fsum(n * (r - mean) ** 2 for r, n in zip(flat, weights, strict=True))
    deviation = math.sqrt(squares / (count - 1) + epsilon)
    return [[(reward - mean) / deviation for reward in group] for group in rewards]


def is_constant(rewards: Sequence[float]) -> bool:
    """Say whether a group teaches nothing because its rewards are all equal."""
    return len(set(rewards)) <= 1


def _centre(group: Sequence[float]) -> list[float]:
    # A rounded mean need not equal the rewards it is the mean of.
    if is_constant(group):
        return [0.0] * len(group)
    mean = fmean(group)
    return [reward - mean for reward in group]


def _deviation(rewards: Sequence[float]) -> float:
    # A constant's deviation is 1, so that zero over it is zero even with no epsilon.
    return 1.0 if is_constant(rewards) else stdev(rewards)

"""From rewards to advantages: how much better each member did than its group.

The one idea: the group's mean is the baseline, so a group whose members all got the same reward
teaches nothing. Inner sequences hold the sound members of one task; nobody else's faults count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from statistics import fmean, stdev
from typing import Literal

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

"""Turn rewards into advantages: how much better each episode did than a baseline.

GRPO uses the group's mean as baseline, so a group with equal rewards contributes nothing.
REINFORCE++ uses the mean of the whole batch, so such a group still contributes. In both, rewards
are nested by group, and a group holds only its valid members: failed episodes are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from statistics import fmean, stdev
from typing import Literal

Estimator = Literal["grpo", "reinforce++"]
"""Where the baseline comes from: the member's own group, or the whole batch."""

Scale = Literal["group", "batch", "none"]
"""What a centred reward is divided by: the unbiased standard deviation (n - 1) of its group, the
same over all rewards, or nothing."""


def advantages(
    rewards: Sequence[Sequence[float]],
    *,
    scale: Scale,
    epsilon: float = 1e-4,
) -> list[list[float]]:
    """Return the GRPO advantage of every reward, in the same nesting and order.

    `epsilon` is added to the deviation: 1e-4 in TRL, 1e-6 in verl. Constant groups, and so groups
    of one, yield exact zeros under every scale.

    Source: TRL 1.16.0 `GRPOTrainer`; verl 0.3.1 `compute_grpo_outcome_advantage`.
    """
    overall = _deviation(list(chain.from_iterable(rewards)))
    result = []
    for group in rewards:
        deviation = overall if scale == "batch" else _deviation(group)
        divisor = 1.0 if scale == "none" else deviation + epsilon
        result.append([value / divisor for value in _centre(group)])
    return result


def whiten(
    rewards: Sequence[Sequence[float]],
    tokens: Sequence[Sequence[int]],
    *,
    epsilon: float = 1e-8,
) -> list[list[float]]:
    """Return the REINFORCE++ advantage of every reward, in the same nesting and order.

    Mean and unbiased variance are taken over sampled tokens, each of which carries its episode's
    reward (no discount), so a long episode weighs more. A batch of equal rewards yields exact
    zeros.

    Args:
        rewards: rewards by group and member.
        tokens: number of sampled tokens of each episode, nested like `rewards`.
        epsilon: added to the variance; verl's value by default.

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
    """Return whether all rewards are equal, so that there is nothing to learn from them."""
    return len(set(rewards)) <= 1


def _centre(group: Sequence[float]) -> list[float]:
    # The mean of equal floats may differ from them by rounding, so zero is returned explicitly.
    if is_constant(group):
        return [0.0] * len(group)
    mean = fmean(group)
    return [reward - mean for reward in group]


def _deviation(rewards: Sequence[float]) -> float:
    # 1 for constant rewards, so that 0 / deviation is 0 even when epsilon is 0.
    return 1.0 if is_constant(rewards) else stdev(rewards)

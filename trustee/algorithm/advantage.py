"""Turn rewards into advantages: how much better each episode did than a baseline.

GRPO uses the group's mean as baseline, so a group with equal rewards contributes nothing.
REINFORCE++ uses the mean of the whole batch, so such a group still contributes. In both, rewards
are nested by group, and a group holds only its valid members: failed episodes are left out.

Advantages are finite, whatever the rewards are. One that is not finite cannot come from an episode,
because scores are checked where they enter; here it would teach nothing and change no other.
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

EPSILON = 1e-4
"""Added to GRPO's deviation unless a config says otherwise; TRL's value."""
LARGEST = 1e100
"""Size to which rewards are clipped, so that squares stay finite; the trainer's own floats end far
below it."""


def advantages(
    rewards: Sequence[Sequence[float]],
    *,
    scale: Scale,
    epsilon: float = EPSILON,
) -> list[list[float]]:
    """Return the GRPO advantage of every reward, in the same nesting and order.

    `epsilon` is added to the deviation: 1e-4 in TRL, 1e-6 in verl. Constant groups, and so groups
    of one, yield exact zeros under every scale.

    Source: TRL 1.16.0 `GRPOTrainer`; verl 0.3.1 `compute_grpo_outcome_advantage`.
    """
    groups = [_usable(group) for group in rewards]
    overall = _deviation(list(chain.from_iterable(groups)))
    result = []
    for group, usable in zip(rewards, groups, strict=True):
        deviation = overall if scale == "batch" else _deviation(usable)
        divisor = 1.0 if scale == "none" else deviation + epsilon
        mean = _mean(usable)
        result.append([_ratio(_clip(reward) - mean, divisor) for reward in group])
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
    flat = [
        (_clip(reward), count)
        for reward, count in zip(
            chain.from_iterable(rewards), chain.from_iterable(tokens), strict=True
        )
        if math.isfinite(reward)
    ]
    if is_constant([reward for reward, count in flat if count]):
        return [[0.0] * len(group) for group in rewards]
    count = sum(n for _, n in flat)
    mean = math.fsum(r * n for r, n in flat) / count
    squares = math.fsum(n * (r - mean) ** 2 for r, n in flat)
    deviation = math.sqrt(squares / (count - 1) + epsilon)
    return [[_ratio(_clip(reward) - mean, deviation) for reward in group] for group in rewards]


def is_constant(rewards: Sequence[float]) -> bool:
    """Return whether all rewards are equal, so that there is nothing to learn from them."""
    return len(set(rewards)) <= 1


def _usable(rewards: Sequence[float]) -> list[float]:
    return [_clip(reward) for reward in rewards if math.isfinite(reward)]


def _clip(reward: float) -> float:
    # NaN and infinities pass, for `_ratio`.
    return max(-LARGEST, min(LARGEST, reward)) if math.isfinite(reward) else reward


def _mean(rewards: Sequence[float]) -> float:
    # The mean of equal floats may differ from them by rounding, so one of them is returned.
    if is_constant(rewards):
        return rewards[0] if rewards else 0.0
    return fmean(rewards)


def _ratio(centred: float, divisor: float) -> float:
    # The divisor underflows only if the rewards are equal up to numbers that floats cannot square.
    return centred / divisor if divisor and math.isfinite(centred) else 0.0


def _deviation(rewards: Sequence[float]) -> float:
    # 1 for constant rewards, so that 0 / deviation is 0 even when epsilon is 0.
    return 1.0 if is_constant(rewards) else stdev(rewards)

"""pass^k: the share of tasks that a policy solves in all of k attempts.

Of n attempts with c successes, C(c, k) / C(n, k) of the ways to choose k are all successes, which
estimates pass^k without bias for every k up to n. Tasks are what is independent, so the interval is
that of a mean over tasks.
Source: Yao et al., tau-bench, arXiv 2406.12045, for pass^k; Chen et al., arXiv 2107.03374, for the
estimator.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from trustee.evaluation.evaluate import Gain, SuccessRate
from trustee.evaluation.intervals import mean_interval
from trustee.types import Trajectory

SEED = 0
"""Seed of the intervals' draws."""


def count_successes(played: Sequence[Trajectory]) -> dict[str, tuple[int, int]]:
    """Return successes and valid attempts of each task that has any, by its id."""
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for trajectory in played:
        if trajectory.failure is None:
            solved, valid = counts[trajectory.task_id]
            counts[trajectory.task_id] = solved + trajectory.success, valid + 1
    return dict(counts)


def estimate(solved: int, valid: int, k: int) -> float:
    """Return the unbiased estimate of the chance that k attempts all succeed."""
    return math.comb(solved, k) / math.comb(valid, k)


def pass_all(played: Sequence[Trajectory], k: int) -> SuccessRate:
    """Return pass^k over the tasks with at least k valid attempts; their number is the count."""
    counts = count_successes(played)
    chances = [estimate(solved, valid, k) for solved, valid in counts.values() if valid >= k]
    low, high = mean_interval([2 * chance - 1 for chance in chances], seed=SEED)
    return SuccessRate(
        value=math.fsum(chances) / len(chances) if chances else 0.0,
        low=max(0.0, (low + 1) / 2),
        high=min(1.0, (high + 1) / 2),
        count=len(chances),
        failed=sum(trajectory.failure is not None for trajectory in played),
    )


def gain_of_means(first: Sequence[Trajectory], second: Sequence[Trajectory]) -> Gain:
    """Return the gain in the share of solved attempts, on the tasks that both have played.

    A task counts as won or lost if its share grew or fell.
    """
    before, after = count_successes(first), count_successes(second)
    gains = [
        after[task][0] / after[task][1] - before[task][0] / before[task][1]
        for task in sorted(before.keys() & after.keys())
    ]
    low, high = mean_interval(gains, seed=SEED)
    return Gain(
        points=100 * math.fsum(gains) / len(gains) if gains else 0.0,
        low=100 * low,
        high=100 * high,
        better=sum(gain > 0 for gain in gains),
        worse=sum(gain < 0 for gain in gains),
    )

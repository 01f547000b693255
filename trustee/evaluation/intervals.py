"""95 % intervals that keep their width on few tasks, and where all tasks change alike.

A share has Wilson's interval. A difference of two shares on the same tasks has Tango's, which asks
the same question of pairs: which differences would not be rejected by the score test? A bootstrap
answers with no width at all where all changes are equal, as on three tasks that are all won.
A mean of differences that are not wins and losses has a Bayesian bootstrap that has also seen, with
the weight of half a task each, the greatest gain and the greatest loss.

A mean over tokens has a Bayesian bootstrap over the texts that they stand in.

Source: Wilson, JASA 22 (1927); Tango, Statistics in Medicine 17 (1998), 891; Rubin, Annals of
Statistics 9 (1981), 130.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

Z95 = 1.959964
"""Standard normal quantile of a 95 % interval."""
HALVINGS = 60
"""Halvings of the range in which a limit is looked for; floats are exhausted by then."""
DRAWS = 4000
"""Draws of the Bayesian bootstrap, for which a limit's own error is about 2 % of the width."""
TEXT_DRAWS = 1000
"""The same where a report has dozens of intervals; their limits' own error is about 4 %."""


def share_interval(successes: int, count: int) -> tuple[float, float]:
    """Return Wilson's interval of a share; the full range without outcomes."""
    if count == 0:
        return 0.0, 1.0
    share, z2 = successes / count, Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    half *= Z95 / (1 + z2 / count)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def paired_interval(better: int, worse: int, count: int) -> tuple[float, float]:
    """Return Tango's interval of a difference of two shares on the same tasks.

    Args:
        better: number of tasks with which only the second share grows.
        worse: number of tasks with which only the first share grows.
        count: number of all tasks.
    """
    if count == 0:
        return -1.0, 1.0
    found = (better - worse) / count

    def score(difference: float) -> float:
        return _paired_score(difference, better=better, worse=worse, count=count)

    # The score falls from left to right.
    low = _bisect(lambda difference: score(difference) > Z95, -1.0, found)
    high = _bisect(lambda difference: score(difference) >= -Z95, found, 1.0)
    return low, high


def _paired_score(difference: float, *, better: int, worse: int, count: int) -> float:
    """Return by how many standard errors the data exceed a supposed difference."""
    a = 2 * count
    b = (2 * count - better + worse) * difference - better - worse
    c = -worse * difference * (1 - difference)
    # The most likely share of losses, given the difference.
    losses = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    excess = better - worse - count * difference
    variance = count * (2 * losses + difference * (1 - difference))
    if variance <= 0 or excess == 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def _bisect(is_left: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a condition that holds on the left ends; `high` if it never does."""
    if is_left(high):
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if is_left(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def mean_interval(gains: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Return an interval of the mean of gains between -1 and 1; it holds the mean itself."""
    if not gains:
        return -1.0, 1.0
    rng = random.Random(seed)
    seen = [(1.0, gain) for gain in gains] + [(0.5, -1.0), (0.5, 1.0)]
    means = sorted(_weigh(seen, rng) for _ in range(DRAWS))
    mean = math.fsum(gains) / len(gains)
    low, high = means[int(0.025 * DRAWS)], means[int(0.975 * DRAWS)]
    return min(mean, low), max(mean, high)


def ratio_interval(parts: Sequence[tuple[float, int]], *, seed: int) -> tuple[float, float]:
    """Return an interval of a mean over tokens, where tokens come in texts that differ as a whole.

    Texts are weighed anew in each draw of a Bayesian bootstrap, so the interval is that over texts
    of this kind. It holds the mean itself, and is unbounded with fewer than two texts.

    Args:
        parts: for each text the sum over its tokens, and their number.
        seed: decides the draws.
    """
    counted = [(total, count) for total, count in parts if count]
    if len(counted) < 2:
        return -math.inf, math.inf
    rng = random.Random(seed)
    means = []
    for _ in range(TEXT_DRAWS):
        weights = [rng.expovariate(1.0) for _ in counted]
        top = math.fsum(w * total for w, (total, _) in zip(weights, counted, strict=True))
        means.append(top / math.fsum(w * n for w, (_, n) in zip(weights, counted, strict=True)))
    means.sort()
    mean = math.fsum(total for total, _ in counted) / sum(count for _, count in counted)
    return min(mean, means[int(0.025 * TEXT_DRAWS)]), max(mean, means[int(0.975 * TEXT_DRAWS)])


def _weigh(seen: Sequence[tuple[float, float]], rng: random.Random) -> float:
    """Return the mean of gains under weights drawn from a Dirichlet distribution."""
    weights = [rng.gammavariate(shape, 1.0) for shape, _ in seen]
    total = math.fsum(weights)
    return math.fsum(w * gain for w, (_, gain) in zip(weights, seen, strict=True)) / total

"""How far engine and trainer are apart on the same ids: with one request, and with many at once.

The one idea: kernels differ by how many requests a step decodes. Those for one to four round more
often than those for many, which is what nearly all tokens of a run are sampled with. So a figure of
one request alone is not the run's, and both are told.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from statistics import fmean
from typing import Literal

import anyio

from trustee.types import Record, Sample

AT_ONCE = 32
"""Requests that are asked together."""
COMPARED = 4
"""Answers of either kind that the trainer computes again."""


class Gaps(Record, frozen=True):
    """Mean differences of logprobs, in nats per token."""

    alone: float
    """Of requests asked one after the other."""
    at_once: float
    """Of requests asked together."""
    requests: int
    """How many those were."""

    def describe(self) -> str:
        """Return both figures as text."""
        return f"{self.alone:.4f} alone, {self.at_once:.4f} with {self.requests} at once"

    def judge(self, limit: float) -> Literal["ok", "warn", "fail"]:
        """Return `fail` if a run would stop, `warn` if only requests that are alone are off."""
        # Not `gap > limit`, which would accept NaN.
        if not self.at_once <= limit or math.isnan(self.alone):
            return "fail"
        return "ok" if self.alone <= limit else "warn"


async def measure_gaps(
    ask: Callable[[int], Awaitable[Sample]],
    score: Callable[[Sample], Awaitable[list[float]]],
    *,
    requests: int,
    compared: int = COMPARED,
) -> Gaps:
    """Sample answers one by one and then together, and hold the trainer's logprobs to them.

    Args:
        ask: samples an answer with a seed; its logprobs are the engine's.
        score: returns the trainer's logprobs of a sample's sampled ids.
        requests: how many are asked together.
        compared: how many of either kind are computed again.
    """
    alone = [await ask(seed) for seed in range(compared)]
    together: dict[int, Sample] = {}

    async def keep(seed: int) -> None:
        together[seed] = await ask(seed)

    async with anyio.create_task_group() as tasks:
        for seed in range(requests):
            tasks.start_soon(keep, seed)
    kept = [together[seed] for seed in range(min(compared, requests))]
    return Gaps(
        alone=await _mean_gap(alone, score),
        at_once=await _mean_gap(kept, score),
        requests=requests,
    )


async def _mean_gap(
    samples: list[Sample], score: Callable[[Sample], Awaitable[list[float]]]
) -> float:
    apart: list[float] = []
    for sample in samples:
        theirs = [
            value for value, sampled in zip(sample.logprobs, sample.mask, strict=True) if sampled
        ]
        ours = await score(sample)
        apart += [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    return fmean(apart)

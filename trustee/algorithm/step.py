"""One step: from groups to advantages, samples, micro-batches and the updates of the adapter.

The engine's logprobs serve as the old logprobs, so a sample costs one forward and one backward
pass, and all updates of a step compare with the policy that played it. Unless `learn.keep_flat`
says otherwise, samples without an advantage are dropped before any computation: with GRPO those of
groups whose rewards are all equal, with REINFORCE++ all samples of a step whose rewards are all
equal.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean

import structlog

from trustee.algorithm.advantage import (
    EPSILON,
    Estimator,
    Scale,
    advantages,
    is_constant,
    whiten,
)
from trustee.algorithm.batch import to_samples
from trustee.algorithm.config import LearnConfig
from trustee.algorithm.fallback import Trained, train_with_fallback
from trustee.algorithm.learner import Learner
from trustee.algorithm.memory_ladder import MemoryLadder
from trustee.runs.store import Store
from trustee.types import Group, Record, Sample, Trajectory

log = structlog.get_logger()


class StepReport(Record, frozen=True):
    """The result of a step, as sums and counts; `metrics` turns them into means."""

    moved: bool
    """Whether any update changed the adapter; False without a usable sample, or if a value of each
    update was not finite."""
    finite: bool
    """Whether all values of all updates were finite."""
    groups: int
    mixed: int
    """Number of groups whose rewards differ."""
    samples: int
    too_long: int
    """Number of samples skipped because they exceed the reduced context."""
    norm: float
    """Gradient norm before clipping, the mean over the updates."""
    learning_rate: float
    updates: int = 1
    """Number of updates that had samples."""
    loss: float = 0.0
    """Mean over the updates."""
    tokens: int = 0
    clipped: int = 0
    fresh_tokens: int = 0
    """Number of tokens of the first update that the trained version itself sampled. Only on these
    must engine and trainer agree, because the policy has changed since it sampled the others."""
    gap_abs_sum: float = 0.0
    gap_abs_max: float = 0.0
    gap_kl_sum: float = 0.0
    kl_sum: float = 0.0
    entropy_sum: float = 0.0
    ratio_max: float = 0.0

    @property
    def mismatch(self) -> float | None:
        """Mean |engine - trainer| logprob of fresh tokens, in nats; None if no token was fresh."""
        return self.gap_abs_sum / self.fresh_tokens if self.fresh_tokens else None

    def metrics(self) -> dict[str, float | bool | None]:
        """Return the metrics of the step; sums are divided by the number of trained tokens."""
        tokens = max(1, self.tokens)
        return {
            "moved": self.moved,
            "frac_reward_zero_std": 1 - self.mixed / max(1, self.groups),
            "updates": self.updates,
            "samples": self.samples,
            "too_long": self.too_long,
            "trained_tokens": self.tokens,
            "loss": self.loss,
            "grad_norm": self.norm,
            "learning_rate": self.learning_rate,
            "clip_ratio": self.clipped / tokens,
            "mismatch_tokens": self.fresh_tokens,
            "mismatch_abs": self.mismatch,
            "mismatch_max": self.gap_abs_max,
            "mismatch_kl": self.gap_kl_sum / max(1, self.fresh_tokens),
            "kl": self.kl_sum / tokens,
            "entropy": self.entropy_sum / tokens,
            "ratio_max": self.ratio_max,
        }


def rate_at(config: LearnConfig, *, step: int, progress: float) -> float:
    """Return a step's learning rate; `progress` is the fraction of the run that is done."""
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return config.learning_rate * rise * (1 - config.decay * min(1.0, progress))


def rewards_of(groups: Sequence[Group], *, shuffle: random.Random | None) -> list[list[float]]:
    """Return the rewards of each group's valid members, shuffled over all groups by `shuffle`."""
    rewards = [[trajectory.reward for trajectory in group.valid] for group in groups]
    if shuffle is None:
        return rewards
    deck = [reward for own in rewards for reward in own]
    shuffle.shuffle(deck)
    dealt = iter(deck)
    return [[next(dealt) for _ in own] for own in rewards]


def build_samples(
    groups: Sequence[Group],
    rewards: Sequence[Sequence[float]],
    *,
    scale: Scale,
    estimator: Estimator = "grpo",
    epsilon: float = EPSILON,
    keep_flat: bool = False,
) -> tuple[list[Sample], int]:
    """Return the samples that have an advantage, and the number of mixed groups.

    With `keep_flat`, return the samples of all groups.
    """
    if estimator == "grpo":
        taught = advantages(rewards, scale=scale, epsilon=epsilon)
    else:
        taught = whiten(rewards, [[count_sampled(t) for t in g.valid] for g in groups])
    samples: list[Sample] = []
    mixed = 0
    for group, values, own in zip(groups, taught, rewards, strict=True):
        mixed += not is_constant(own)
        if not (keep_flat or any(values)):
            continue
        samples += [
            sample
            for trajectory, value in zip(group.valid, values, strict=True)
            for sample in to_samples(trajectory, advantage=value)
        ]
    return samples, mixed


def count_sampled(trajectory: Trajectory) -> int:
    """Return the number of ids of a trajectory that the policy sampled."""
    return sum(len(turn.completion.ids) for turn in trajectory.turns)


def deal(samples: Sequence[Sample], updates: int, *, seed: str) -> list[list[Sample]]:
    """Deal samples out among updates, as evenly as possible; none of them is left empty.

    One update has the samples in their order; more have them in a shuffled one, because samples
    that lie together are of one task.
    """
    if updates == 1:
        return [list(samples)] if samples else []
    order = list(samples)
    random.Random(seed).shuffle(order)
    hands = [order[first::updates] for first in range(updates)]
    return [hand for hand in hands if hand]


async def take_step(
    groups: Sequence[Group],
    learner: Learner,
    config: LearnConfig,
    *,
    step: int,
    version: int,
    progress: float,
    store: Store,
    ladder: MemoryLadder,
) -> StepReport:
    """Train on the groups of one step; `version` is the version that is trained.

    If a value is not finite, the samples of that update are stored in `skipped-*.jsonl` and it does
    not change the adapter.

    Raises:
        RunError: if the ladder is at its lowest level.
    """
    shuffle = random.Random(f"shuffle {step}") if config.shuffle_rewards else None
    rewards = rewards_of(groups, shuffle=shuffle)
    samples, mixed = build_samples(
        groups,
        rewards,
        scale=config.scale,
        estimator=config.estimator,
        epsilon=config.epsilon,
        keep_flat=config.keep_flat,
    )
    rate = rate_at(config, step=step, progress=progress)
    updates: list[Trained] = []
    for hand in deal(samples, config.updates, seed=f"deal {step}"):
        update = await train_with_fallback(
            hand,
            learner,
            config.loss,
            version=version,
            ladder=ladder,
            learning_rate=rate,
            max_norm=config.max_norm,
        )
        if not update.finite:
            store.append(f"skipped-{step:06d}.jsonl", hand)
            log.error("step_not_finite", step=step, samples=len(hand), norm=update.norm)
        updates.append(update)
    return sum_up(updates, groups=len(groups), mixed=mixed, samples=len(samples), rate=rate)


def sum_up(
    updates: Sequence[Trained], *, groups: int, mixed: int, samples: int, rate: float
) -> StepReport:
    """Return the result of a step from those of its updates."""
    done = [update for update in updates if update.kept]
    reports = [report for update in done for report in update.fresh + update.older]
    fresh = updates[0].fresh if updates else []
    kept = sum(update.kept for update in done)
    return StepReport(
        moved=any(update.moved for update in done),
        finite=all(update.finite for update in done),
        groups=groups,
        mixed=mixed,
        samples=kept,
        too_long=samples - kept,
        norm=fmean(update.norm for update in done) if done else 0.0,
        learning_rate=rate,
        updates=len(done),
        loss=sum(report.loss for report in reports) / max(1, len(done)),
        tokens=sum(report.tokens for report in reports),
        fresh_tokens=sum(report.tokens for report in fresh),
        clipped=sum(report.clipped for report in reports),
        gap_abs_sum=sum(report.gap_abs_sum for report in fresh),
        gap_abs_max=max((report.gap_abs_max for report in fresh), default=0.0),
        gap_kl_sum=sum(report.gap_kl_sum for report in fresh),
        kl_sum=sum(report.kl_sum for report in reports),
        entropy_sum=sum(report.entropy_sum for report in reports),
        ratio_max=max((report.ratio_max for report in reports), default=0.0),
    )

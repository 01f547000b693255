"""One optimiser step: from groups to advantages, samples, micro-batches and one adapter update.

The engine's logprobs serve as the old logprobs, so a sample costs one forward and one backward
pass. Samples without an advantage are dropped before any computation: with GRPO those of groups
whose rewards are all equal, with REINFORCE++ all samples of a step whose rewards are all equal.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import structlog

from trustee.algorithm.advantage import Estimator, Scale, advantages, is_constant, whiten
from trustee.algorithm.batch import to_sample
from trustee.algorithm.config import LearnConfig
from trustee.algorithm.fallback import train_with_fallback
from trustee.algorithm.learner import Learner
from trustee.algorithm.memory_ladder import MemoryLadder
from trustee.runs.store import Store
from trustee.types import Group, Record, Sample, Trajectory

log = structlog.get_logger()


class StepReport(Record, frozen=True):
    """The result of a step, as sums and counts; `metrics` turns them into means."""

    moved: bool
    """Whether the adapter changed; False without a usable sample, or if a value was not finite."""
    finite: bool
    groups: int
    mixed: int
    """Number of groups whose rewards differ."""
    samples: int
    too_long: int
    """Number of samples skipped because they exceed the reduced context."""
    norm: float
    learning_rate: float
    loss: float = 0.0
    tokens: int = 0
    clipped: int = 0
    fresh_tokens: int = 0
    """Number of tokens that the trained version itself sampled. Only on these must engine and
    trainer agree, because the policy has changed since it sampled older ones."""
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
) -> tuple[list[Sample], int]:
    """Return the samples that have an advantage, and the number of mixed groups."""
    if estimator == "grpo":
        taught = advantages(rewards, scale=scale)
    else:
        taught = whiten(rewards, [[count_sampled(t) for t in g.valid] for g in groups])
    samples: list[Sample] = []
    mixed = 0
    for group, values, own in zip(groups, taught, rewards, strict=True):
        mixed += not is_constant(own)
        if not any(values):
            continue
        samples += [
            to_sample(trajectory, advantage=value)
            for trajectory, value in zip(group.valid, values, strict=True)
            if trajectory.turns
        ]
    return samples, mixed


def count_sampled(trajectory: Trajectory) -> int:
    """Return the number of ids of a trajectory that the policy sampled."""
    return sum(len(turn.completion.ids) for turn in trajectory.turns)


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

    If a value is not finite, the samples are stored in `skipped-*.jsonl` and the adapter does not
    change. A step that does not fit into memory starts again one level down the ladder.

    Raises:
        RunError: if the ladder is at its lowest level.
    """
    shuffle = random.Random(f"shuffle {step}") if config.shuffle_rewards else None
    rewards = rewards_of(groups, shuffle=shuffle)
    samples, mixed = build_samples(groups, rewards, scale=config.scale, estimator=config.estimator)
    rate = rate_at(config, step=step, progress=progress)
    trained = await train_with_fallback(
        samples,
        learner,
        config.loss,
        version=version,
        ladder=ladder,
        learning_rate=rate,
        max_norm=config.max_norm,
    )
    fresh, reports = trained.fresh, trained.fresh + trained.older
    if not trained.finite:
        store.append(f"skipped-{step:06d}.jsonl", samples)
        log.error("step_not_finite", step=step, samples=len(samples), norm=trained.norm)
    return StepReport(
        moved=trained.moved,
        finite=trained.finite,
        groups=len(groups),
        mixed=mixed,
        samples=trained.kept,
        too_long=len(samples) - trained.kept,
        norm=trained.norm,
        learning_rate=rate,
        loss=sum(report.loss for report in reports),
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

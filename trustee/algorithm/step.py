"""One step: from groups to advantages, samples, micro-batches and the updates of the adapter.

The engine's logprobs serve as the old logprobs, so a sample costs one forward and one backward
pass, and all updates of a step compare with the policy that played it. Unless `learn.keep_flat`
says otherwise, samples without an advantage are dropped before any computation: with GRPO those of
groups whose rewards are all equal, with REINFORCE++ all samples of a step whose rewards are all
equal.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import structlog

from trustee.algorithm.advantage import (
    EPSILON,
    Estimator,
    Scale,
    advantages,
    is_constant,
    whiten,
)
from trustee.algorithm.batch import pack, to_sample
from trustee.algorithm.config import LearnConfig
from trustee.algorithm.learner import (
    FinishRequest,
    Learner,
    MicroReport,
    MicroRequest,
)
from trustee.algorithm.loss import LossConfig, normaliser_of
from trustee.algorithm.memory_ladder import MemoryLadder
from trustee.errors import OutOfMemory
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
            to_sample(trajectory, advantage=value)
            for trajectory, value in zip(group.valid, values, strict=True)
            if trajectory.turns
        ]
    return samples, mixed


def count_sampled(trajectory: Trajectory) -> int:
    """Return the number of ids of a trajectory that the policy sampled."""
    return sum(len(turn.completion.ids) for turn in trajectory.turns)


def is_finite(report: MicroReport) -> bool:
    """Return whether the sums of a micro-batch are finite."""
    return all(map(math.isfinite, (report.loss, report.gap_abs_sum, report.entropy_sum)))


async def accumulate(
    samples: Sequence[Sample],
    learner: Learner,
    loss: LossConfig,
    *,
    version: int,
    ladder: MemoryLadder,
    learn: bool = True,
) -> tuple[list[MicroReport], list[MicroReport]] | None:
    """Accumulate the gradients of all samples; None if they did not fit and the ladder went down.

    Return the reports of the samples of `version`, and those of older samples. With `learn` off,
    samples are only measured.
    """
    normaliser = normaliser_of([sum(sample.mask) for sample in samples], loss)
    reports: tuple[list[MicroReport], list[MicroReport]] = ([], [])
    for own, into in zip((True, False), reports, strict=True):
        chosen = [sample for sample in samples if (sample.version == version) is own]
        for micro in pack(chosen, token_budget=ladder.level.micro_tokens):
            request = MicroRequest(samples=micro, loss=loss, normaliser=normaliser, learn=learn)
            try:
                into.append(await learner.accumulate(request))
            except OutOfMemory as error:
                longest = max(len(sample.ids) for sample in micro)
                await fall_back(error, learner, ladder, longest=longest)
                return None
    return reports


async def accumulate_with_fallback(
    samples: Sequence[Sample],
    learner: Learner,
    loss: LossConfig,
    *,
    version: int,
    ladder: MemoryLadder,
    learn: bool = True,
) -> tuple[int, tuple[list[MicroReport], list[MicroReport]]]:
    """Accumulate the samples that are not too long, on the first memory level that fits.

    Return their number and the reports of `accumulate`.

    Raises:
        RunError: if the ladder is at its lowest level.
    """
    while True:
        kept = [sample for sample in samples if len(sample.ids) <= ladder.level.context]
        gathered = await accumulate(
            kept, learner, loss, version=version, ladder=ladder, learn=learn
        )
        if gathered is not None:
            return len(kept), gathered


async def fall_back(
    error: OutOfMemory, learner: Learner, ladder: MemoryLadder, *, longest: int
) -> None:
    """Go one level down the memory ladder and adjust the learner to it."""
    before = ladder.level.activation_checkpointing
    change = ladder.descend(error, longest=longest)
    log.warning("out_of_memory", change=change, longest=longest, error=str(error))
    if ladder.level.activation_checkpointing != before:
        await learner.adjust(ladder.level.activation_checkpointing)


async def dry_run_largest(learner: Learner, loss: LossConfig, *, ladder: MemoryLadder) -> int:
    """Run the largest micro-batch that a step may hold, and drop its gradients.

    So a GPU that is too small fails now and not after hours. Return the length of the samples in
    ids.

    Raises:
        RunError: if the ladder is at its lowest level.
    """
    while True:
        length = ladder.level.context
        rows = max(1, ladder.level.micro_tokens // length)
        samples = tuple(
            Sample(
                # A different first id per sample, so that no common prefix is computed only once.
                ids=(row, *(0,) * (length - 1)),
                mask=(False, *(True,) * (length - 1)),
                logprobs=(0.0,) * length,
                advantage=1.0,
                version=0,
                trajectory_id="probe",
            )
            for row in range(rows)
        )
        request = MicroRequest(samples=samples, loss=loss, normaliser=float(rows * length))
        try:
            await learner.accumulate(request)
        except OutOfMemory as error:
            await fall_back(error, learner, ladder, longest=length)
            continue
        await learner.finish(FinishRequest(learning_rate=0.0, max_norm=1.0, move=False))
        return length


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


class Update(NamedTuple):
    """The result of one update."""

    kept: int
    """Number of samples that were short enough."""
    fresh: list[MicroReport]
    """Reports on what the trained version sampled itself."""
    older: list[MicroReport]
    norm: float
    moved: bool
    finite: bool

    @property
    def reports(self) -> list[MicroReport]:
        """All reports."""
        return self.fresh + self.older


async def update_adapter(
    samples: Sequence[Sample],
    learner: Learner,
    config: LearnConfig,
    *,
    rate: float,
    version: int,
    ladder: MemoryLadder,
) -> Update:
    """Update the adapter once; an update that does not fit starts again one level down the ladder.

    Raises:
        RunError: if the ladder is at its lowest level.
    """
    kept, (fresh, older) = await accumulate_with_fallback(
        samples, learner, config.loss, version=version, ladder=ladder
    )
    finite = all(map(is_finite, fresh + older))
    norm, moved = 0.0, False
    if kept:
        finished = await learner.finish(
            FinishRequest(learning_rate=rate, max_norm=config.max_norm, move=finite)
        )
        norm, moved = finished.norm, finished.moved
        finite = finite and math.isfinite(norm)
    return Update(kept=kept, fresh=fresh, older=older, norm=norm, moved=moved, finite=finite)


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
    updates: list[Update] = []
    for hand in deal(samples, config.updates, seed=f"deal {step}"):
        update = await update_adapter(
            hand, learner, config, rate=rate, version=version, ladder=ladder
        )
        if not update.finite:
            store.append(f"skipped-{step:06d}.jsonl", hand)
            log.error("step_not_finite", step=step, samples=len(hand), norm=update.norm)
        updates.append(update)
    return sum_up(updates, groups=len(groups), mixed=mixed, samples=len(samples), rate=rate)


def sum_up(
    updates: Sequence[Update], *, groups: int, mixed: int, samples: int, rate: float
) -> StepReport:
    """Return the result of a step from those of its updates."""
    done = [update for update in updates if update.kept]
    reports = [report for update in done for report in update.reports]
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

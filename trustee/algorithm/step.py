"""One optimiser step: groups to advantages, samples, micro-batches, and one move of the adapter.

The engine's logprobs are the old logprobs, so a sample costs one forward and one backward pass.
What teaches nothing is dropped before anything is computed: with GRPO groups whose rewards are all
equal, with REINFORCE++ a step whose rewards are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import structlog

from trustee.algorithm.advantage import Estimator, Scale, advantages, is_constant, whiten
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
    """What a step did, as sums and counts; `metrics` divides once."""

    moved: bool
    """False where nothing differed, or something was not finite."""
    finite: bool
    groups: int
    mixed: int
    """Groups whose rewards differ."""
    samples: int
    too_long: int
    """Samples left out, for the ladder has come down below their length."""
    norm: float
    learning_rate: float
    loss: float = 0.0
    tokens: int = 0
    clipped: int = 0
    fresh_tokens: int = 0
    """Tokens that the trained version itself sampled: on these alone engine and trainer must agree,
    on older ones the policy has moved."""
    gap_abs_sum: float = 0.0
    gap_abs_max: float = 0.0
    gap_kl_sum: float = 0.0
    kl_sum: float = 0.0
    entropy_sum: float = 0.0
    ratio_max: float = 0.0

    @property
    def mismatch(self) -> float | None:
        """Mean |engine - trainer| logprob of fresh tokens; None where no token was fresh."""
        return self.gap_abs_sum / self.fresh_tokens if self.fresh_tokens else None

    def metrics(self) -> dict[str, float | bool | None]:
        """Give the figures, per trained token where they are sums."""
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
    """Give a step's learning rate; `progress` is the share of the run that is over."""
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return config.learning_rate * rise * (1 - config.decay * min(1.0, progress))


def rewards_of(groups: Sequence[Group], *, shuffle: random.Random | None) -> list[list[float]]:
    """Give the rewards of each group's valid members, dealt out anew where `shuffle` is given."""
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
    """Cut the samples of groups that teach something; give them and the number of mixed groups."""
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
    """Count the ids of a trajectory that the policy sampled."""
    return sum(len(turn.completion.ids) for turn in trajectory.turns)


def is_finite(report: MicroReport) -> bool:
    """Say whether the sums of a micro-batch can be used."""
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
    """Accumulate the gradients of all samples; None where they did not fit and less was allowed.

    Gives the reports of what `version` itself sampled, and those of the rest. With `learn` off they
    are only measured.
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
    """Accumulate the samples that are not too long, on the level that fits; give their number.

    Raises:
        RunError: if nothing is left to give up.
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
    """Go one level down the ladder."""
    before = ladder.level.activation_checkpointing
    change = ladder.descend(error, longest=longest)
    log.warning("out_of_memory", change=change, longest=longest, error=str(error))
    if ladder.level.activation_checkpointing != before:
        await learner.adjust(ladder.level.activation_checkpointing)


async def dry_run_largest(learner: Learner, loss: LossConfig, *, ladder: MemoryLadder) -> int:
    """Train on the largest micro-batch that a step may hold, and drop what it learnt.

    A card that is too small says so now and not after hours. Gives the length of its samples.

    Raises:
        RunError: if nothing is left to give up.
    """
    while True:
        length = ladder.level.context
        rows = max(1, ladder.level.micro_tokens // length)
        samples = tuple(
            Sample(
                # Another first id for each: nothing that they have in common is computed once.
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
    """Train on the groups of one step; `version` is the one that is trained.

    A step in which anything is not finite is stored as `skipped-*.jsonl` and moves nothing. One
    that does not fit into memory is begun anew, one level down the ladder.

    Raises:
        RunError: if nothing is left to give up.
    """
    shuffle = random.Random(f"shuffle {step}") if config.shuffle_rewards else None
    rewards = rewards_of(groups, shuffle=shuffle)
    samples, mixed = build_samples(groups, rewards, scale=config.scale, estimator=config.estimator)
    rate = rate_at(config, step=step, progress=progress)
    kept, (fresh, older) = await accumulate_with_fallback(
        samples, learner, config.loss, version=version, ladder=ladder
    )
    reports = fresh + older
    finite = all(map(is_finite, reports))
    norm, moved = 0.0, False
    if kept:
        finished = await learner.finish(
            FinishRequest(learning_rate=rate, max_norm=config.max_norm, move=finite)
        )
        norm, moved = finished.norm, finished.moved
        finite = finite and math.isfinite(norm)
    if not finite:
        store.append(f"skipped-{step:06d}.jsonl", samples)
        log.error("step_not_finite", step=step, samples=len(samples), norm=norm)
    return StepReport(
        moved=moved,
        finite=finite,
        groups=len(groups),
        mixed=mixed,
        samples=kept,
        too_long=len(samples) - kept,
        norm=norm,
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

"""What is done when memory runs out: the same again, one level down the memory ladder.

A call that did not fit has given back what it held and changed nothing but the gathered gradients.
So a step starts again with its first micro-batch, and any other call is made once more.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from trustee.algorithm.batch import pack
from trustee.algorithm.learner import (
    FinishReport,
    FinishRequest,
    Learner,
    MicroReport,
    MicroRequest,
)
from trustee.algorithm.loss import LossConfig, normaliser_of
from trustee.algorithm.memory_ladder import MemoryLadder
from trustee.errors import OutOfMemory
from trustee.types import Record, Sample

log = structlog.get_logger()

T = TypeVar("T")


class Trained(Record, frozen=True):
    """What training on the samples of one step gave."""

    kept: int
    """Samples that were not too long for the ladder's level."""
    fresh: list[MicroReport]
    """Reports of the samples of the trained version."""
    older: list[MicroReport]
    norm: float
    moved: bool
    finite: bool
    """Whether all sums and the gradient's norm are finite."""


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


async def train_with_fallback(
    samples: Sequence[Sample],
    learner: Learner,
    loss: LossConfig,
    *,
    version: int,
    ladder: MemoryLadder,
    learning_rate: float,
    max_norm: float,
) -> Trained:
    """Accumulate the samples of a step and move the adapter, on the first level that fits both.

    Raises:
        RunError: if the ladder is at its lowest level.
    """
    while True:
        kept, (fresh, older) = await accumulate_with_fallback(
            samples, learner, loss, version=version, ladder=ladder
        )
        finite = all(map(is_finite, fresh + older))
        finished = FinishReport(norm=0.0, moved=False)
        if kept:
            request = FinishRequest(learning_rate=learning_rate, max_norm=max_norm, move=finite)
            try:
                finished = await learner.finish(request)
            except OutOfMemory as error:
                longest = max(len(sample.ids) for sample in samples)
                await fall_back(error, learner, ladder, longest=longest)
                continue
        return Trained(
            kept=kept,
            fresh=fresh,
            older=older,
            norm=finished.norm,
            moved=finished.moved,
            finite=finite and math.isfinite(finished.norm),
        )


async def call_with_fallback(
    call: Callable[[], Awaitable[T]], learner: Learner, *, ladder: MemoryLadder
) -> T:
    """Make a call of the learner, such as a publish, until it fits.

    Raises:
        RunError: if the ladder is at its lowest level.
    """
    while True:
        try:
            return await call()
        except OutOfMemory as error:
            await fall_back(error, learner, ladder, longest=ladder.level.context)


def is_finite(report: MicroReport) -> bool:
    """Return whether the sums of a micro-batch are finite."""
    return all(map(math.isfinite, (report.loss, report.gap_abs_sum, report.entropy_sum)))


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
            await learner.finish(FinishRequest(learning_rate=0.0, max_norm=1.0, move=False))
        except OutOfMemory as error:
            await fall_back(error, learner, ladder, longest=length)
            continue
        return length

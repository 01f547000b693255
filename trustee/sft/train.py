"""Imitation: the adapter is trained on demonstrations, by the negative logprob of their tokens.

Samples, micro-batches, learner, ladder and checkpoints are those of reinforcement learning; only
the loss differs. The demonstrations of a step follow from the seed and the step's number, so an
interrupted run continues with the same steps.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from trustee.algorithm.config import LearnConfig
from trustee.algorithm.fallback import (
    accumulate_with_fallback,
    call_with_fallback,
    train_with_fallback,
)
from trustee.algorithm.loss import LossConfig
from trustee.algorithm.memory_ladder import LadderState, MemoryLadder
from trustee.algorithm.step import rate_at
from trustee.engine.watchdog import Watchdog
from trustee.events import Emit, Note, SftStepTrained
from trustee.runs.checkpoint import CheckpointState, write_checkpoint
from trustee.runs.store import Store
from trustee.sft.samples import SftDataset
from trustee.types import Adapter, Record, Sample, Share

NLL = LossConfig(kind="nll")


class SftConfig(Record, frozen=True):
    """How demonstrations are imitated; all other settings are those of `learn`."""

    epochs: Annotated[int, Meta(ge=1)] = 2
    """Number of passes over the demonstrations."""
    demonstrations: Annotated[int, Meta(ge=1)] = 16
    """Number of demonstrations per optimiser step."""
    learning_rate: Annotated[float, Meta(gt=0)] = 1e-4
    """Peak learning rate."""
    warmup: Annotated[int, Meta(ge=0)] = 10
    """Number of steps over which the learning rate rises to its peak."""
    decay: Share = 0.9
    """Fraction of the peak rate by which the rate falls, linearly, until the end."""
    held_out: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Share of the tasks whose demonstrations are only measured and never trained on."""
    measure_every: Annotated[int, Meta(ge=1)] = 20
    """Number of steps between two measurements of the held-out loss."""
    checkpoint_every: Annotated[int, Meta(ge=1)] = 20
    """Number of steps between two checkpoints."""


class SftState(CheckpointState, frozen=True):
    """The state of an imitation run between two steps."""

    before: float | None
    """Held-out loss before the first step."""
    last: float | None
    """Held-out loss when it was last measured."""
    ladder: LadderState
    """State of the memory ladder."""


@dataclass(slots=True)
class SftJob:
    """One imitation run: its parts, settings and counters."""

    engine: Watchdog
    config: SftConfig
    learning: LearnConfig
    training: Sequence[Sample]
    held_out: Sequence[Sample]
    ladder: MemoryLadder
    store: Store
    seed: int
    keep_checkpoints: int
    emit: Emit
    step: int = 0
    before: float | None = None
    """Held-out loss before the first step."""
    last: float | None = None
    """Held-out loss when it was last measured."""

    @property
    def steps(self) -> int:
        """Number of steps in the whole run."""
        return self.config.epochs * math.ceil(len(self.training) / self.config.demonstrations)

    def samples_at(self, step: int) -> list[Sample]:
        """Return the samples of a step; every epoch uses all samples in its own random order."""
        size = self.config.demonstrations
        epoch, place = divmod(step, math.ceil(len(self.training) / size))
        order = list(range(len(self.training)))
        random.Random(f"{self.seed} epoch {epoch}").shuffle(order)
        return [self.training[index] for index in order[place * size : (place + 1) * size]]

    def rates(self) -> LearnConfig:
        """Return the learning settings with the rate, warm-up and decay of imitation."""
        config = self.config
        return msgspec.structs.replace(
            self.learning,
            learning_rate=config.learning_rate,
            warmup=config.warmup,
            decay=config.decay,
        )


def hold_out(dataset: SftDataset, *, share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split samples by task into training and held-out samples; neither list is empty.

    If the share is 0 or there is only one task, all samples are for training.
    """
    names = sorted(set(dataset.task_ids))
    count = min(len(names) - 1, max(1, round(share * len(names)))) if share else 0
    kept = set(random.Random(f"{seed} held-out").sample(names, count))
    pairs = list(zip(dataset.samples, dataset.task_ids, strict=True))
    return (
        [sample for sample, name in pairs if name not in kept],
        [sample for sample, name in pairs if name in kept],
    )


async def train_sft(job: SftJob) -> Adapter:
    """Train to the end with regular checkpoints, then publish and return the adapter."""
    if job.step == 0:
        job.before = job.last = await measure_loss(job)
        emit_loss(job, "before SFT", job.before)
        await store_sft(job)
    while job.step < job.steps:
        with job.engine.step(job.step + 1):
            await finish_sft_step(job)
        if job.step % job.config.checkpoint_every == 0 or job.step == job.steps:
            await store_sft(job)
    emit_loss(job, "after SFT", job.last)
    adapter = job.store.adapter(job.steps)
    await call_with_fallback(lambda: job.engine.publish(adapter), job.engine, ladder=job.ladder)
    return adapter


async def finish_sft_step(job: SftJob) -> None:
    """Train on a step's demonstrations, measure the held-out loss when due, and record."""
    samples = job.samples_at(job.step)
    rate = rate_at(job.rates(), step=job.step, progress=job.step / job.steps)
    trained = await train_with_fallback(
        samples,
        job.engine,
        NLL,
        version=0,
        ladder=job.ladder,
        learning_rate=rate,
        max_norm=job.learning.max_norm,
    )
    kept, reports = trained.kept, trained.fresh
    if kept and not trained.moved:
        job.store.append(f"skipped-{job.step:06d}.jsonl", samples)
    job.step += 1
    measured = None
    if job.step % job.config.measure_every == 0 or job.step == job.steps:
        measured = job.last = await measure_loss(job)
    tokens = sum(report.tokens for report in reports)
    metrics: dict[str, Any] = {
        "step": job.step,
        "epoch": (job.step - 1) // (job.steps // job.config.epochs),
        "moved": trained.moved,
        "samples": kept,
        "too_long": len(samples) - kept,
        "trained_tokens": tokens,
        "loss": sum(report.loss for report in reports),
        "entropy": sum(report.entropy_sum for report in reports) / max(1, tokens),
        "grad_norm": trained.norm,
        "learning_rate": rate,
        "held_out_loss": measured,
        "memory_fallbacks": len(job.ladder.changes),
    }
    job.store.append("metrics.jsonl", [metrics])
    job.emit(
        SftStepTrained(
            step=job.step,
            of=job.steps,
            progress=job.step / job.steps,
            loss=metrics["loss"],
            held_out_loss=measured,
            figures=metrics,
        )
    )


async def measure_loss(job: SftJob) -> float | None:
    """Return the mean negative logprob of the held-out tokens; None if none can be measured."""
    kept, (reports, _) = await accumulate_with_fallback(
        job.held_out, job.engine, NLL, version=0, ladder=job.ladder, learn=False
    )
    return sum(report.loss for report in reports) if kept else None


def emit_loss(job: SftJob, when: str, loss: float | None) -> None:
    """Emit a note with the held-out loss, if it was measured."""
    if loss is not None:
        text = f"held-out loss {when}: {loss:.4f} nats a token"
        job.emit(Note(text=text))


async def store_sft(job: SftJob) -> None:
    """Store a checkpoint of the run's current state."""
    state = SftState(step=job.step, before=job.before, last=job.last, ladder=job.ladder.state())
    await write_checkpoint(
        job.store.folder / "checkpoints", state, save=job.engine.save, keep=job.keep_checkpoints
    )


async def continue_sft(job: SftJob, path: Path, state: SftState) -> None:
    """Continue from a checkpoint."""
    job.ladder.restore(state.ladder)
    await call_with_fallback(lambda: job.engine.load(path), job.engine, ladder=job.ladder)
    await job.engine.adjust(job.ladder.level.activation_checkpointing)
    job.step = state.step
    job.before, job.last = state.before, state.last
    job.emit(Note(text=f"continuing after step {state.step} from {path}"))

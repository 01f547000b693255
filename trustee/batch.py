"""From trajectories to tensors: cut samples, pack them into micro-batches, collate each one.

The one idea: masks are by position. A sample is the ids in the order in which the engine saw and
sampled them, and its mask is True exactly where it sampled; no id's value ever decides anything.
Importing this module loads no torch; only `collate` needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustee.types import Sample, Trajectory

if TYPE_CHECKING:
    import torch


@dataclass(slots=True, frozen=True)
class Batch:
    """A micro-batch, padded on the right.

    A causal model needs no attention mask for it: no real position can see the padding after it,
    and what padded positions compute is masked out of the loss.
    """

    ids_BL: torch.Tensor
    """int64"""
    mask_BL: torch.Tensor
    """bool; True where the id was sampled. Column 0 is never True: nothing precedes it."""
    logprobs_BL: torch.Tensor
    """float32; the engine's logprob of the id in the same column where masked, else 0."""
    advantages_B: torch.Tensor
    """float32"""
    lengths_B: torch.Tensor
    """int64; ids before the padding."""


def cut(trajectory: Trajectory, *, advantage: float) -> Sample:
    """Cut the one sample that holds every sampled id of a trajectory exactly once.

    Turns extend each other, so the sample is each turn's rendered ids and completion in order.
    """
    ids: list[int] = []
    mask: list[bool] = []
    logprobs: list[float] = []
    for turn in trajectory.turns:
        rendered, completion = turn.rendered_ids, turn.completion
        ids += (*rendered, *completion.ids)
        mask += (False,) * len(rendered) + (True,) * len(completion.ids)
        logprobs += (0.0,) * len(rendered) + completion.logprobs
    assert len(logprobs) == len(ids), f"{trajectory.id}: a completion lacks logprobs"
    assert not any(mask[:1]), f"{trajectory.id}: nothing precedes the first sampled id"
    return Sample(
        ids=tuple(ids),
        mask=tuple(mask),
        logprobs=tuple(logprobs),
        advantage=advantage,
        version=trajectory.version,
        trajectory_id=trajectory.id,
    )


def pack(samples: Sequence[Sample], *, token_budget: int) -> list[tuple[Sample, ...]]:
    """Split samples into micro-batches whose padded area is at most `token_budget` ids.

    The longest come first, so that a step which does not fit into memory fails at once. A sample
    longer than the budget gets a micro-batch of its own.
    """
    ordered = sorted(samples, key=lambda sample: len(sample.ids), reverse=True)
    packed = []
    start = 0
    while start < len(ordered):
        longest = max(1, len(ordered[start].ids))
        rows = max(1, token_budget // longest)
        packed.append(tuple(ordered[start : start + rows]))
        start += rows
    return packed


def share_out(samples: Sequence[Sample], shares: int) -> list[Sequence[Sample]]:
    """Split samples, longest first, into at most so many shares of about equal padded areas."""
    ordered = sorted(samples, key=lambda sample: len(sample.ids), reverse=True)
    parts: list[Sequence[Sample]] = []
    while ordered:
        left = shares - len(parts)
        wanted = sum(len(sample.ids) for sample in ordered) / left
        rows = max(1, round(wanted / max(1, len(ordered[0].ids)))) if left > 1 else len(ordered)
        parts.append(ordered[:rows])
        ordered = ordered[rows:]
    return parts


def collate(samples: Sequence[Sample], *, pad_id: int = 0) -> Batch:
    """Stack samples as rows, padded on the right to the longest.

    `pad_id` may be any id of the vocabulary: only positions tell padding apart.
    """
    import torch

    lengths = [len(sample.ids) for sample in samples]
    shape = (len(samples), max(lengths, default=0))
    ids_BL = torch.full(shape, pad_id, dtype=torch.int64)
    mask_BL = torch.zeros(shape, dtype=torch.bool)
    logprobs_BL = torch.zeros(shape, dtype=torch.float32)
    for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        ids_BL[row, :length] = torch.tensor(sample.ids, dtype=torch.int64)
        mask_BL[row, :length] = torch.tensor(sample.mask, dtype=torch.bool)
        logprobs_BL[row, :length] = torch.tensor(sample.logprobs, dtype=torch.float32)
    return Batch(
        ids_BL=ids_BL,
        mask_BL=mask_BL,
        logprobs_BL=logprobs_BL,
        advantages_B=torch.tensor([s.advantage for s in samples], dtype=torch.float32),
        lengths_B=torch.tensor(lengths, dtype=torch.int64),
    )

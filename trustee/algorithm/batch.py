"""From trajectories to tensors: cut samples, pack them into micro-batches, collate each one.

Masks are by position. A sample holds the token ids in the order in which the engine saw and sampled
them, and its mask is True exactly at sampled positions; the value of an id only decides which
samples share a prefix. A micro-batch is the prefix tree of its samples: one row of ids without
padding, each common prefix stored once, and per sample the offsets of its ids in that row.

Shape letters: `T` ids in the tree, `B` samples, `L` ids of the longest sample. Importing this
module does not import torch; only `collate` needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec.structs import replace

from trustee.algorithm.prefix_tree import Node, count_overlaps, cut_blocks, grow_tree
from trustee.types import Sample, Trajectory

if TYPE_CHECKING:
    import torch


@dataclass(slots=True, frozen=True)
class Attention:
    """One block of the tree: ids that attend in one call, to the blocks above and to themselves."""

    size: int
    """Number of ids in the block."""
    above: tuple[int, ...]
    """Indices of the blocks on the path to this one, from the root down."""
    hidden_RR: torch.Tensor | None
    """bool; True where the id of the row must not see the id of the column. None: plain causal."""


@dataclass(slots=True, frozen=True)
class Batch:
    """A micro-batch: the ids to compute, and the offsets of each sample's ids among them."""

    attention: tuple[Attention, ...]
    ids_T: torch.Tensor
    """int64"""
    positions_T: torch.Tensor
    """int64; position of the id in its samples."""
    before_T: torch.Tensor
    """int64; offset of the previous token, whose hidden state predicts this one; 0 at position
    0."""
    trained_T: torch.Tensor
    """bool; True where the id was sampled. Never at position 0, which has no predecessor."""
    offsets_BL: torch.Tensor
    """int64; offset of each id of a sample in `ids_T`, 0 after its last."""
    mask_BL: torch.Tensor
    """bool; True where the id was sampled."""
    logprobs_BL: torch.Tensor
    """float32; the engine's logprob of the sampled id, 0 where the mask is False."""
    advantages_B: torch.Tensor
    """float32"""

    def spread(self, values_N: torch.Tensor) -> torch.Tensor:
        """Return values [N] of the trained ids as [B, L] by sample; 0 where not trained."""
        trained_T = self.trained_T.to(values_N.device)
        values_T = values_N.new_zeros(trained_T.shape).masked_scatter(trained_T, values_N)
        values_BL = values_T[self.offsets_BL.to(values_N.device)]
        return values_BL.where(self.mask_BL.to(values_N.device), 0.0)


def to_samples(trajectory: Trajectory, *, advantage: float) -> tuple[Sample, ...]:
    """Return the samples that hold every sampled id of a trajectory exactly once, one a branch."""
    starts = [index for index, turn in enumerate(trajectory.turns) if turn.anew or not index]
    return tuple(
        to_sample(replace(trajectory, turns=trajectory.turns[start:end]), advantage=advantage)
        for start, end in pairwise([*starts, len(trajectory.turns)])
    )


def to_sample(trajectory: Trajectory, *, advantage: float) -> Sample:
    """Return the one sample that holds every sampled id of a trajectory exactly once.

    Each turn extends the one before, so the sample is the turns' rendered ids and completions in
    order. A trajectory of several branches has several, `to_samples`.
    """
    ids: list[int] = []
    mask: list[bool] = []
    logprobs: list[float] = []
    assert not any(turn.anew for turn in trajectory.turns[1:]), f"{trajectory.id}: has branches"
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
    """Split samples into micro-batches whose trees have at most `token_budget` ids.

    Samples with a common prefix stay together. The largest tree comes first, so that a step that
    does not fit into memory fails at once. A sample longer than the budget gets a micro-batch of
    its own.
    """
    ordered, overlaps = _put_in_order(samples)
    filled = _fill(ordered, overlaps, token_budget)
    return [micro for _, micro in sorted(filled, key=lambda part: part[0], reverse=True)]


def share_out(samples: Sequence[Sample], shares: int) -> list[tuple[Sample, ...]]:
    """Split samples into at most `shares` parts, keeping the largest tree as small as possible."""
    ordered, overlaps = _put_in_order(samples)
    # Bisect for the smallest token budget with which the samples fill no more than `shares` parts.
    least, most = 1, sum(len(sample.ids) for sample in ordered)
    while least < most:
        middle = (least + most) // 2
        if len(_fill(ordered, overlaps, middle)) > shares:
            least = middle + 1
        else:
            most = middle
    return [share for _, share in _fill(ordered, overlaps, least)]


def _put_in_order(samples: Sequence[Sample]) -> tuple[list[Sample], list[int]]:
    ordered = sorted(samples, key=lambda sample: sample.ids)
    return ordered, count_overlaps(ordered)


def _fill(
    ordered: Sequence[Sample], overlaps: Sequence[int], budget: int
) -> list[tuple[int, tuple[Sample, ...]]]:
    """Fill parts with neighbouring samples; return each with the number of ids of its tree."""
    parts: list[tuple[int, tuple[Sample, ...]]] = []
    held, begun = 0, 0
    for at, (sample, overlap) in enumerate(zip(ordered, overlaps, strict=True)):
        added = len(sample.ids) - overlap
        if at > begun and held + added > budget:
            parts.append((held, tuple(ordered[begun:at])))
            held, begun = 0, at
        held += added if at > begun else len(sample.ids)
    if ordered:
        parts.append((held, tuple(ordered[begun:])))
    return parts


def mask_ids(nodes: Sequence[Node]) -> torch.Tensor | None:
    """Return which ids of a block are hidden from each: later ones, and those of other branches.

    Shape: [R, R] with R ids in the block; None for a single node, where plain causal masking does.
    """
    import torch

    if len(nodes) == 1:
        return None
    start, stop = nodes[0].start, nodes[-1].stop
    hidden_RR = torch.ones(stop - start, stop - start, dtype=torch.bool).triu_(1)
    for node in nodes:
        # Ids after the node's subtree are on other branches; within the subtree all see the node.
        hidden_RR[node.end - start :, node.start - start : node.stop - start] = True
    return hidden_RR


def collate(samples: Sequence[Sample], *, block: int = 0) -> Batch:
    """Build the tensors of the prefix tree of some samples.

    Subtrees of at most `block` ids together attend in one call; with 0 each node is a call.
    """
    import torch

    tree = grow_tree(samples)
    nodes = tree.nodes
    attention = []
    for part in cut_blocks(nodes, most=block):
        own = [nodes[index] for index in part.nodes]
        attention.append(Attention(sum(map(len, own)), part.above, mask_ids(own)))
    runs = [torch.arange(node.start, node.stop) for node in nodes]
    depths = [torch.arange(node.depth, node.depth + len(node)) for node in nodes]
    ids_T = torch.tensor(tree.ids, dtype=torch.int64)
    before_T = torch.arange(len(tree.ids)).sub_(1).clamp_(min=0)
    for node in nodes:
        before_T[node.start] = nodes[node.path[-2]].stop - 1 if len(node.path) > 1 else 0
    lengths = [len(sample.ids) for sample in samples]
    shape = (len(samples), max(lengths, default=0))
    offsets_BL = torch.zeros(shape, dtype=torch.int64)
    mask_BL = torch.zeros(shape, dtype=torch.bool)
    logprobs_BL = torch.zeros(shape, dtype=torch.float32)
    for row, (sample, length, leaf) in enumerate(zip(samples, lengths, tree.leaves, strict=True)):
        torch.cat([runs[node] for node in nodes[leaf].path], out=offsets_BL[row, :length])
        mask_BL[row, :length] = torch.tensor(sample.mask, dtype=torch.bool)
        logprobs_BL[row, :length] = torch.tensor(sample.logprobs, dtype=torch.float32)
    trained_T = torch.zeros(len(tree.ids), dtype=torch.bool)
    trained_T[offsets_BL[mask_BL]] = True
    return Batch(
        attention=tuple(attention),
        ids_T=ids_T,
        positions_T=torch.cat(depths) if depths else ids_T,
        before_T=before_T,
        trained_T=trained_T,
        offsets_BL=offsets_BL,
        mask_BL=mask_BL,
        logprobs_BL=logprobs_BL,
        advantages_B=torch.tensor([s.advantage for s in samples], dtype=torch.float32),
    )

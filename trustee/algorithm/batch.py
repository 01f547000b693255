"""From trajectories to tensors: cut samples, pack them into micro-batches, collate each one.

The one idea: masks are by position. A sample is the ids in the order in which the engine saw and
sampled them, and its mask is True exactly where it sampled; an id's value decides nothing but which
samples begin alike. A micro-batch is the prefix tree of its samples: one row of ids without
padding, each common beginning once, and for each sample the offsets where its ids stand.

Letters: `T` ids of the tree, `B` samples, `L` ids of the longest one. Importing this module loads
no torch; only `collate` needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustee.algorithm.prefix_tree import Node, count_overlaps, cut_blocks, grow_tree
from trustee.types import Sample, Trajectory

if TYPE_CHECKING:
    import torch


@dataclass(slots=True, frozen=True)
class Attention:
    """Ids that attend together: to all of the blocks above, and to what they may see of their own.

    Blocks follow each other; `above` gives their numbers, from the root down.
    """

    size: int
    above: tuple[int, ...]
    hidden_RR: torch.Tensor | None
    """bool; True where an id must not see the one of the column. None hides those after it."""


@dataclass(slots=True, frozen=True)
class Batch:
    """A micro-batch: the ids to compute, and where each sample finds its own."""

    attention: tuple[Attention, ...]
    ids_T: torch.Tensor
    """int64"""
    positions_T: torch.Tensor
    """int64; of the id in its samples."""
    before_T: torch.Tensor
    """int64; offset of the id before, whose hidden state foretells this one; 0 at position 0."""
    trained_T: torch.Tensor
    """bool; True where a sample's id was sampled. Nowhere at position 0: nothing precedes it."""
    offsets_BL: torch.Tensor
    """int64; offset of each id of a sample, 0 after its last."""
    mask_BL: torch.Tensor
    """bool; True where the id was sampled."""
    logprobs_BL: torch.Tensor
    """float32; the engine's logprob of the id in the same column where masked, else 0."""
    advantages_B: torch.Tensor
    """float32"""

    def spread(self, values_N: torch.Tensor) -> torch.Tensor:
        """Give the samples' values [B, L] of those of all trained ids; 0 where not trained."""
        trained_T = self.trained_T.to(values_N.device)
        values_T = values_N.new_zeros(trained_T.shape).masked_scatter(trained_T, values_N)
        values_BL = values_T[self.offsets_BL.to(values_N.device)]
        return values_BL.where(self.mask_BL.to(values_N.device), 0.0)


def to_sample(trajectory: Trajectory, *, advantage: float) -> Sample:
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
    """Split samples into micro-batches whose trees have at most `token_budget` ids.

    Samples that begin alike come together. The largest tree comes first, so that a step which does
    not fit into memory fails at once. A sample longer than the budget gets a micro-batch of its
    own.
    """
    ordered, overlaps = _put_in_order(samples)
    filled = _fill(ordered, overlaps, token_budget)
    return [micro for _, micro in sorted(filled, key=lambda part: part[0], reverse=True)]


def share_out(samples: Sequence[Sample], shares: int) -> list[tuple[Sample, ...]]:
    """Split samples into at most so many shares, the largest tree of them as small as can be."""
    ordered, overlaps = _put_in_order(samples)
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
    """Give parts of neighbours, each with the ids of its tree."""
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
    """Say which ids of a block each must not see: those after it, and those of other branches."""
    import torch

    if len(nodes) == 1:
        return None
    start, stop = nodes[0].start, nodes[-1].stop
    hidden_RR = torch.ones(stop - start, stop - start, dtype=torch.bool).triu_(1)
    for node in nodes:
        hidden_RR[node.end - start :, node.start - start : node.stop - start] = True
    return hidden_RR


def collate(samples: Sequence[Sample], *, block: int = 0) -> Batch:
    """Make the tensors of samples' tree.

    Nodes of up to `block` ids together attend in one call; 0 gives each node its own.
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

"""A prefix tree of samples: what several of them begin with is held, and later computed, once.

The one idea: what a causal model computes for an id depends on the ids before it alone, so samples
that begin alike share that beginning bit for bit. Members of a group share their prompt, and often
whole first turns. A node holds ids that follow the same ones in one or more samples; the path from
the root to a sample's leaf is the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from trustee.types import Sample


@dataclass(slots=True, frozen=True)
class Node:
    """A run of ids that all samples below it have in common."""

    start: int
    """Offset of its first id among all ids of the tree."""
    stop: int
    depth: int
    """Position of its first id in each sample."""
    path: tuple[int, ...]
    """Nodes from the root to this one, itself the last."""
    end: int
    """Offset after the last id of all nodes below it, its own where there are none."""

    def __len__(self) -> int:
        """Count its ids."""
        return self.stop - self.start


@dataclass(slots=True, frozen=True)
class PrefixTree:
    """All ids of some samples, every common beginning once, each node before those below it."""

    ids: tuple[int, ...]
    nodes: tuple[Node, ...]
    leaves: tuple[int, ...]
    """The node in which each sample ends, in the order in which samples were given."""


def count_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the ids with which two samples begin alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def count_overlaps(ordered: Sequence[Sample]) -> list[int]:
    """Count the ids with which each sample begins as the one before it does; 0 for the first.

    In the order of their ids, each sample adds what is left of it to a tree of those before.
    """
    common = [count_common(before.ids, sample.ids) for before, sample in pairwise(ordered)]
    return [0, *common] if ordered else []


def grow_tree(samples: Sequence[Sample]) -> PrefixTree:
    """Make the tree of samples, none of them empty."""
    assert all(sample.ids for sample in samples), "a sample has ids"
    order = sorted(range(len(samples)), key=lambda index: samples[index].ids)
    rows = [samples[index].ids for index in order]
    overlaps = count_overlaps([samples[index] for index in order])
    ids: list[int] = []
    runs: list[tuple[int, int, int, tuple[int, ...]]] = []
    leaves = [0] * len(samples)
    # Neighbours that are alike up to a depth, that depth, and the path that leads there.
    todo: list[tuple[int, int, int, tuple[int, ...]]] = [(0, len(rows), 0, ())] if rows else []
    while todo:
        low, high, depth, path = todo.pop()
        end = min(overlaps[low + 1 : high], default=len(rows[low]))
        if end > depth:
            path = (*path, len(runs))
            runs.append((len(ids), len(ids) + end - depth, depth, path))
            ids += rows[low][depth:end]
        while low < high and len(rows[low]) == end:
            leaves[order[low]] = path[-1]
            low += 1
        cuts = [low, *(at for at in range(low + 1, high) if overlaps[at] == end), high]
        todo += [(a, b, end, path) for a, b in pairwise(cuts) if a < b][::-1]
    ends = [stop for _, stop, _, _ in runs]
    for index in reversed(range(len(runs))):
        for above in runs[index][3][-2:-1]:
            ends[above] = max(ends[above], ends[index])
    nodes = tuple(Node(*run, end) for run, end in zip(runs, ends, strict=True))
    return PrefixTree(tuple(ids), nodes, tuple(leaves))


@dataclass(slots=True, frozen=True)
class Block:
    """Nodes whose ids stand together and attend together: subtrees side by side, or one node."""

    nodes: tuple[int, ...]
    above: tuple[int, ...]
    """Blocks on the path to this one, from the root down; each is one node."""


def cut_blocks(nodes: Sequence[Node], *, most: int) -> list[Block]:
    """Cut a tree into blocks of one node, or of several with at most `most` ids, in their order."""
    blocks: list[Block] = []
    block_of: dict[int, int] = {}
    first = 0
    while first < len(nodes):
        *path, _ = nodes[first].path
        last = first + 1
        if nodes[first].end - nodes[first].start <= most:
            # All that is below it, and its siblings with all that is below them while they fit.
            while (
                last < len(nodes)
                and [*nodes[last].path[: len(path)]] == path
                and nodes[last].end - nodes[first].start <= most
            ):
                last += 1
        block_of[first] = len(blocks)
        blocks.append(Block(tuple(range(first, last)), tuple(block_of[node] for node in path)))
        first = last
    return blocks

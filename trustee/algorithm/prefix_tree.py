"""A prefix tree of samples, so that a common prefix is stored and computed once.

What a causal model computes for a token depends only on the tokens before it, so samples with a
common prefix share those results bit for bit. Members of a group share their prompt, and often
whole first turns. A node is a run of ids with the same prefix in one or more samples; a sample is
the path from the root to its leaf.
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
    """Offset after its last id."""
    depth: int
    """Position of its first id within each sample."""
    path: tuple[int, ...]
    """Indices of the nodes from the root to this one, inclusive."""
    end: int
    """Offset after the last id of its subtree; equal to `stop` for a leaf."""

    def __len__(self) -> int:
        """Return the number of ids."""
        return self.stop - self.start


@dataclass(slots=True, frozen=True)
class PrefixTree:
    """The ids of some samples, every common prefix once, with nodes in depth-first order."""

    ids: tuple[int, ...]
    nodes: tuple[Node, ...]
    leaves: tuple[int, ...]
    """Index of the node in which each sample ends, in the order of the samples given."""


def count_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix of two id sequences."""
    # Bisection: comparing slices runs in C, which beats a Python loop over the ids.
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def count_overlaps(ordered: Sequence[Sample]) -> list[int]:
    """Return the length of the prefix each sample shares with its predecessor; 0 for the first.

    With samples sorted by ids, a sample adds exactly its remaining ids to the tree of those before.
    """
    common = [count_common(before.ids, sample.ids) for before, sample in pairwise(ordered)]
    return [0, *common] if ordered else []


def grow_tree(samples: Sequence[Sample]) -> PrefixTree:
    """Build the prefix tree of some samples, none of them empty."""
    assert all(sample.ids for sample in samples), "a sample has ids"
    # Sorted by ids, samples that share a prefix are neighbours, and the prefix common to a range is
    # the smallest overlap between neighbours within it.
    order = sorted(range(len(samples)), key=lambda index: samples[index].ids)
    rows = [samples[index].ids for index in order]
    overlaps = count_overlaps([samples[index] for index in order])
    ids: list[int] = []
    runs: list[tuple[int, int, int, tuple[int, ...]]] = []
    leaves = [0] * len(samples)
    # Ranges [low, high) of rows that agree up to `depth`, with the path of nodes that leads there.
    todo: list[tuple[int, int, int, tuple[int, ...]]] = [(0, len(rows), 0, ())] if rows else []
    while todo:
        low, high, depth, path = todo.pop()
        end = min(overlaps[low + 1 : high], default=len(rows[low]))
        # No new node where the range splits right at `depth`.
        if end > depth:
            path = (*path, len(runs))
            runs.append((len(ids), len(ids) + end - depth, depth, path))
            ids += rows[low][depth:end]
        # Sorting puts the rows that end here first; the rest goes on below.
        while low < high and len(rows[low]) == end:
            leaves[order[low]] = path[-1]
            low += 1
        # Where the overlap is no longer than `end`, neighbours part: each range is a child. They
        # are pushed in reverse, so that the first is popped next (depth first).
        cuts = [low, *(at for at in range(low + 1, high) if overlaps[at] == end), high]
        todo += [(a, b, end, path) for a, b in pairwise(cuts) if a < b][::-1]
    # Children come after their parents, so going backwards passes each subtree's end upwards.
    ends = [stop for _, stop, _, _ in runs]
    for index, (_, _, _, path) in reversed(list(enumerate(runs))):
        if len(path) > 1:
            parent = path[-2]
            ends[parent] = max(ends[parent], ends[index])
    nodes = tuple(Node(*run, end) for run, end in zip(runs, ends, strict=True))
    return PrefixTree(tuple(ids), nodes, tuple(leaves))


@dataclass(slots=True, frozen=True)
class Block:
    """Nodes that are adjacent and attend in one call: one node, or whole sibling subtrees."""

    nodes: tuple[int, ...]
    above: tuple[int, ...]
    """Indices of the blocks on the path to this one, from the root down; each is a single node."""


def cut_blocks(nodes: Sequence[Node], *, most: int) -> list[Block]:
    """Cut a tree into blocks, in order: single nodes, or whole subtrees of at most `most` ids."""
    blocks: list[Block] = []
    block_of: dict[int, int] = {}
    first = 0
    while first < len(nodes):
        *path, _ = nodes[first].path
        last = first + 1
        if nodes[first].end - nodes[first].start <= most:
            # The whole subtree fits: take it, and the subtrees of following siblings while they
            # fit too. A node shares this node's parents if its path begins with the same ones.
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

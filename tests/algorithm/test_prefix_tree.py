"""The prefix tree: every sample is a path, every common beginning is there once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.algorithm.prefix_tree import (
    Node,
    PrefixTree,
    count_common,
    count_overlaps,
    cut_blocks,
    grow_tree,
)
from trustee.types import Sample


def make_samples(*rows: tuple[int, ...]) -> list[Sample]:
    """Make samples of these ids."""
    return [
        Sample(
            ids=row,
            mask=(False, *(True,) * (len(row) - 1))[: len(row)],
            logprobs=(0.0,) * len(row),
            advantage=1.0,
            version=0,
            trajectory_id=str(number),
        )
        for number, row in enumerate(rows)
    ]


rows_of_ids = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), min_size=1, max_size=12
)
"""Few different ids, so that many samples begin alike, are equal, or begin another."""


def read_path(tree: PrefixTree, leaf: int) -> tuple[int, ...]:
    """Give the ids from the root to the end of a node."""
    parts = [tree.nodes[node] for node in tree.nodes[leaf].path]
    return tuple(id for node in parts for id in tree.ids[node.start : node.stop])


def test_tree_by_hand() -> None:
    """A prompt that all have, a turn that two have, and what each has alone."""
    tree = grow_tree(make_samples((5, 6, 7, 9), (5, 6, 8), (5, 6, 7), (4,)))
    assert (4, 5, 6, 7, 9, 8) == tree.ids
    assert (
        Node(start=0, stop=1, depth=0, path=(0,), end=1),
        Node(start=1, stop=3, depth=0, path=(1,), end=6),
        Node(start=3, stop=4, depth=2, path=(1, 2), end=5),
        Node(start=4, stop=5, depth=3, path=(1, 2, 3), end=5),
        Node(start=5, stop=6, depth=2, path=(1, 4), end=6),
    ) == tree.nodes
    assert (3, 4, 2, 0) == tree.leaves


def test_tree_of_nothing() -> None:
    """No samples have a tree without nodes."""
    assert PrefixTree((), (), ()) == grow_tree([])
    assert [] == count_overlaps([])


def test_empty_sample_is_a_bug() -> None:
    """A sample without ids has no leaf."""
    with pytest.raises(AssertionError, match="a sample has ids"):
        grow_tree(make_samples((1,), ()))


@settings(max_examples=200)
@given(rows_of_ids)
def test_every_sample_is_a_path(rows: list[tuple[int, ...]]) -> None:
    """The path to its leaf is the sample, and depths are its positions."""
    tree = grow_tree(make_samples(*rows))
    assert rows == [read_path(tree, leaf) for leaf in tree.leaves]
    for node in tree.nodes:
        *above, own = (tree.nodes[index] for index in node.path)
        assert (node, sum(map(len, above))) == (own, node.depth)


@settings(max_examples=200)
@given(rows_of_ids)
def test_every_beginning_is_there_once(rows: list[tuple[int, ...]]) -> None:
    """A tree has as many ids as the samples have different beginnings."""
    tree = grow_tree(make_samples(*rows))
    beginnings = {row[:length] for row in rows for length in range(1, len(row) + 1)}
    assert len(beginnings) == len(tree.ids)
    assert len(tree.nodes) <= 2 * len(rows) - 1
    ordered = sorted(make_samples(*rows), key=lambda sample: sample.ids)
    added = [len(s.ids) - o for s, o in zip(ordered, count_overlaps(ordered), strict=True)]
    assert sum(added) == len(tree.ids)


@settings(max_examples=100)
@given(rows_of_ids)
def test_nodes_stand_above_what_is_below_them(rows: list[tuple[int, ...]]) -> None:
    """Offsets follow each other, and a node's end is where its descendants end."""
    nodes = grow_tree(make_samples(*rows)).nodes
    assert all(left.stop == right.start for left, right in pairwise(nodes))
    for index, node in enumerate(nodes):
        below = [other for other in nodes if index in other.path]
        assert node.end == max(other.stop for other in below)
        assert sum(map(len, below)) == node.end - node.start


@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40))
def test_common_beginning(one: list[int], other: list[int]) -> None:
    """The count is that of a plain loop."""
    plain = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    assert count_common(one, other) == (min(len(one), len(other)) if plain is None else plain)


@settings(max_examples=200)
@given(rows_of_ids, st.integers(0, 40))
def test_blocks_hold_each_node_once(rows: list[tuple[int, ...]], most: int) -> None:
    """In order, no larger than allowed unless of one node, below blocks of one node each."""
    nodes = grow_tree(make_samples(*rows)).nodes
    blocks = cut_blocks(nodes, most=most)
    assert [*range(len(nodes))] == [node for block in blocks for node in block.nodes]
    for block in blocks:
        own = [nodes[node] for node in block.nodes]
        assert len(own) == 1 or sum(map(len, own)) <= most
        above = [blocks[index].nodes for index in block.above]
        assert nodes[block.nodes[0]].path[:-1] == tuple(node for (node,) in above)
        for node in own:
            outside = [index for index in node.path if index < block.nodes[0]]
            assert [(index,) for index in outside] == above


def test_blocks_by_hand() -> None:
    """What fits is one block; a long prompt stands alone, and what is below it together."""
    nodes = grow_tree(make_samples((5, 6, 7, 9), (5, 6, 7, 8), (5, 6, 8))).nodes
    assert [[0, 1, 2, 3, 4]] == [[*block.nodes] for block in cut_blocks(nodes, most=6)]
    apart = cut_blocks(nodes, most=4)
    assert [((0,), ()), ((1, 2, 3, 4), (0,))] == [(b.nodes, b.above) for b in apart]
    each = [((0,), ()), ((1,), (0,)), ((2,), (0, 1)), ((3,), (0, 1)), ((4,), (0,))]
    assert each == [(b.nodes, b.above) for b in cut_blocks(nodes, most=0)]
    pairs = [((0,), ()), ((1,), (0,)), ((2, 3), (0, 1)), ((4,), (0,))]
    assert pairs == [(b.nodes, b.above) for b in cut_blocks(nodes, most=2)]

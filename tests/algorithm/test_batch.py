"""Samples, micro-batches and tensors: nothing lost, nothing doubled, everything in its place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from trustee.algorithm.batch import collate, pack, share_out, to_sample, to_samples
from trustee.algorithm.prefix_tree import grow_tree
from trustee.types import Completion, Message, Sample, Stop, Trajectory, Turn


def trajectory(turns: list[tuple[int, int]]) -> Trajectory:
    """Give each turn so many rendered and sampled ids, numbered in order through the episode."""
    spoken = []
    place = 0
    for version, (rendered, sampled) in enumerate(turns, start=3):
        middle, end = place + rendered, place + rendered + sampled
        completion = Completion(
            ids=tuple(range(middle, end)),
            logprobs=tuple(-0.5 - i for i in range(middle, end)),
            stop="stop",
            version=version,
        )
        spoken.append(
            Turn(
                rendered_ids=tuple(range(place, middle)),
                completion=completion,
                message=Message(role="assistant"),
            )
        )
        place = end
    return Trajectory(id="7/2", task_id="t", turns=tuple(spoken), stop=Stop.DONE)


spoken_turns = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=4)


def test_cut_by_hand() -> None:
    """Two turns become one sample, and only what was sampled is trained."""
    expected = Sample(
        ids=(0, 1, 2, 3, 4, 5),
        mask=(False, False, True, False, True, True),
        logprobs=(0.0, 0.0, -2.5, 0.0, -4.5, -5.5),
        advantage=-0.75,
        version=3,
        trajectory_id="7/2",
    )
    assert expected == to_sample(trajectory([(2, 1), (1, 2)]), advantage=-0.75)


@settings(max_examples=60)
@given(spoken_turns)
def test_each_sampled_id_is_trained_once(turns: list[tuple[int, int]]) -> None:
    """The masked ids are the sampled ones in order, each beside its own logprob."""
    episode = trajectory(turns)
    sample = to_sample(episode, advantage=1.0)
    columns = list(zip(sample.ids, sample.mask, sample.logprobs, strict=True))
    assert list(range(sum(map(sum, turns)))) == [i for i, _, _ in columns]
    assert [i for turn in episode.turns for i in turn.completion.ids] == [
        i for i, trained, _ in columns if trained
    ]
    assert all(logprob == (-0.5 - i if trained else 0.0) for i, trained, logprob in columns)


@settings(max_examples=40)
@given(spoken_turns, st.data())
def test_each_branch_is_a_sample(turns: list[tuple[int, int]], data: st.DataObject) -> None:
    """A turn that begins anew begins a sample, and nothing is lost or trained twice."""
    episode = trajectory(turns)
    anew = data.draw(st.lists(st.booleans(), min_size=len(turns), max_size=len(turns)))
    marked = [replace(turn, anew=one) for turn, one in zip(episode.turns, anew, strict=True)]
    samples = to_samples(replace(episode, turns=tuple(marked)), advantage=1.0)
    assert len(samples) == 1 + sum(anew[1:])
    whole = to_sample(episode, advantage=1.0)
    assert whole.ids == tuple(id for sample in samples for id in sample.ids)
    assert whole.mask == tuple(one for sample in samples for one in sample.mask)
    assert whole.logprobs == tuple(one for sample in samples for one in sample.logprobs)


def test_an_episode_without_a_turn_has_no_sample() -> None:
    """There is nothing to train; and branches are not taken for one sample."""
    assert () == to_samples(trajectory([]), advantage=1.0)
    first, second = trajectory([(1, 1), (1, 1)]).turns
    branches = (first, replace(second, anew=True))
    with pytest.raises(AssertionError, match="7/2: has branches"):
        to_sample(replace(trajectory([]), turns=branches), advantage=1.0)


def test_cut_refuses_what_cannot_be_trained() -> None:
    """A completion without all its logprobs and a first id without a prompt are bugs."""
    whole = trajectory([(1, 2)])
    [turn] = whole.turns
    short = Completion(ids=(1, 2), logprobs=(-0.5,), stop="stop", version=3)
    broken = Turn(rendered_ids=turn.rendered_ids, completion=short, message=turn.message)
    with pytest.raises(AssertionError, match="7/2: a completion lacks logprobs"):
        to_sample(Trajectory(id="7/2", task_id="t", turns=(broken,), stop=Stop.DONE), advantage=0.0)
    with pytest.raises(AssertionError, match="7/2: nothing precedes the first sampled id"):
        to_sample(trajectory([(0, 2)]), advantage=0.0)


def sample_like(*ids: int, name: str = "") -> Sample:
    """Make a sample of these ids, all but the first sampled."""
    return Sample(
        ids=ids,
        mask=(False, *(True,) * (len(ids) - 1)),
        logprobs=(0.0, *(-0.5 - i for i in ids[1:])),
        advantage=0.25,
        version=0,
        trajectory_id=name,
    )


mixed_samples = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=20).map(
    lambda rows: [sample_like(*row, name=str(i)) for i, row in enumerate(rows)]
)
"""Samples of few different ids, many of which begin alike."""


def count_ids(samples: Sequence[Sample]) -> int:
    """Count what a micro-batch of these samples computes."""
    return len(grow_tree(samples).ids)


def test_pack_by_hand() -> None:
    """What begins alike comes together, is counted once, and the largest comes first."""
    samples = [
        sample_like(1, 2, 3, 4, name="a"),
        sample_like(7, 7, 7, 7, 7, 7, 7, name="long"),
        sample_like(1, 2, 3, 5, 6, name="b"),
        sample_like(2, 2, name="c"),
    ]
    packed = pack(samples, token_budget=6)
    assert [["long"], ["a", "b"], ["c"]] == [[s.trajectory_id for s in m] for m in packed]
    assert [7, 6, 2] == [count_ids(micro) for micro in packed]


@settings(max_examples=60)
@given(mixed_samples, st.integers(1, 60))
def test_pack_keeps_every_sample_once(samples: list[Sample], token_budget: int) -> None:
    """Every sample is in exactly one micro-batch, and none is empty."""
    packed = pack(samples, token_budget=token_budget)
    assert sorted(s.trajectory_id for s in samples) == sorted(
        s.trajectory_id for micro in packed for s in micro
    )
    assert all(packed)


@settings(max_examples=60)
@given(mixed_samples, st.integers(1, 60))
def test_pack_keeps_the_budget(samples: list[Sample], token_budget: int) -> None:
    """No tree exceeds the budget but that of a single longer sample; sizes fall."""
    packed = pack(samples, token_budget=token_budget)
    sizes = [count_ids(micro) for micro in packed]
    for micro, size in zip(packed, sizes, strict=True):
        assert len(micro) == 1 or size <= token_budget
    assert sorted(sizes, reverse=True) == sizes


@settings(max_examples=60)
@given(mixed_samples, st.integers(1, 60))
def test_pack_wastes_no_room(samples: list[Sample], token_budget: int) -> None:
    """A micro-batch ends only where the sample that follows in order would exceed the budget."""
    packed = sorted(pack(samples, token_budget=token_budget), key=lambda micro: micro[0].ids)
    for micro, following in pairwise(packed):
        assert count_ids([*micro, following[0]]) > token_budget


def test_collate_by_hand() -> None:
    """Three samples, two of which have a prompt and a first id in common."""
    batch = collate([sample_like(1, 2, 3), sample_like(7, 8), sample_like(1, 2, 4, 5)])
    assert [1, 2, 3, 4, 5, 7, 8] == batch.ids_T.tolist()
    assert [0, 1, 2, 2, 3, 0, 1] == batch.positions_T.tolist()
    assert [0, 0, 1, 1, 3, 0, 5] == batch.before_T.tolist()
    assert [False, True, True, True, True, False, True] == batch.trained_T.tolist()
    assert [[0, 1, 2, 0], [5, 6, 0, 0], [0, 1, 3, 4]] == batch.offsets_BL.tolist()
    assert [[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 1, 1]] == batch.mask_BL.int().tolist()
    assert [-0.0, -2.5, -4.5, -5.5] == batch.logprobs_BL[2].tolist()
    assert [0.25, 0.25, 0.25] == batch.advantages_B.tolist()
    spread = batch.spread(torch.tensor([20.0, 30.0, 40.0, 50.0, 80.0]))
    assert [[0, 20, 30, 0], [0, 80, 0, 0], [0, 20, 40, 50]] == spread.tolist()
    assert [(2, ()), (1, (0,)), (2, (0,)), (2, ())] == [
        (part.size, part.above) for part in batch.attention
    ]
    assert (torch.int64, torch.bool, torch.float32, torch.float32, torch.int64) == (
        batch.ids_T.dtype,
        batch.mask_BL.dtype,
        batch.logprobs_BL.dtype,
        batch.advantages_B.dtype,
        batch.offsets_BL.dtype,
    )


@settings(max_examples=60)
@given(mixed_samples)
def test_collate_keeps_each_sample(samples: list[Sample]) -> None:
    """Each row finds its own ids, positions and predecessors, and nothing is left over."""
    batch = collate(samples)
    for row, sample in enumerate(samples):
        offsets = batch.offsets_BL[row, : len(sample.ids)]
        assert list(sample.ids) == batch.ids_T[offsets].tolist()
        assert [*range(len(sample.ids))] == batch.positions_T[offsets].tolist()
        assert offsets[:-1].tolist() == batch.before_T[offsets[1:]].tolist()
        assert list(sample.mask) == batch.mask_BL[row, : len(sample.ids)].tolist()
        assert list(sample.logprobs) == batch.logprobs_BL[row, : len(sample.ids)].tolist()
        assert not batch.mask_BL[row, len(sample.ids) :].any()
    trained = {int(p) for p in batch.offsets_BL[batch.mask_BL]}
    assert trained == {*batch.trained_T.nonzero()[:, 0].tolist()}


@settings(max_examples=60)
@given(mixed_samples, st.integers(0, 30))
def test_who_sees_whom(samples: list[Sample], block: int) -> None:
    """However a tree is cut into blocks, an id sees what stands before it in its samples."""
    batch = collate(samples, block=block)
    starts = [0, *accumulate(part.size for part in batch.attention)]
    seen = torch.zeros(len(batch.ids_T), len(batch.ids_T), dtype=torch.bool)
    for index, part in enumerate(batch.attention):
        own = slice(starts[index], starts[index + 1])
        later = torch.ones(part.size, part.size, dtype=torch.bool).triu(1)
        seen[own, own] = ~(later if part.hidden_RR is None else part.hidden_RR)
        for above in part.above:
            seen[own, starts[above] : starts[above + 1]] = True
    expected = torch.zeros_like(seen)
    for row, sample in enumerate(samples):
        offsets = batch.offsets_BL[row, : len(sample.ids)]
        for at in range(len(offsets)):
            expected[offsets[at], offsets[: at + 1]] = True
    assert torch.equal(expected, seen)


def test_collate_takes_nothing() -> None:
    """No samples give a batch without ids or rows."""
    batch = collate([])
    assert ((0,), (0,), (0, 0), ()) == (
        tuple(batch.ids_T.shape),
        tuple(batch.positions_T.shape),
        tuple(batch.offsets_BL.shape),
        batch.attention,
    )


def test_import_loads_no_torch() -> None:
    """Cutting and packing are open to processes that never load torch."""
    code = (
        "import sys, trustee.algorithm.advantage, trustee.algorithm.batch; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@settings(max_examples=100)
@given(samples=mixed_samples, shares=st.integers(1, 6))
def test_shares_hold_each_sample_once(samples: list[Sample], shares: int) -> None:
    """No more shares than asked for, none empty, each sample in exactly one."""
    parts = share_out(samples, shares)
    assert len(parts) <= shares
    assert all(parts)
    shared = [sample for part in parts for sample in part]
    assert sorted(s.trajectory_id for s in samples) == sorted(s.trajectory_id for s in shared)


@settings(max_examples=60)
@given(samples=mixed_samples, shares=st.integers(1, 4))
def test_shares_are_as_even_as_neighbours_allow(samples: list[Sample], shares: int) -> None:
    """With the largest share one id smaller there would be more of them."""
    largest = max((count_ids(part) for part in share_out(samples, shares)), default=0)
    longest = max((len(sample.ids) for sample in samples), default=0)
    if largest > longest:
        assert len(pack(samples, token_budget=largest - 1)) > shares


def test_shares_of_equal_groups_are_equal() -> None:
    """Groups that have a prompt in common each stay together, dealt out evenly."""
    samples = [sample_like(group, 9, 9, 9, member) for group in range(4) for member in range(8)]
    assert [16, 16] == [len(part) for part in share_out(samples, 2)]
    assert [8, 8, 8, 8] == [len(part) for part in share_out(samples, 4)]

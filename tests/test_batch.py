"""Samples, micro-batches and tensors: nothing lost, nothing doubled, everything in its place."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from trustee.batch import collate, cut, pack, share_out
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


def sample_of(length: int, *, name: str = "") -> Sample:
    """Cut a sample of so many ids."""
    sample = cut(trajectory([(1, length - 1)]), advantage=0.25)
    return Sample(
        ids=sample.ids,
        mask=sample.mask,
        logprobs=sample.logprobs,
        advantage=sample.advantage,
        version=sample.version,
        trajectory_id=name,
    )


spoken_turns = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=4)
sample_lists = st.lists(st.integers(1, 30), max_size=20).map(
    lambda lengths: [sample_of(length, name=str(i)) for i, length in enumerate(lengths)]
)


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
    assert expected == cut(trajectory([(2, 1), (1, 2)]), advantage=-0.75)


@settings(max_examples=60, deadline=None)
@given(spoken_turns)
def test_each_sampled_id_is_trained_once(turns: list[tuple[int, int]]) -> None:
    """The masked ids are the sampled ones in order, each beside its own logprob."""
    episode = trajectory(turns)
    sample = cut(episode, advantage=1.0)
    columns = list(zip(sample.ids, sample.mask, sample.logprobs, strict=True))
    assert list(range(sum(map(sum, turns)))) == [i for i, _, _ in columns]
    assert [i for turn in episode.turns for i in turn.completion.ids] == [
        i for i, trained, _ in columns if trained
    ]
    assert all(logprob == (-0.5 - i if trained else 0.0) for i, trained, logprob in columns)


def test_cut_refuses_what_cannot_be_trained() -> None:
    """A completion without all its logprobs and a first id without a prompt are bugs."""
    whole = trajectory([(1, 2)])
    [turn] = whole.turns
    short = Completion(ids=(1, 2), logprobs=(-0.5,), stop="stop", version=3)
    broken = Turn(rendered_ids=turn.rendered_ids, completion=short, message=turn.message)
    with pytest.raises(AssertionError, match="7/2: a completion lacks logprobs"):
        cut(Trajectory(id="7/2", task_id="t", turns=(broken,), stop=Stop.DONE), advantage=0.0)
    with pytest.raises(AssertionError, match="7/2: nothing precedes the first sampled id"):
        cut(trajectory([(0, 2)]), advantage=0.0)


def test_pack_by_hand() -> None:
    """The longest come first, and rows are added while the padded area allows."""
    samples = [sample_of(n, name=str(n)) for n in (2, 9, 4, 3, 4)]
    packed = pack(samples, token_budget=8)
    assert [[s.trajectory_id for s in m] for m in packed] == [["9"], ["4", "4"], ["3", "2"]]


@settings(max_examples=60, deadline=None)
@given(sample_lists, st.integers(1, 60))
def test_pack_keeps_every_sample_once(samples: list[Sample], token_budget: int) -> None:
    """Every sample is in exactly one micro-batch, and none is empty."""
    packed = pack(samples, token_budget=token_budget)
    assert sorted(s.trajectory_id for s in samples) == sorted(
        s.trajectory_id for micro in packed for s in micro
    )
    assert all(packed)


@settings(max_examples=60, deadline=None)
@given(sample_lists, st.integers(1, 60))
def test_pack_keeps_the_budget(samples: list[Sample], token_budget: int) -> None:
    """No padded area exceeds the budget but that of a single longer sample; lengths fall."""
    packed = pack(samples, token_budget=token_budget)
    for micro in packed:
        longest = max(len(s.ids) for s in micro)
        assert len(micro) == 1 or len(micro) * longest <= token_budget
    lengths = [len(s.ids) for micro in packed for s in micro]
    assert sorted(lengths, reverse=True) == lengths


@settings(max_examples=60, deadline=None)
@given(sample_lists, st.integers(1, 60))
def test_pack_wastes_no_row(samples: list[Sample], token_budget: int) -> None:
    """A micro-batch ends only where one more row would exceed the budget."""
    packed = pack(samples, token_budget=token_budget)
    for micro in packed[:-1]:
        assert (len(micro) + 1) * len(micro[0].ids) > token_budget


def test_collate_by_hand() -> None:
    """Rows are padded on the right, with types that models and losses take."""
    batch = collate([sample_of(3), sample_of(2)], pad_id=9)
    assert batch.ids_BL.tolist() == [[0, 1, 2], [0, 1, 9]]
    assert batch.mask_BL.tolist() == [[False, True, True], [False, True, False]]
    assert batch.logprobs_BL.tolist() == [[0.0, -1.5, -2.5], [0.0, -1.5, 0.0]]
    assert batch.advantages_B.tolist() == [0.25, 0.25]
    assert batch.lengths_B.tolist() == [3, 2]
    assert (torch.int64, torch.bool, torch.float32, torch.float32, torch.int64) == (
        batch.ids_BL.dtype,
        batch.mask_BL.dtype,
        batch.logprobs_BL.dtype,
        batch.advantages_B.dtype,
        batch.lengths_B.dtype,
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(spoken_turns, min_size=1, max_size=5))
def test_collate_keeps_positions(episodes: list[list[tuple[int, int]]]) -> None:
    """Without its padding each row is its sample, column by column."""
    samples = [cut(trajectory(turns), advantage=i) for i, turns in enumerate(episodes)]
    batch = collate(samples, pad_id=99)
    for row, sample in enumerate(samples):
        length = int(batch.lengths_B[row])
        assert list(sample.ids) == batch.ids_BL[row, :length].tolist()
        assert list(sample.mask) == batch.mask_BL[row, :length].tolist()
        assert list(sample.logprobs) == batch.logprobs_BL[row, :length].tolist()
        assert row == batch.advantages_B[row]
        assert {99} >= set(batch.ids_BL[row, length:].tolist())
        assert not batch.mask_BL[row, length:].any()
        assert not batch.logprobs_BL[row, length:].any()


def test_causal_attention_needs_no_mask() -> None:
    """What a causal model computes for a short row does not depend on the padding after it."""
    table = torch.randn(40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def attend(samples: list[Sample], pad_id: int) -> torch.Tensor:
        x_BLH = table[collate(samples, pad_id=pad_id).ids_BL]
        return scaled_dot_product_attention(x_BLH, x_BLH, x_BLH, is_causal=True)

    alone = attend([sample_of(4)], 0)[0]
    for pad_id in (0, 31):
        padded = attend([sample_of(9), sample_of(4)], pad_id)[1, :4]
        torch.testing.assert_close(padded, alone, rtol=0, atol=1e-12)


def test_collate_takes_nothing() -> None:
    """No samples give a batch without rows."""
    assert tuple(collate([]).ids_BL.shape) == (0, 0)


def test_import_loads_no_torch() -> None:
    """Cutting and packing are open to processes that never load torch."""
    code = "import sys, trustee.advantage, trustee.batch; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@given(lengths=st.lists(st.integers(1, 300), max_size=40), shares=st.integers(1, 6))
def test_shares_hold_each_sample_once(lengths: list[int], shares: int) -> None:
    """No more shares than asked for, none empty, longest first, each sample in exactly one."""
    samples = [sample_of(length, name=str(number)) for number, length in enumerate(lengths)]
    parts = share_out(samples, shares)
    assert len(parts) <= shares
    assert all(parts)
    shared = [sample for part in parts for sample in part]
    assert sorted(s.trajectory_id for s in samples) == sorted(s.trajectory_id for s in shared)
    assert sorted(lengths, reverse=True) == [len(sample.ids) for sample in shared]


def test_shares_of_equal_samples_are_equal() -> None:
    """Equal samples are dealt out evenly."""
    samples = [sample_of(10, name=str(number)) for number in range(32)]
    assert [16, 16] == [len(part) for part in share_out(samples, 2)]
    assert [8, 8, 8, 8] == [len(part) for part in share_out(samples, 4)]

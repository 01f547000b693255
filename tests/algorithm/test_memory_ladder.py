"""The ladder: the order in which things are given up, its bottom, its state, and a run on it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_errors import ErrorCheck
from trustee.algorithm.config import ActivationCheckpointing
from trustee.algorithm.memory_ladder import LadderState, MemoryLadder, MemoryLevel, descend
from trustee.errors import OutOfMemory, RunError

TOP = MemoryLevel(micro_tokens=4096, activation_checkpointing="off", context=1024, parallel=8)
FULL = OutOfMemory("tried to allocate 2.00 GiB; torch held 21.50 GiB in tensors")


def test_what_is_given_up_in_which_order() -> None:
    """Micro-batches, then layer inputs, then episodes' length, then their number."""
    ladder = MemoryLadder(TOP, shortest=512)
    changes = [ladder.descend(FULL, longest=min(1000, ladder.level.context)) for _ in range(14)]
    with pytest.raises(RunError):
        ladder.descend(FULL, longest=512)
    assert (
        [
            "micro-batches of 2048 instead of 4096 ids (learn.micro_tokens)",
            "micro-batches of 1024 instead of 2048 ids (learn.micro_tokens)",
            "micro-batches of 1000 instead of 1024 ids (learn.micro_tokens)",
            "recompute layer inputs (learn.activation_checkpointing)",
            "offload layer inputs (learn.activation_checkpointing)",
            "episodes of at most 750 instead of 1024 ids (engine.context)",
            "micro-batches of 750 instead of 1000 ids (learn.micro_tokens)",
            "episodes of at most 562 instead of 750 ids (engine.context)",
            "micro-batches of 562 instead of 750 ids (learn.micro_tokens)",
            "episodes of at most 512 instead of 562 ids (engine.context)",
            "micro-batches of 512 instead of 562 ids (learn.micro_tokens)",
            "4 instead of 8 episodes at once (rollout.parallel)",
            "2 instead of 4 episodes at once (rollout.parallel)",
            "1 instead of 2 episodes at once (rollout.parallel)",
        ]
        == changes
        == ladder.changes
    )


def test_the_bottom_names_all_figures(check_error: ErrorCheck) -> None:
    """The last refusal says what was given up and what the allocator said."""
    bottom = MemoryLevel(
        micro_tokens=10, activation_checkpointing="offload", context=10, parallel=1
    )
    with pytest.raises(RunError) as caught:
        MemoryLadder(bottom, shortest=512).descend(FULL, longest=10)
    check_error(caught, "2.00 GiB", "21.50 GiB")


rungs = st.builds(
    MemoryLevel,
    micro_tokens=st.integers(1, 1 << 17),
    activation_checkpointing=st.sampled_from(["off", "recompute", "offload"]),
    context=st.integers(1, 1 << 15),
    parallel=st.integers(1, 512),
)
ORDER: list[ActivationCheckpointing] = ["off", "recompute", "offload"]


@given(level=rungs, longest=st.integers(1, 1 << 15), shortest=st.integers(1, 1024))
def test_each_level_asks_for_less(level: MemoryLevel, longest: int, shortest: int) -> None:
    """A level gives up one thing and nothing grows; the descent always ends."""
    steps = 0
    while (descent := descend(level, longest=longest, shortest=shortest)) is not None:
        below = descent.level
        assert below.micro_tokens <= level.micro_tokens
        assert below.context <= max(level.context, shortest)
        assert below.parallel <= level.parallel
        assert ORDER.index(below.activation_checkpointing) >= ORDER.index(
            level.activation_checkpointing
        )
        changed = [
            field
            for field in MemoryLevel.__struct_fields__
            if getattr(below, field) != getattr(level, field)
        ]
        assert 1 == len(changed)
        level = below
        longest = min(longest, level.context)
        steps += 1
        assert steps < 100


def test_state_is_restored() -> None:
    """A resumed run stands where it stood, as JSON keeps it."""
    ladder = MemoryLadder(TOP, shortest=512)
    ladder.descend(FULL, longest=1000)
    state = msgspec.json.decode(msgspec.json.encode(ladder.state()), type=LadderState)
    other = MemoryLadder(TOP, shortest=512)
    other.restore(state)
    assert (ladder.level, ladder.changes) == (other.level, other.changes)

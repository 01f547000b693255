"""Scores where they enter: what is usable passes unchanged, the rest is refused by name."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.environments.scores import check_score
from trustee.errors import ScoreError
from trustee.runs.store import EpisodeLine, Store, read_lines
from trustee.types import (
    Attempt,
    Outcome,
    Phase,
    Role,
    Score,
    SolveFacts,
    Stop,
    Trajectory,
    TrialFacts,
)

pytestmark = pytest.mark.anyio


def test_a_sound_score_passes_unchanged() -> None:
    """Rewards, outcome and notes of an ordinary episode stay as they are."""
    score = Score(
        rewards={"verdict": -1.0, "format": 0.0},
        outcome=Outcome(success=False, judged=0.5),
        notes={"why": "nothing was said", "seen": [1, 2.5, None, True], "deep": {"a": {}}},
    )
    assert score == check_score(score)


@pytest.mark.parametrize("value", [1, np.float32(1.0), np.float64(1.0), np.int64(1), Fraction(1)])
def test_other_numbers_become_floats(value: Any) -> None:
    """Whatever counts as a real number is recorded as a float."""
    rewards = check_score(Score(rewards={"r": value})).rewards
    assert {"r": 1.0} == rewards
    assert float is type(rewards["r"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "is not a number (nan)"),
        (np.float32("nan"), "is not a number (nan)"),
        (math.inf, "is inf; a reward lies between -3.4e+38 and 3.4e+38"),
        (-math.inf, "is -inf; a reward lies between"),
        (1e39, "is 1e+39; a reward lies between"),
        (10**400, "is inf; a reward lies between"),
        ("1", "is '1' (str); a reward is a finite number"),
        (None, "is None; a reward is a finite number"),
        (True, "is True (bool); a reward is a finite number"),
        (np.bool_(True), "a reward is a finite number"),
        ([1.0], "is a list; a reward is a finite number"),
        (1j, "is a complex; a reward is a finite number"),
    ],
)
def test_what_is_no_reward_is_named(value: Any, shown: str) -> None:
    """The reason says which reward it is and what was given."""
    with pytest.raises(ScoreError) as caught:
        check_score(Score(rewards={"good": 1.0, "bad": value}))
    assert str(caught.value).startswith("reward 'bad' ")
    assert shown in str(caught.value)
    assert Role.WORLD == caught.value.source


SOLVE = SolveFacts(
    calls=1, solved=1, needed=1, precision=1.0, recall=math.nan, f1=1.0, answered=True
)


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (None, "score() gave None, not a Score"),
        (1.0, "score() gave 1.0 (float), not a Score"),
        ({"r": 1.0}, "score() gave a dict, not a Score"),
        (Score(rewards=[1.0]), "are dicts"),  # type: ignore[arg-type]
        (Score(rewards={"a": 3e38, "b": 3e38}), "the rewards a, b add up to more than 3.4e+38"),
        (Score(rewards={1: 1.0}), "the name of a reward must be a text"),  # type: ignore[dict-item]
        (Score(rewards={"\ud800": 1.0}), "the name of a reward must be a text"),
        (Score(rewards={}, outcome=Outcome(judged=math.nan)), "reward 'judged' is not a number"),
        (Score(rewards={}, outcome=Outcome(solve=SOLVE)), "cannot be recorded"),
        (Score(rewards={}, outcome=None), "the outcome of a Score is None"),  # type: ignore[arg-type]
    ],
)
def test_scores_that_cannot_be_used(score: Any, reason: str) -> None:
    """Every part that is read later is checked."""
    with pytest.raises(ScoreError) as caught:
        check_score(score)
    assert reason in str(caught.value)


def nest(depth: int) -> list[Any]:
    """Make a list inside a list, and so on."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = [
    math.nan,
    math.inf,
    "\ud800",
    {1, 2},
    object(),
    10**40,
    10**5000,
    b"\xff",
    {(1, 2): 3},
    {"\udfff": 1},
    nest(100_000),
    np.zeros(2),
    1j,
    {"x": object()},
]


@pytest.mark.parametrize("note", HOSTILE, ids=lambda value: type(value).__name__)
async def test_whatever_a_note_is_the_episode_can_be_read_again(tmp_path: Path, note: Any) -> None:
    """A note that cannot be written is replaced by a sentence; the others stay."""
    notes: dict[Any, Any] = {"odd": note, "\ud800": note, 7: "seven", "plain": "kept"}
    score = check_score(Score(rewards={"r": 1.0}, notes=notes))
    assert ("kept", 4) == (score.notes["plain"], len(score.notes))
    await write_and_read(tmp_path, score)


async def write_and_read(folder: Path, score: Score) -> EpisodeLine:
    """Write an episode with a score and read it again."""
    trajectory = Trajectory(
        id="0/0",
        task_id="t",
        turns=(),
        stop=Stop.DONE,
        rewards=score.rewards,
        outcome=score.outcome,
        notes=score.notes,
    )
    line = EpisodeLine(group=0, member=0, trajectory=trajectory)
    async with Store(folder) as store:
        store.append("episodes.jsonl", [line])
    read: EpisodeLine = read_lines(folder / "episodes.jsonl", EpisodeLine)[-1]
    assert (trajectory.rewards, trajectory.outcome) == (
        read.trajectory.rewards,
        read.trajectory.outcome,
    )
    return read


texts = st.text(st.characters(), max_size=5)
leaves = st.one_of(
    st.floats(), st.integers(), texts, st.none(), st.booleans(), st.binary(max_size=3), st.dates()
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers(), inner),
    max_leaves=6,
)


@settings(max_examples=200)
@given(st.dictionaries(texts, values, max_size=3), st.dictionaries(texts, leaves, max_size=3))
def test_any_score_is_refused_or_can_be_read_again(
    notes: dict[str, Any], rewards: dict[str, Any]
) -> None:
    """Nothing but a `ScoreError` leaves the check, and what passes it is written and read."""
    try:
        score = check_score(Score(rewards=rewards, notes=notes))
    except ScoreError:
        return
    again = msgspec.json.decode(msgspec.json.encode(score), type=Score)
    assert score.rewards == again.rewards
    assert all(math.isfinite(reward) for reward in again.rewards.values())


def test_arguments_of_a_trial_that_cannot_be_written() -> None:
    """The facts of a trial hold what the policy gave; they are checked with the rest."""
    attempt = Attempt(phase=Phase.TRIAL, name="look", arguments={"x": "\ud800"})
    facts = TrialFacts(phases=(), note="", attempts=(attempt,), labels=())
    with pytest.raises(ScoreError, match="cannot be recorded"):
        check_score(Score(rewards={}, outcome=Outcome(trial=facts)))

"""What an environment says of an episode, checked where it enters the program.

An environment may be anybody's code. A reward that is not a number would end the run later, and
one that is not finite would make the run folder unreadable. So a score is checked before it is
recorded, and one that cannot be used spoils its episode, with a reason that names the reward.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import msgspec

from trustee.decoding import decode_json
from trustee.errors import ScoreError
from trustee.types import Outcome, Score

MOST_REWARD = 3.4e38
"""Largest size of a reward: the trainer computes with 32-bit floats."""


def check_score(score: object) -> Score:
    """Return a score whose rewards are finite floats and which can be written and read again.

    A note that cannot be written is replaced by a sentence that says so, because only people read
    notes.

    Raises:
        ScoreError: naming the reward and what it is.
    """
    if not isinstance(score, Score):
        raise ScoreError(f"score() gave {_show(score)}, not a Score")
    if not isinstance(score.rewards, dict) or not isinstance(score.notes, dict):
        raise ScoreError("the rewards and the notes of a Score are dicts with names as keys")
    rewards = {_check_name(name): _check_reward(name, v) for name, v in score.rewards.items()}
    if abs(sum(rewards.values())) > MOST_REWARD:
        raise ScoreError(f"the rewards {', '.join(rewards)} add up to more than {MOST_REWARD:g}")
    _check_outcome(score.outcome)
    notes = {
        str(name).encode(errors="backslashreplace").decode(): _plain_note(value)
        for name, value in score.notes.items()
    }
    return Score(rewards=rewards, outcome=score.outcome, notes=notes)


def _check_name(name: object) -> str:
    if not isinstance(name, str) or _why_unwritable(name):
        raise ScoreError(f"the name of a reward must be a text, and is {_show(name)}")
    return name


def _check_reward(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ScoreError(f"reward {name!r} is {_show(value)}; a reward is a finite number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isnan(number):
        raise ScoreError(f"reward {name!r} is not a number (nan); a reward is a finite number")
    if abs(number) > MOST_REWARD:
        raise ScoreError(
            f"reward {name!r} is {number:g}; a reward lies between -{MOST_REWARD:g} and "
            f"{MOST_REWARD:g}"
        )
    return number


def _check_outcome(outcome: object) -> None:
    if not isinstance(outcome, Outcome):
        raise ScoreError(f"the outcome of a Score is {_show(outcome)}, not an Outcome")
    if outcome.judged is not None:
        _check_reward("judged", outcome.judged)
    why = _why_unwritable(outcome, Outcome)
    if why:
        raise ScoreError(f"the outcome of a Score cannot be recorded: {why}")


def _plain_note(value: object) -> Any:
    why = _why_unwritable(value)
    return (
        f"(a note of type {type(value).__name__} that cannot be written: {why})" if why else value
    )


def _why_unwritable(value: object, kind: Any = Any) -> str:
    """Return why a value cannot be written as JSON and read again; empty if it can."""
    try:
        written = msgspec.json.encode(value)
        decode_json(written, kind, error=ValueError)
    except (TypeError, ValueError, RecursionError) as error:
        return str(error)
    return ""


def _show(value: object) -> str:
    """Return a value's type, and the value itself where it is short and cannot be harmful."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{ascii(value)[:60]} ({name})" if isinstance(value, str | bool | float) else f"a {name}"

"""What the calls of an episode with a trial phase were good for, and figures over many episodes.

A call's label follows from what was known when it was made, never from what somebody thinks of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec

from trustee.tools.values import call_key, is_error
from trustee.types import Record, Trajectory


class Phase(StrEnum):
    """Where in an episode a policy message stands."""

    TRIAL = "trial"
    NOTE = "note"
    EXECUTION = "execution"


class Label(StrEnum):
    """What a call was good for."""

    DIRECT = "direct"
    """Made to do the task: any first call of the execution phase with its arguments."""
    USEFUL = "useful"
    """A trial that showed something new: that a tool works, or a way in which it fails."""
    UNPRODUCTIVE = "unproductive"
    """A trial that showed what was known, or reached no tool."""
    REPEAT = "repeat"
    """The same tool and arguments as an earlier call of its phase."""


class Attempt(Record, frozen=True):
    """One call and its answer, as the policy saw them."""

    phase: Phase
    name: str
    """Empty for a call that nobody could read or whose tool there is not."""
    arguments: dict[str, Any] = {}
    answer: str = ""

    @property
    def failed(self) -> bool:
        """Whether the answer is an error or brings nothing."""
        return not self.name or brings_nothing(self.answer)


def brings_nothing(answer: str) -> bool:
    """Say whether a tool's answer is empty, an error, or holds nothing but empty values."""
    try:
        result = json.loads(answer)
    except ValueError:
        return not answer.strip()
    if isinstance(result, dict):
        return is_error(result) or all(v in (None, "", [], {}) for v in result.values())
    return result in (None, "", [])


def label_attempts(attempts: Sequence[Attempt]) -> tuple[Label, ...]:
    """Label each call of an episode."""
    made: set[tuple[Phase, str]] = set()
    learnt: set[tuple[str, str]] = set()
    labels: list[Label] = []
    for attempt in attempts:
        key = (attempt.phase, call_key(attempt.name, attempt.arguments))
        lesson = (attempt.name, attempt.answer if attempt.failed else "works")
        if attempt.name and key in made:
            label = Label.REPEAT
        elif attempt.phase is Phase.EXECUTION:
            label = Label.DIRECT
        elif attempt.name and lesson not in learnt:
            label = Label.USEFUL
        else:
            label = Label.UNPRODUCTIVE
        made.add(key)
        learnt.add(lesson)
        labels.append(label)
    return tuple(labels)


class TrialNotes(Record, frozen=True):
    """What an episode's notes say about its trial, under the key `trial`."""

    phases: tuple[Phase, ...]
    """Of each policy message that was answered."""
    note: str
    """The experience note; empty where there was none."""
    attempts: tuple[Attempt, ...]
    labels: tuple[Label, ...]
    refused: tuple[str, ...] = ()
    """Transforms that the task was spared, with the reason."""

    @property
    def trials(self) -> int:
        """Calls of the trial phase."""
        return sum(attempt.phase is Phase.TRIAL for attempt in self.attempts)


def figures_of(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Give the figures of episodes with a trial phase; none where there are no such episodes.

    `success_after_error` is the share of successes among episodes in which a call failed.
    """
    played = [
        (trajectory.success, msgspec.convert(trajectory.notes["trial"], TrialNotes))
        for trajectory in trajectories
        if "trial" in trajectory.notes
    ]
    if not played:
        return {}
    count = len(played)
    after = [won for won, notes in played if any(attempt.failed for attempt in notes.attempts)]
    labels = Counter(label for _, notes in played for label in notes.labels)
    return {
        "trial_calls": sum(notes.trials for _, notes in played) / count,
        "trial_share": sum(notes.trials > 0 for _, notes in played) / count,
        "note_share": sum(bool(notes.note) for _, notes in played) / count,
        "success_after_error": sum(after) / max(1, len(after)),
        "errors_share": len(after) / count,
        "transforms_refused": sum(len(notes.refused) for _, notes in played) / count,
        **{f"calls_{label}": labels[label] / count for label in Label},
    }

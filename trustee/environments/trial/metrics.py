"""Labels for the calls of an episode with a trial phase, and figures over many episodes.

A call's label only depends on what was known when it was made, never on a judgement about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from trustee.decoding import decode_json
from trustee.tools.values import call_key, is_error
from trustee.types import Attempt, Label, Phase, Trajectory


def brings_nothing(answer: str) -> bool:
    """Whether a tool's answer is empty, an error, or contains only empty values."""
    try:
        result = decode_json(answer, error=ValueError)
    except ValueError:
        return not answer.strip()
    if isinstance(result, dict):
        return is_error(result) or all(v in (None, "", [], {}) for v in result.values())
    return result in (None, "", [])


def label_attempts(attempts: Sequence[Attempt]) -> tuple[Label, ...]:
    """Return the label of each call of an episode."""
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


def figures_of(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return the figures of episodes with a trial phase; empty if there are none.

    `success_after_error` is the share of successes among episodes with a failed call.
    """
    played = [(t.success, t.outcome.trial) for t in trajectories if t.outcome.trial is not None]
    if not played:
        return {}
    count = len(played)
    after = [won for won, facts in played if any(attempt.failed for attempt in facts.attempts)]
    labels = Counter(label for _, facts in played for label in facts.labels)
    return {
        "trial_calls": sum(facts.trials for _, facts in played) / count,
        "trial_share": sum(facts.trials > 0 for _, facts in played) / count,
        "note_share": sum(bool(facts.note) for _, facts in played) / count,
        "success_after_error": sum(after) / max(1, len(after)),
        "errors_share": len(after) / count,
        "transforms_refused": sum(len(facts.refused) for _, facts in played) / count,
        **{f"calls_{label}": labels[label] / count for label in Label},
    }

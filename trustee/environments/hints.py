"""Hints: what a teacher, but not the policy, is told about the solution of a task.

Every world describes its own solution (`World.hints`). A hint has lines for the teacher's prompt,
and the values that the teacher may not use before they occur in the conversation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trustee.tools.values import call_line, render_json
from trustee.types import ExpectedCall, Record


class Hints(Record, frozen=True):
    """What a teacher is told about one task."""

    lines: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    """Values that the policy cannot know until they are said: answers and arguments."""


def hint_calls(calls: Sequence[ExpectedCall]) -> Hints:
    """Return hints that list calls; their arguments are secret until they are said."""
    return Hints(
        lines=tuple(f"solution: {call_line(call.name, call.arguments)}" for call in calls),
        secrets=tuple(dict.fromkeys(value for call in calls for value in scalars(call.arguments))),
    )


def scalars(value: Any) -> Iterator[str]:
    """Yield the strings and numbers inside a JSON value, as strings."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from scalars(inner)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield render_json(value)

"""Rejection sampling: which episodes of a teacher are imitated, and why the others are not.

Only the first fault found is counted. No model is asked: everything is read from the trajectory, as
the policy would have seen it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

from msgspec import Meta

from trustee.environments.hints import Hints, scalars
from trustee.sft.teacher import TELLTALE
from trustee.tools.values import call_key, render_json, tells_error
from trustee.types import (
    BadCall,
    Message,
    Phase,
    Record,
    RejectReason,
    Stop,
    Task,
    ToolCall,
    Trajectory,
)


class FilterConfig(Record, frozen=True):
    """The conditions for keeping an episode."""

    reward: float = 0.0
    """The episode's reward must be above this."""
    messages: Annotated[int, Meta(ge=1)] = 20
    """Maximum number of the teacher's messages."""
    ids: Annotated[int, Meta(ge=1)] | None = None
    """Maximum number of ids, including the opening; `none` uses the engine's context."""


class Made(Record, frozen=True):
    """A call that was made, and whether it failed."""

    phase: Phase
    name: str
    key: str
    """Key of name and arguments; equal calls have equal keys."""
    failed: bool


def find_reject_reason(
    trajectory: Trajectory, task: Task, hints: Hints, *, config: FilterConfig, context: int
) -> RejectReason | None:
    """Return the first reason for rejecting an episode; None if there is none."""
    if trajectory.failure is not None:
        return RejectReason.FAILED
    if trajectory.reward <= config.reward:
        return RejectReason.UNSOLVED
    if trajectory.stop is not Stop.DONE:
        return RejectReason.UNFINISHED
    if any(isinstance(c, BadCall) for turn in trajectory.turns for c in turn.message.calls):
        return RejectReason.UNREADABLE
    made = list(calls_made(trajectory))
    if tries_nothing(trajectory):
        return RejectReason.NO_TRIAL
    if made and made[-1].failed:
        return RejectReason.UNCORRECTED
    if goes_in_a_loop(made):
        return RejectReason.LOOP
    if leaks(trajectory, task, hints):
        return RejectReason.LEAK
    length = sum(len(t.rendered_ids) + len(t.completion.ids) for t in trajectory.turns)
    if len(trajectory.turns) > config.messages or length > (config.ids or context):
        return RejectReason.TOO_LONG
    return None


def tries_nothing(trajectory: Trajectory) -> bool:
    """Return whether an episode has a trial phase in which the teacher made no call."""
    trial = trajectory.outcome.trial
    return trial is not None and trial.trials == 0


def calls_made(trajectory: Trajectory) -> Iterator[Made]:
    """Yield the readable calls of an episode in order."""
    trial = trajectory.outcome.trial
    phases = trial.phases if trial else ()
    for index, turn in enumerate(trajectory.turns):
        answers = {reply.call_id: reply.content for reply in turn.replies}
        for call in turn.message.calls:
            if isinstance(call, ToolCall):
                yield Made(
                    phase=phases[index] if index < len(phases) else Phase.EXECUTION,
                    name=call.name,
                    key=call_key(call.name, call.arguments),
                    failed=tells_error(answers.get(call.id, "")),
                )


def goes_in_a_loop(made: Sequence[Made]) -> bool:
    """Return whether a call is repeated in its phase with no successful call in between."""
    last: dict[tuple[Phase, str], int] = {}
    for index, call in enumerate(made):
        before = last.get((call.phase, call.key))
        between = made[before + 1 : index] if before is not None else ()
        if before is not None and all(other.failed for other in between):
            return True
        last[call.phase, call.key] = index
    return False


def leaks(trajectory: Trajectory, task: Task, hints: Hints) -> bool:
    """Return whether the teacher mentions its hints, or a secret before it could know it."""
    known = " ".join(message.content for message in task.messages).casefold()
    known += " ".join(render_json(tool.schema) for tool in task.tools).casefold()
    secrets = [secret.casefold() for secret in hints.secrets if secret.strip()]
    for turn in trajectory.turns:
        said = said_in(turn.message).casefold()
        if TELLTALE in said or any(line.casefold() in said for line in hints.lines):
            return True
        if any(contains(said, secret) and not contains(known, secret) for secret in secrets):
            return True
        known = " ".join((known, said, *(reply.content.casefold() for reply in turn.replies)))
    return False


def said_in(message: Message) -> str:
    """Return all text of a message: its content, its thought, and its calls' values."""
    values = (
        value
        for call in message.calls
        if isinstance(call, ToolCall)
        for value in scalars(call.arguments)
    )
    return "\n".join((message.content, message.thinking, *values))


def contains(text: str, value: str) -> bool:
    """Return whether a text contains a value as whole words."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None

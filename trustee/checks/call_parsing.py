"""Check that the parser loses no calls: a second, simpler reader counts them again."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Protocol

from trustee.checks.config import GateConfig
from trustee.errors import RunError
from trustee.rendering.call_parser import CallFormat
from trustee.types import Message, Record, ToolCall, Trajectory

FEWEST_MESSAGES = 50
"""Minimum number of messages for comparing the parser with the second reader."""

_MARKS = ("<tool_call>", "<function=", "<|python_tag|>", "[TOOL_CALLS]")

_TAGGED = re.compile(r"<tool_call>.*?(?:</tool_call>|\Z)", re.DOTALL)
_LIST = re.compile(r"<tool_call>\s*\[")

_NAMED = re.compile(r'(?<!:)(?<!: )\{[^{}\[\]]*?"name"\s*:\s*"([^"]*)"')
_ARGUMENTS = re.compile(r'"(?:parameters|arguments)"\s*:')
_TAG_WITHOUT_JSON = re.compile(r"<\|python_tag\|>(?!\s*[\[{])")


class TextRenderer(Protocol):
    """The part of `rendering.Renderer` that a second reading needs."""

    call_format: CallFormat

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        ...


class CallCrosscheck(Record, frozen=True):
    """How often a second reader of the policy's text counts different calls from the parser."""

    differing: int
    """Number of messages whose counts differ."""
    total: int
    """Number of messages read."""
    example: str = ""
    """The first text that they read differently."""


def crosscheck_calls(
    text: str, message: Message, *, call_format: CallFormat, names: Collection[str] = ()
) -> bool:
    """Return whether a text has as many opening call markers as its message has calls, good or bad.

    Thoughts do not count, and a list after one marker may hold several calls. If the parser found
    no call, the text must not hold the marker of any model family. Markers inside strings are
    counted here, whereas the parser rightly ignores them. Where calls have no marker, an object
    counts that has one of `names`, the tools that were called elsewhere; without any, each that has
    a name and arguments.
    """
    spoken = text.rpartition("</think>")[2].partition("<think>")[0]
    calls = len(message.calls)
    if not calls and any(mark in spoken for mark in _MARKS):
        return False
    match call_format:
        case CallFormat.HERMES:
            marks = spoken.count("<tool_call>")
            if calls > marks > 0 and _LIST.search(spoken):
                return True
        case CallFormat.HERMES_OR_JSON:
            marks = spoken.count("<tool_call>")
            marks += _count_unmarked(_TAGGED.sub("", spoken), names)
            if calls > marks > 0 and _LIST.search(spoken):
                return True
        case CallFormat.LLAMA3_JSON:
            marks = _count_unmarked(spoken, names)
            marks += len(_TAG_WITHOUT_JSON.findall(spoken))
        case CallFormat.QWEN3_CODER:
            marks = max(spoken.count("<tool_call>"), spoken.count("<function="))
        case CallFormat.MISTRAL:
            lists = [
                [] if "[ARGS]" in part else _NAMED.findall(part)
                for part in spoken.split("[TOOL_CALLS]")[1:]
            ]
            marks = sum(max(1, sum(not names or name in names for name in one)) for one in lists)
    return marks == calls


def _count_unmarked(text: str, names: Collection[str]) -> int:
    named = _NAMED.findall(text)
    known = names or (named if _ARGUMENTS.search(text) else ())
    return sum(name in known for name in named)


def read_again(trajectories: Sequence[Trajectory], renderer: TextRenderer) -> CallCrosscheck:
    """Count the calls in all messages of a step a second time."""
    differing = total = 0
    example = ""
    names = {
        call.name
        for trajectory in trajectories
        for turn in trajectory.turns
        for call in turn.message.calls
        if isinstance(call, ToolCall)
    }
    for trajectory in trajectories:
        for turn in trajectory.turns:
            total += 1
            text = renderer.decode(turn.completion.ids)
            if not crosscheck_calls(
                text, turn.message, call_format=renderer.call_format, names=names
            ):
                differing += 1
                example = example or text
    return CallCrosscheck(differing=differing, total=total, example=example)


def check_reading(reading: CallCrosscheck, *, config: GateConfig) -> None:
    """Stop a run whose parser loses or invents calls.

    Raises:
        RunError: if the two readings differ too often, over at least `FEWEST_MESSAGES`.
    """
    if config.unread is None or reading.total < FEWEST_MESSAGES:
        return
    if reading.differing <= config.unread * reading.total:
        return
    raise RunError(
        f"in {reading.differing} of {reading.total} messages the parser found other calls than "
        f"there are marks of calls, and gates.unread allows {config.unread:.0%}; the policy would "
        "be scored for what it did not write, so check that the call format read is the model's "
        f"(model.call_format, or the chat template in model.path); the first such text is "
        f"{reading.example[:300]!r}"
    )

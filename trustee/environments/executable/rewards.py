"""Matching of call results with sub-answers, and the rewards: pure functions, nothing is executed.

A result is compared with the sub-answers that its tool still has to return and removes at most
one. `published` compares and pays exactly as FTRL's own code does. The default closes loopholes:

| loophole | published | default |
|---|---|---|
| an error text that contains the sub-answer | counts | only results of successful calls count |
| a result that repeats an argument | counts | a sub-answer among the call's arguments does not |
| "1" in "17", "art" in "party" | counts | whole words, and whole numbers by their value |
| an empty sub-answer | always found | never found |
| an unreadable call next to good ones | is ignored | counts as a call that found nothing |
| several good calls in one turn | up to 2, or n with recall | at most 1, see `PAYMENTS` |

Source: FTRL, arXiv 2508.08791; sections 3 and 4 for the rewards, its evaluation for the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from trustee.environments.executable.echoes import repeats
from trustee.environments.executable.matching import (
    holds_as_published,
    plain_as_published,
    tells,
)
from trustee.tools.values import tells_error
from trustee.types import BadCall, Message, Record

Variant = Literal["f1", "precision", "recall", "product"]
"""Reward rule for a turn with calls; `f1` is FTRL's choice, the others are its ablations."""

Unsolved = Mapping[str, Sequence[str]]
"""Sub-answers still to be returned, by the tool that must return them."""

EMPTY = -0.5
"""Reward of an answer with neither text nor call."""
UNREADABLE = -0.3
"""Reward of a turn in which no call can be read."""
WRONG = 0.5
"""Reward of a wrong answer after all sub-answers were returned."""

PUBLISHED: dict[Variant, Callable[[int, int, int], float]] = {
    "f1": lambda q, p, t: 2 * q / (p + 1),
    "precision": lambda q, p, t: q / p,
    "recall": lambda q, p, t: float(q),
    "product": lambda q, p, t: q * q / p,
}
"""Reward of p calls that found q of the t sub-answers still missing."""

PAYMENTS: dict[Variant, Callable[[int, int, int], float]] = {
    "f1": lambda q, p, t: 2 * q / (p + max(q, 1)),
    "precision": lambda q, p, t: q / p,
    "recall": lambda q, p, t: q / max(t, 1),
    "product": lambda q, p, t: q * q / (p * max(t, 1)),
}
"""Like `PUBLISHED`, but never above 1, because q is at most p and at most t.

FTRL's f1 is a mean of precision q/p and completeness, with one sub-answer expected per turn. Here
as many are expected as were found, and at least one: the same as FTRL's if q is 0 or 1, and 1 for
any number of calls that each find one.
"""

_CALL_MARKS = ("<tool_call>", "</tool_call>", "<tool_parsed_response>")


class Observation(Record, frozen=True):
    """Result of one call."""

    name: str
    arguments: dict[str, Any]
    text: str
    ok: bool
    """Whether the call succeeded; an error is an observation too."""


class Match(Record, frozen=True):
    """Sub-answer found by one observation."""

    found: str | None
    """The sub-answer; None if the observation contained none that was missing."""
    unsolved: dict[str, tuple[str, ...]]
    """Sub-answers still missing afterwards."""


class SolveRates(Record, frozen=True):
    """Solve rates of a whole episode."""

    precision: float
    recall: float
    f1: float


def match(observation: Observation, unsolved: Unsolved, *, published: bool = False) -> Match:
    """Return the first missing sub-answer that the observation holds, and what is left."""
    answers = tuple(unsolved.get(observation.name, ()))
    for index, answer in enumerate(answers):
        if solves(observation, answer, published=published):
            left = answers[:index] + answers[index + 1 :]
            rest = {name: tuple(own) for name, own in unsolved.items()}
            return Match(found=answer, unsolved={**rest, observation.name: left})
    return Match(found=None, unsolved={name: tuple(own) for name, own in unsolved.items()})


def solves(observation: Observation, answer: str, *, published: bool = False) -> bool:
    """Whether a call's result tells a sub-answer that its own arguments do not tell."""
    if published:
        return holds_as_published(observation.text, answer)
    if not observation.ok or tells_error(observation.text):
        return False
    return tells(observation.text, answer) and not repeats(observation.arguments, answer)


def count_unsolved(unsolved: Unsolved) -> int:
    """Return the number of missing sub-answers."""
    return sum(map(len, unsolved.values()))


def pay_turn(
    message: Message,
    solved: int,
    unsolved: Unsolved,
    answer: str | None,
    *,
    variant: Variant = "f1",
    published: bool = False,
) -> float:
    """Return the reward of one policy message, which is FTRL's step.

    With calls: by `variant`. Without: -0.5 for an empty message, -0.3 if no call is readable,
    1/(1 + t) for the right answer, 0.5 for a wrong one when no sub-answer is missing, else 0.

    Args:
        message: Message of the policy.
        solved: Number of sub-answers that its calls found.
        unsolved: Sub-answers missing before the message.
        answer: Final answer; None if unknown.
        variant: Reward rule for calls.
        published: Whether to pay exactly as FTRL does.
    """
    readable = sum(not isinstance(call, BadCall) for call in message.calls)
    left = count_unsolved(unsolved)
    if readable:
        calls = readable if published else len(message.calls)
        return (PUBLISHED if published else PAYMENTS)[variant](solved, calls, left)
    said = f"{message.thinking}{message.content}" if published else message.content
    if not said and not message.calls:
        return EMPTY
    if message.calls or any(mark in said for mark in _CALL_MARKS):
        return UNREADABLE
    if answer is not None and _answers(said, answer, published=published):
        return 1 / (1 + left)
    return 0.0 if left else WRONG


def pay_episode(
    message: Message | None,
    *,
    solved: int,
    readable: int,
    unreadable: int = 0,
    needed: int,
    answer: str | None,
    variant: Variant = "f1",
    published: bool = False,
) -> dict[str, float]:
    """Return the parts of a whole episode's reward: for its calls and for its answer.

    One half of F = 2q/(p + n) is for the calls, the other for the right final answer. A reward of 1
    means all n sub-answers without a superfluous call, and the right answer; an answer that is not
    based on calls pays nothing. Other variants replace F by q/p, q/n or their product. Without a
    readable call the parts are those of one turn that found nothing: -0.5 for an empty message,
    -0.3 if there were only unreadable calls, else 0.

    Args:
        message: Answer that ended the episode; None if a limit ended it.
        solved: q, number of sub-answers found.
        readable: Number of readable calls.
        unreadable: Number of unreadable calls; p counts both, in published mode only readable ones.
        needed: n, number of sub-answers at the start.
        answer: Final answer; None if unknown.
        variant: Reward rule for calls.
        published: Whether texts are compared exactly as FTRL does.
    """
    if not readable:
        silent = message is not None and not message.content
        return {"calls": UNREADABLE if unreadable else EMPTY if silent else 0.0, "answer": 0.0}
    calls = readable + (0 if published else unreadable)
    rates = solve(solved=solved, calls=calls, needed=needed)
    share = {
        "f1": rates.f1,
        "precision": rates.precision,
        "recall": rates.recall,
        "product": rates.precision * rates.recall,
    }[variant]
    right = message is not None and is_right(message, answer, published=published)
    return {"calls": share / 2, "answer": share / 2 if right else 0.0}


def is_right(message: Message, answer: str | None, *, published: bool = False) -> bool:
    """Whether a message without calls gives the final answer."""
    return answer is not None and _answers(message.content, answer, published=published)


def solve(*, solved: int, calls: int, needed: int) -> SolveRates:
    """Return Solve-P, Solve-R and Solve-F1 of an episode.

    Without calls Solve-P is 1, so report it only together with the number of calls.
    """
    return SolveRates(
        precision=solved / calls if calls else 1.0,
        recall=solved / needed if needed else 1.0,
        f1=2 * solved / (calls + needed) if calls + needed else 1.0,
    )


def _answers(said: str, answer: str, *, published: bool) -> bool:
    return (
        plain_as_published(answer) in plain_as_published(said) if published else tells(said, answer)
    )

"""Which sub-answers the results of calls brought, and what that pays: pure, nothing is executed.

The one idea: a result is held against the sub-answers that its tool still owes, and removes at most
one. `published` compares and pays exactly as FTRL's own code does. The default closes its holes:

| hole | published | default |
|---|---|---|
| an error text that holds the sub-answer | counts | only results of calls that ran well count |
| a result that repeats an argument | counts | a sub-answer among the call's arguments does not |
| "1" in "17", "art" in "party" | counts | whole words, and whole numbers by their value |
| an empty sub-answer | always there | never there |
| a call that nobody can read beside good ones | is not counted | is a call that brought nothing |
| several good calls in one turn | up to 2, and n where recall pays | 1 at most, see `PAYMENTS` |

Source: FTRL, arXiv 2508.08791; sections 3 and 4 for the rewards, its evaluation for the figures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from trustee.types import BadCall, Message, Record

Variant = Literal["f1", "precision", "recall", "product"]
"""What a turn with calls is paid by; `f1` is FTRL's choice, the others are its ablation."""

Unsolved = Mapping[str, Sequence[str]]
"""Sub-answers still to be brought, by the tool that must bring them."""

EMPTY = -0.5
"""Pays an answer without a word."""
UNREADABLE = -0.3
"""Pays a turn whose every call cannot be read."""
WRONG = 0.5
"""Pays an answer that is not the right one after everything was brought."""

PUBLISHED: dict[Variant, Callable[[int, int, int], float]] = {
    "f1": lambda q, p, t: 2 * q / (p + 1),
    "precision": lambda q, p, t: q / p,
    "recall": lambda q, p, t: float(q),
    "product": lambda q, p, t: q * q / p,
}
"""Reward of p calls that brought q of the t sub-answers that were owed."""

PAYMENTS: dict[Variant, Callable[[int, int, int], float]] = {
    "f1": lambda q, p, t: 2 * q / (p + max(q, 1)),
    "precision": lambda q, p, t: q / p,
    "recall": lambda q, p, t: q / max(t, 1),
    "product": lambda q, p, t: q * q / (p * max(t, 1)),
}
"""As `PUBLISHED`, never above 1 because q is at most p and at most t.

FTRL's f1 is a mean of precision q/p and of completeness, with one sub-answer due in a turn. Here as
many are due as were brought, and at least one: equal to FTRL's where q is 0 or 1, and 1 for any
number of calls that each bring one.
"""

_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # scripts that put no space between words
    r"|(?:(?<!\w)[-\u2212])?[0-9]+(?:\.[0-9]+)?"
    r"|[^\W\d]\w*|\d+"
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_CALL_MARKS = ("<tool_call>", "</tool_call>", "<tool_parsed_response>")


class Observation(Record, frozen=True):
    """What came of one call."""

    name: str
    arguments: dict[str, Any]
    text: str
    ok: bool
    """Whether the call ran well; an error is an observation too."""


class Match(Record, frozen=True):
    """What one observation brought."""

    found: str | None
    """The sub-answer; None where it brought none that was owed."""
    unsolved: dict[str, tuple[str, ...]]
    """What is owed from here on."""


class SolveRates(Record, frozen=True):
    """The figures of a whole episode."""

    precision: float
    recall: float
    f1: float


def match(observation: Observation, unsolved: Unsolved, *, published: bool = False) -> Match:
    """Remove the first sub-answer that the observation holds from what its tool owes."""
    answers = tuple(unsolved.get(observation.name, ()))
    for index, answer in enumerate(answers):
        if solves(observation, answer, published=published):
            left = answers[:index] + answers[index + 1 :]
            rest = {name: tuple(own) for name, own in unsolved.items()}
            return Match(found=answer, unsolved={**rest, observation.name: left})
    return Match(found=None, unsolved={name: tuple(own) for name, own in unsolved.items()})


def solves(observation: Observation, answer: str, *, published: bool = False) -> bool:
    """Say whether a call's result holds a sub-answer, and holds it by its own merit."""
    if published:
        return holds_as_published(observation.text, answer)
    if not observation.ok or not tells(observation.text, answer):
        return False
    said = [text for value in observation.arguments.values() for text in _spoken(value)]
    return not tells(" ".join(said), answer)


def holds_as_published(text: str, answer: str) -> bool:
    """Say whether FTRL finds an answer: each of its `, `-parts stands somewhere in the text.

    Neither case nor commas count; `12` stands in `3123`, and nothing stands in everything.
    """
    plain = _plain(text)
    return all(_plain(part) in plain for part in answer.split(", "))


def tells(text: str, answer: str) -> bool:
    """Say whether each `, `-part of an answer stands in the text in whole words and numbers.

    Neither case nor punctuation counts, and numbers are compared by value: `1,234` is `1234.0`. A
    part without a letter or digit must stand there as it is.
    """
    words = _words(text)
    parts = [part.strip() for part in answer.split(", ")]
    return all(parts) and all(_has(words, text, part) for part in parts)


def count_unsolved(unsolved: Unsolved) -> int:
    """Count the sub-answers that are owed."""
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
    """Give the reward of one policy message, FTRL's step.

    Calls: by `variant`. No calls: -0.5 where nothing is said, -0.3 where every call is unreadable,
    1/(1 + t) for the right answer, 0.5 for another once nothing is owed, else 0.

    Args:
        message: What the policy said.
        solved: Sub-answers that its calls brought.
        unsolved: What was owed before it.
        answer: The final answer; None where none is known.
        variant: What pays calls.
        published: Exactly as FTRL.
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
    """Give the reward of a whole episode in parts: what its calls brought, and the answer.

    Half of F = 2q/(p + n) is for the calls, the other half for the right answer at the end: so 1 is
    all n sub-answers with not one call too many and the right answer, and an answer out of the
    policy's own head pays nothing. Other variants put q/p, q/n or their product for F. Without a
    readable call the parts are those of a single turn that brought nothing: -0.5 for silence, -0.3
    where there were calls but none could be read, else 0.

    Args:
        message: The answer that ended the episode; None where a limit ended it.
        solved: q, sub-answers brought.
        readable: Calls that could be read.
        unreadable: The others; p counts both, and in the published mode only the former.
        needed: n, sub-answers owed at the start.
        answer: The final answer.
        variant: What pays calls.
        published: How texts are compared.
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
    """Say whether a message without calls gives the final answer."""
    return answer is not None and _answers(message.content, answer, published=published)


def solve(*, solved: int, calls: int, needed: int) -> SolveRates:
    """Give Solve-P, Solve-R and Solve-F1 of an episode.

    Without a call Solve-P is 1: report it only beside the number of calls.
    """
    return SolveRates(
        precision=solved / calls if calls else 1.0,
        recall=solved / needed if needed else 1.0,
        f1=2 * solved / (calls + needed) if calls + needed else 1.0,
    )


def _answers(said: str, answer: str, *, published: bool) -> bool:
    return _plain(answer) in _plain(said) if published else tells(said, answer)


def _plain(text: str) -> str:
    return text.lower().replace(",", "").strip()


def _words(text: str) -> list[str]:
    """Split into words in lower case and numbers written in one way."""
    tokens = _TOKEN.findall(_THOUSANDS.sub("", text.casefold()))
    return [_number(token) if token[-1:].isdigit() else token for token in tokens]


def _number(token: str) -> str:
    """Write a number without zeros that say nothing; a word that ends in a digit stays."""
    digits = token.lstrip("-\u2212")
    if not digits[0].isdigit():
        return token
    whole, _, rest = digits.partition(".")
    rest = rest.rstrip("0")
    value = (whole.lstrip("0") or "0") + (f".{rest}" if rest else "")
    return f"-{value}" if digits != token and value != "0" else value


def _has(words: Sequence[str], text: str, part: str) -> bool:
    wanted = _words(part)
    if not wanted:
        return part in text
    # Marks around each word make a search in one text a search for whole words.
    return f" {' '.join(wanted)} " in f" {' '.join(words)} "


def _spoken(value: Any) -> list[str]:
    """List the texts and numbers of an argument; true, false and null tell nothing."""
    if isinstance(value, Mapping):
        return [text for key, own in value.items() for text in (str(key), *_spoken(own))]
    if isinstance(value, list | tuple):
        return [text for own in value for text in _spoken(own)]
    return [] if value is None or isinstance(value, bool) else [str(value)]

"""What code can put together for the judge: what ran, what it returned, and what was told of it.

Code takes the goal apart into its expected calls, puts beside each what ran and what came back, and
looks up which returned values occur in the assistant's words. It refuses by itself what no judge
could accept: a number that only the assistant knows, and a part in whose place nothing ran.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from trustee.decoding import decode_json
from trustee.environments.simulated.facts import Executed, Facts, fits
from trustee.environments.simulated.quoting import quote, quote_call, quote_result
from trustee.environments.simulated.spoken import (
    NUMBER,
    Sayable,
    contains_value,
    known_numbers,
    name_sayable,
    normalise_number,
)
from trustee.tools.values import call_line, normalise, render_json
from trustee.types import ExpectedCall, Message, Record, ToolCall, Turn

SPACED = re.compile(r"\d+(?:[ -]\d+){2,}")
"""A long number in groups, as of a telephone or a card."""
CURRENCY = re.compile(
    r"\b(?:AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HKD|HUF|INR|JPY|KRW|MXN|NOK|NZD|PLN|SEK|SGD|TRY|USD"
    r"|ZAR)\b"
)
SHOWN_VALUES = 12
"""Values of one result that are looked up in the assistant's words."""
LONGEST_VALUE = 40
"""Characters of the longest text that is looked up."""


class Part(Record, frozen=True):
    """One part of the goal: an expected call, and what happened to it."""

    asked: str
    ran: bool
    result: str
    """What the call returned; empty if it did not run."""
    told: tuple[str, ...]
    """Values of the result that occur in the assistant's words, each with its name."""
    untold: tuple[str, ...]
    """Values of the result that do not."""
    replaceable: bool
    """Whether another call that ran may have done the same."""


class Evidence(Record, frozen=True):
    """What code has put together for the judge."""

    parts: tuple[Part, ...]
    others: tuple[str, ...]
    """Calls that worked and were not expected, with their results."""
    changes: tuple[str, ...]
    """Those of them that may have changed something."""
    invented: tuple[str, ...]
    """Numbers and currencies that the assistant said and nobody else."""


class _Record(Record, frozen=True):
    """What happened in an episode, as far as parts are compared with it."""

    worked: tuple[Executed, ...]
    unexpected: tuple[ToolCall, ...]
    writes: frozenset[str]
    words: str
    """What the assistant said."""
    intent: str
    known: str
    """What intent, user, calls and results say."""


def collect_evidence(
    facts: Facts,
    executed: Sequence[Executed],
    *,
    opening: Sequence[Message],
    turns: Sequence[Turn],
    intent: str,
    writes: frozenset[str],
) -> Evidence:
    """Put beside each expected call what ran, and look up its result in what was told."""
    words = " ".join(turn.message.content for turn in turns)
    known = [intent, *(m.content for m in opening if m.role == "user")]
    known += [m.content for turn in turns for m in turn.replies]
    for entry in executed:
        known += [render_json(entry.call.arguments), entry.result]
    record = _Record(
        worked=tuple(entry for entry in executed if entry.ok),
        unexpected=facts.unexpected,
        writes=writes,
        words=words,
        intent=intent,
        known=" ".join(known),
    )
    runs = [(call, _find_run(call, record)) for call in facts.expected]
    final = [(call, at) for call, at in runs if at is None or not _serves(at, record)]
    stood_in = {id(record.worked[at].call) for _, at in runs if at is not None}
    rest = [
        entry
        for entry in record.worked
        if any(entry.call is call for call in facts.unexpected) and id(entry.call) not in stood_in
    ]
    return Evidence(
        parts=tuple(_describe_part(call, at, record) for call, at in final or runs),
        others=tuple(f"{quote_call(e.call)} -> {quote_result(e.result)}" for e in rest),
        changes=tuple(quote_call(e.call) for e in rest if e.call.name in writes),
        invented=find_invented(words, record.known),
    )


def _find_run(expected: ExpectedCall, record: _Record) -> int | None:
    """Return the last call that did what is expected, also one that left arguments out.

    Of equal calls, the last one shows the current state.
    """
    for fitting in (fits, lambda call, wanted: _comes_close(call, wanted, record.known)):
        for at in range(len(record.worked) - 1, -1, -1):
            if fitting(record.worked[at].call, expected):
                return at
    return None


def _comes_close(call: ToolCall, expected: ExpectedCall, known: str) -> bool:
    """Whether a call of the expected tool has no other value where the expected one was known."""
    return call.name == expected.name and not any(
        name in call.arguments
        and normalise(call.arguments[name]) != normalise(value)
        and any(contains_value(known, part) for part in _list_values(value))
        for name, value in expected.arguments.items()
    )


def _serves(at: int, record: _Record) -> bool:
    """Whether a call only found out a value, such as an id, that a later call used."""
    found = {str(value) for _, value in _name_values(_read(record.worked[at].result))}
    used = {
        str(value)
        for entry in record.worked[at + 1 :]
        for value in _list_values(entry.call.arguments)
    }
    return any(not contains_value(record.intent, value) for value in found & used)


def _describe_part(call: ExpectedCall, at: int | None, record: _Record) -> Part:
    asked = call_line(call.name, call.arguments)
    if at is None:
        writes = call.name in record.writes
        others = [c for c in record.unexpected if c.name != call.name]
        return Part(
            asked=asked,
            ran=False,
            result="",
            told=(),
            untold=(),
            replaceable=any((other.name in record.writes) == writes for other in others),
        )
    result = record.worked[at].result
    values = list(dict.fromkeys(_name_values(_read(result))))[:SHOWN_VALUES]
    said = [contains_value(record.words, value) for _, value in values]
    lines = [quote(f"{name} {value}".strip()) for name, value in values]
    return Part(
        asked=asked,
        ran=True,
        result=quote_result(result),
        told=tuple(line for line, there in zip(lines, said, strict=True) if there),
        untold=tuple(line for line, there in zip(lines, said, strict=True) if not there),
        replaceable=False,
    )


def _read(result: str) -> Any:
    try:
        return decode_json(result, error=ValueError)
    except ValueError:
        return None


def _list_values(value: Any) -> list[Sayable]:
    return [inner for _, inner in _name_values(value)]


def _name_values(value: Any) -> list[tuple[str, Sayable]]:
    """Return the values that can be looked up, each with the name of its field: short ones."""
    return [
        (name, inner)
        for name, inner in name_sayable(value)
        if not isinstance(inner, str) or 0 < len(inner) <= LONGEST_VALUE
    ]


def refuse_without_judge(evidence: Evidence) -> str | None:
    """Return why an episode has failed whatever a judge may say; None if a judge must be asked."""
    if evidence.invented:
        return f"only the assistant says: {', '.join(evidence.invented)}"
    missing = [part.asked for part in evidence.parts if not (part.ran or part.replaceable)]
    if missing:
        return f"did not run, nor did anything in its place: {'; '.join(missing)}"
    return None


def find_invented(words: str, known: str) -> tuple[str, ...]:
    """Return numbers and currencies of a text that occur nowhere else and follow from no others.

    Small counts, sums, differences, products and percentages of known numbers are not inventions.
    """
    there = known_numbers(known)
    digits = _keep_digits(known)
    words = SPACED.sub(lambda run: "" if _keep_digits(run[0]) in digits else run[0], words)
    amounts = {abs(float(number)) for number in there if _is_amount(number)}
    derived = {round(100 * a, 6) for a in amounts} | {
        round(value, 6)
        for a, b in combinations(sorted(amounts)[:60], 2)
        for value in (a + b, b - a, a * b)
    }
    currencies = [code for code in dict.fromkeys(CURRENCY.findall(words)) if code not in known]
    return tuple(currencies) + tuple(
        token
        for token in dict.fromkeys(NUMBER.findall(words))
        if (number := normalise_number(token)) not in there
        and not (len(token) >= 4 and _keep_digits(token) in digits)
        and not (_is_amount(number) and (float(number) in derived or float(number) <= 2))
    )


def _keep_digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _is_amount(number: str) -> bool:
    try:
        float(number)
    except ValueError:
        return False
    return True

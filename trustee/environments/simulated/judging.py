"""Judging part by part: code says what ran and what it returned, the judge compares what was told.

A small judge that is asked for one verdict repeats what the assistant says and believes it. So code
takes the goal apart into its expected calls, puts beside each what ran and what came back, and
looks up which returned values occur in the assistant's words. The judge answers one question for
each part: what was told about it, and does that agree? Code then puts the answers together.
Measured in `bench/real_roles.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from trustee.decoding import decode_json
from trustee.environments.prompts import fill_prompt
from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.facts import Executed, Facts, fits
from trustee.environments.simulated.grammar import object_grammar, text_grammar
from trustee.environments.simulated.quoting import quote, quote_call, quote_result
from trustee.environments.simulated.roles import dialogue_lines
from trustee.environments.simulated.spoken import (
    NUMBER,
    contains_value,
    known_numbers,
    normalise_number,
)
from trustee.tools.values import call_line, render_json
from trustee.types import ExpectedCall, Message, Record, Turn

SPACED = re.compile(r"\d+(?:[ -]\d+){2,}")
"""A long number in groups, as of a telephone or a card."""
SHOWN_VALUES = 12
"""Values of one result that are looked up in the assistant's words."""


class Part(Record, frozen=True):
    """One part of the goal: an expected call, and what happened to it."""

    asked: str
    ran: bool
    result: str
    """What the call returned; empty if it did not run."""
    told: tuple[str, ...]
    """Values of the result that occur in the assistant's words."""
    untold: tuple[str, ...]
    """Values of the result that do not."""


class Evidence(Record, frozen=True):
    """What code has put together for the judge."""

    parts: tuple[Part, ...]
    others: tuple[str, ...]
    """Calls that worked and were not expected, with their results."""
    changes: tuple[str, ...]
    """Those of them that may have changed something."""
    invented: tuple[str, ...]
    """Numbers that the assistant said and nobody else."""


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
    worked = [entry for entry in executed if entry.ok]
    pairs = list(zip(facts.expected, facts.made, strict=True))
    final = [pair for pair in pairs if not (pair[1] and _serves(pair[0], worked, intent))]
    parts = [_describe_part(call, made, worked, words) for call, made in final or pairs]
    others = [
        f"{quote_call(call)} -> {quote_result(entry.result)}"
        for call in facts.unexpected
        for entry in [next(e for e in worked if e.call is call or e.call == call)]
    ]
    said = [m.content for m in opening if m.role == "user"]
    said += [m.content for turn in turns for m in turn.replies]
    known = [intent, *said]
    for entry in executed:
        known += [render_json(entry.call.arguments), entry.result]
    return Evidence(
        parts=tuple(parts),
        others=tuple(others),
        changes=tuple(quote_call(call) for call in facts.unexpected if call.name in writes),
        invented=find_invented(words, " ".join(known)),
    )


def _describe_part(call: ExpectedCall, made: bool, worked: Sequence[Executed], words: str) -> Part:
    asked = call_line(call.name, call.arguments)
    if not made:
        return Part(asked=asked, ran=False, result="", told=(), untold=())
    # Of equal calls, the last one shows the current state.
    entry = next(entry for entry in reversed(worked) if fits(entry.call, call))
    values = list(dict.fromkeys(_list_values(entry.result)))[:SHOWN_VALUES]
    return Part(
        asked=asked,
        ran=True,
        result=quote_result(entry.result),
        told=tuple(quote(str(v)) for v in values if contains_value(words, v)),
        untold=tuple(quote(str(v)) for v in values if not contains_value(words, v)),
    )


def _serves(call: ExpectedCall, worked: Sequence[Executed], intent: str) -> bool:
    """Whether an expected call only found out a value, such as an id, that a later call used."""
    at = next(index for index, entry in enumerate(worked) if fits(entry.call, call))
    found = {str(value) for value in _list_values(worked[at].result)}
    used = {
        str(value) for entry in worked[at + 1 :] for value in _flatten_value(entry.call.arguments)
    }
    return any(not contains_value(intent, value) for value in found & used)


def _list_values(result: str) -> list[str | int | float]:
    """Return the short plain values of a result; the only ones that can be looked up."""
    try:
        value = decode_json(result, error=ValueError)
    except ValueError:
        return []
    return [v for v in _flatten_value(value) if not isinstance(v, str) or 0 < len(v) <= 40]


def _flatten_value(value: Any) -> list[str | int | float]:
    match value:
        case bool() | None:
            return []
        case dict():
            return [inner for part in value.values() for inner in _flatten_value(part)]
        case list():
            return [inner for part in value for inner in _flatten_value(part)]
        case _:
            return [value]


def find_invented(words: str, known: str) -> tuple[str, ...]:
    """Return the numbers of a text that occur nowhere else and follow from no two that do.

    Small counts, sums, differences, products and percentages of known numbers are no inventions.
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
    return tuple(
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


def refuse_without_judge(evidence: Evidence) -> str | None:
    """Return why an episode has failed whatever a judge may say; None if a judge must be asked."""
    if evidence.invented:
        return f"numbers that only the assistant said: {', '.join(evidence.invented)}"
    missing = [part.asked for part in evidence.parts if not part.ran]
    if missing and not evidence.others:
        return f"did not run, nor did anything in its place: {'; '.join(missing)}"
    return None


def judging_schema(evidence: Evidence, criteria: Sequence[Criterion]) -> str:
    """Return the grammar: for each part what was told and whether it agrees, then the criteria."""
    answer = object_grammar({"told": text_grammar(240), "agrees": {"type": "boolean"}})
    parts = {f"part_{number}": answer for number, _ in enumerate(evidence.parts, 1)}
    needed = {f"needed_{n}": {"type": "boolean"} for n, _ in enumerate(evidence.changes, 1)}
    asked = {c.value: {"type": "boolean"} for c in criteria if c is not Criterion.FULFILLED}
    return render_json(object_grammar(parts | needed | asked))


def judging_prompt(
    prompt_set: str,
    evidence: Evidence,
    *,
    opening: Sequence[Message],
    turns: Sequence[Turn],
    intent: str,
    criteria: Sequence[Criterion],
) -> str:
    """Fill the judge's prompt."""
    further = [c.value for c in criteria if c is not Criterion.FULFILLED]
    return fill_prompt(
        prompt_set,
        "judge",
        intent=intent,
        dialogue=dialogue_lines(
            [*opening, *(m for turn in turns for m in (turn.message, *turn.replies))]
        ),
        parts="\n".join(_part_lines(n, part) for n, part in enumerate(evidence.parts, 1)),
        others="\n".join(f"- {line}" for line in evidence.others) or "none",
        changes="\n".join(f"needed_{n}: {line}" for n, line in enumerate(evidence.changes, 1))
        or "none",
        criteria=", ".join(further) or "none",
    )


def _part_lines(number: int, part: Part) -> str:
    if not part.ran:
        return (
            f"part_{number}. Wanted: {part.asked}\n"
            "   Did not run with these values. Another call below may have done the same."
        )
    return (
        f"part_{number}. Wanted: {part.asked}\n"
        f"   Ran, and returned: {part.result}\n"
        f"   Returned values that the assistant said: {', '.join(part.told) or 'none'}\n"
        f"   Returned values that the assistant did not say: {', '.join(part.untold) or 'none'}"
    )


def read_verdict(
    answer: Mapping[str, Any], evidence: Evidence, criteria: Sequence[Criterion]
) -> tuple[str, dict[Criterion, bool]]:
    """Put the judge's small answers together; return a readable account and the verdict."""
    parts = [answer[f"part_{number}"] for number, _ in enumerate(evidence.parts, 1)]
    needed = [bool(answer[f"needed_{n}"]) for n, _ in enumerate(evidence.changes, 1)]
    account = [
        f"{number}. {part.asked}: {'ran' if part.ran else 'did not run'}; told: {given['told']}; "
        f"{'agrees' if given['agrees'] else 'does not agree'}"
        for number, (part, given) in enumerate(zip(evidence.parts, parts, strict=True), 1)
    ]
    account += [
        f"{line}: {'needed' if there else 'not needed'}"
        for line, there in zip(evidence.changes, needed, strict=True)
    ]
    agreed = [given["agrees"] and not _is_nothing(given["told"]) for given in parts]
    fulfilled = all(agreed) and all(needed)
    verdict = {
        c: fulfilled if c is Criterion.FULFILLED else bool(answer[c.value]) for c in criteria
    }
    return "\n".join(account), verdict


def _is_nothing(told: str) -> bool:
    return told.strip(" .").casefold() in NOTHING


NOTHING = frozenset({"", "nothing", "none", "n/a", "null"})
"""What the judge writes where the assistant told nothing."""

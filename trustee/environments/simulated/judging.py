"""Judging part by part: code says what ran and what it returned, the judge compares what was told.

A small judge that is asked for one verdict repeats what the assistant says and believes it. Here it
answers one question for each part of the goal: what was told about it, and does that agree with
what was returned? Code then puts the answers together. Measured in `bench/real_roles.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trustee.environments.prompts import fill_prompt
from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.evidence import Evidence, Part
from trustee.environments.simulated.grammar import object_grammar, text_grammar
from trustee.environments.simulated.roles import dialogue_lines
from trustee.tools.values import render_json
from trustee.types import Message, Turn


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
            "   Did not run. Another call below may have done the same."
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

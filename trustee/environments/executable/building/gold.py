"""Gold calls: every value in them comes from the question or from an earlier answer.

The policy cannot pass values that it cannot know, so an argument's value must occur in the question
or in an answer that the part needs. Only options, booleans and defaults may come from the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trustee.environments.executable.blueprint import GoldCall
from trustee.environments.executable.building.candidate import Decomposition, Flaw
from trustee.environments.executable.matching import says
from trustee.environments.executable.rewards import Observation, solves
from trustee.tools.arguments import check_arguments
from trustee.tools.schema import Schema, leaves, members
from trustee.types import Record, Tool


class Arguments(Record, frozen=True):
    """The builder's answer."""

    arguments: dict[str, Any]


def check_call(
    arguments: Mapping[str, Any], tool: Tool, parts: Decomposition, number: int
) -> Flaw | None:
    """Return a flaw if arguments do not fit, have no known origin, or contain the answer."""
    error = check_arguments(tool, dict(arguments))
    if error is not None:
        return Flaw(kind="arguments", text=error)
    known = parts.known(number)
    unknown = [
        value
        for schema, value in leaves(tool.parameters, arguments)
        if not is_offered(schema, value) and not says(known, value)
    ]
    if unknown:
        return Flaw(
            kind="origin",
            text=f"the call of {tool.name} holds {unknown}, which neither the question nor an "
            "answer it needs says",
        )
    answer = parts.parts[number - 1].answer
    echo = Observation(name=tool.name, arguments=dict(arguments), text=answer, ok=True)
    if not solves(echo, answer):
        return Flaw(
            kind="echo", text=f"the call of {tool.name} already holds its answer {answer!r}"
        )
    unused = [
        need
        for need in parts.parts[number - 1].needs
        if not any(
            says(parts.parts[need - 1].answer, value)
            for _, value in leaves(tool.parameters, arguments)
        )
    ]
    if unused:
        return Flaw(
            kind="independent",
            text=f"the call of {tool.name} needs the answers of parts {unused} but passes no value "
            "of theirs",
        )
    return None


def is_offered(schema: Schema, value: Any) -> bool:
    """Return whether a value is given in the schema."""
    given = [*members(schema, "enum"), schema.get("default"), schema.get("const")]
    return isinstance(value, bool) or value in given


def check_calls(calls: tuple[GoldCall, ...]) -> Flaw | None:
    """Return a flaw if two parts have the same call, which would be rewarded only once."""
    seen = [(call.name, sorted(call.arguments.items(), key=str)) for call in calls]
    twice = sorted({name for name, arguments in seen if seen.count((name, arguments)) > 1})
    return Flaw(kind="same_call", text=f"parts share one call of {twice}") if twice else None

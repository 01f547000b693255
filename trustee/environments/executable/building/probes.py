"""Probe calls that test a tool: correct, wrong and unrelated ones.

Pure: this module plans the calls from schemas and gold calls and judges their results;
`verification` runs them in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from trustee.environments.executable.blueprint import GoldCall
from trustee.environments.executable.building.candidate import Flaw
from trustee.environments.executable.echoes import repeats
from trustee.environments.executable.matching import tells
from trustee.sandbox.calls import CallResult
from trustee.tools.arguments import check_arguments
from trustee.tools.schema import (
    Schema,
    follow,
    leaves,
    members,
    properties_of,
    property_of,
    required_of,
    types_of,
)
from trustee.tools.values import render_json, tells_error
from trustee.types import Record, Tool

STRANGE = "zz unknown 7"
"""A value that no lookup contains."""
SURPRISE = "surplus_option"
"""A parameter that no tool has."""
UNRELATED_CALLS = 6
"""Attempted calls of each tool with values that are not meant for it."""
SHOWN_LENGTH = 120
"""Maximum number of characters of a result in a flaw."""


class ProbeCall(Record, frozen=True):
    """One call and its expected result."""

    kind: Literal["gold", "missing", "unknown", "type", "value", "echo", "unrelated"]
    name: str
    arguments: dict[str, Any]
    subject: str = ""
    """Name of the wrong parameter."""
    gold: int = 0
    """Index of the gold call it was made from."""
    fails: bool = False
    """Whether it must return an error."""


def plan_probes(tools: Sequence[Tool], gold: Sequence[GoldCall]) -> list[ProbeCall]:
    """Return the calls that test an environment; the gold calls come first, in order."""
    by_name = {tool.name: tool for tool in tools}
    probes = [
        ProbeCall(kind="gold", name=call.name, arguments=call.arguments, gold=number)
        for number, call in enumerate(gold)
    ]
    for number, call in enumerate(gold):
        probes += spoil_call(by_name[call.name], call, number)
    for tool in tools:
        probes += plan_unrelated(tool, gold)
    return probes


def spoil_call(tool: Tool, call: GoldCall, number: int) -> Iterator[ProbeCall]:
    """Yield wrong variants of a gold call."""
    required = required_of(tool.parameters)
    for name in required:
        left = {key: value for key, value in call.arguments.items() if key != name}
        yield _probe("missing", call, left, subject=name, gold=number, fails=True)
    more = call.arguments | {SURPRISE: 1}
    yield _probe("unknown", call, more, subject=SURPRISE, gold=number, fails=True)
    for name, value in call.arguments.items():
        spoiled = call.arguments | {name: {"value": value}}
        yield _probe("type", call, spoiled, subject=name, gold=number, fails=True)
        if name in required:
            wrong = replace_value(property_of(tool.parameters, name, tool.parameters), value)
            strange = STRANGE in (wrong, *(wrong if isinstance(wrong, list) else ()))
            spoiled = call.arguments | {name: wrong}
            yield _probe("value", call, spoiled, subject=name, gold=number, fails=strange)
    for name, schema in properties_of(tool.parameters).items():
        if "string" in (types_of(schema, tool.parameters) or ()) and "enum" not in schema:
            echoed = call.arguments | {name: call.answer}
            yield _probe("echo", call, echoed, subject=name, gold=number)


def _probe(
    kind: Literal["missing", "unknown", "type", "value", "echo"],
    call: GoldCall,
    arguments: dict[str, Any],
    *,
    subject: str,
    gold: int,
    fails: bool = False,
) -> ProbeCall:
    return ProbeCall(
        kind=kind, name=call.name, arguments=arguments, subject=subject, gold=gold, fails=fails
    )


def replace_value(schema: Schema, value: Any) -> Any:
    """Return another value of the same type."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 7919
        case list():
            return [STRANGE]
        case _:
            others = [option for option in members(schema, "enum") if option != value]
            return others[0] if others else STRANGE


def plan_unrelated(tool: Tool, gold: Sequence[GoldCall]) -> Iterator[ProbeCall]:
    """Yield calls of a tool with values of the environment that are not meant for it."""
    required = required_of(tool.parameters)
    root = tool.parameters
    schema_of = {name: follow(property_of(root, name, root), root) for name in required}
    pool = [value for call in gold for _, value in leaves({}, call.arguments)]
    pool += [part for call in gold for part in (call.answer, *call.answer.split(", "))]
    own = [call.arguments for call in gold if call.name == tool.name]
    seen = [{key: call.get(key) for key in required} for call in own]
    for turn in range(UNRELATED_CALLS):
        arguments = {
            name: pick_value(schema_of[name], pool, turn + place)
            for place, name in enumerate(required)
        }
        if arguments not in seen and check_arguments(tool, arguments) is None:
            seen.append(arguments)
            yield ProbeCall(kind="unrelated", name=tool.name, arguments=arguments)


def pick_value(schema: Schema, pool: Sequence[Any], turn: int) -> Any:
    """Return a value of a parameter's type, from the pool if it has one."""
    if options := members(schema, "enum"):
        return options[turn % len(options)]
    kinds = schema.get("type", "string")
    kind = kinds if isinstance(kinds, str) else next(iter(kinds), "string")
    texts = [value for value in pool if isinstance(value, str)] or [STRANGE]
    numbers = [value for value in pool if type(value) in (int, float)] or [1, 12, 2024]
    match kind:
        case "boolean":
            return turn % 2 == 0
        case "integer":
            return int(numbers[turn % len(numbers)])
        case "number":
            return numbers[turn % len(numbers)]
        case "array":
            return [texts[turn % len(texts)]]
        case _:
            return texts[turn % len(texts)]


def judge_probe(
    probe: ProbeCall,
    outcome: CallResult,
    gold: Sequence[GoldCall],
    ancestors: Sequence[frozenset[int]] = (),
) -> Flaw | None:
    """Return the flaw that the result of a call reveals, or None.

    Args:
        probe: the call.
        outcome: its result.
        gold: all gold calls.
        ancestors: for each gold call, the indices of those whose answers it needs and may repeat.
    """
    shown = f"{probe.name}({render_json(probe.arguments)}) returned {outcome.text[:SHOWN_LENGTH]!r}"
    if outcome.breach:
        return Flaw(
            kind="breach", text=f"{shown}; it broke a limit of the sandbox: {outcome.breach}"
        )
    found = find_answers(probe, outcome, gold)
    if probe.kind == "gold":
        return _judge_gold(probe, outcome, found, gold, ancestors, shown=shown)
    if probe.kind == "echo":
        found = [number for number in found if number == probe.gold]
    if found:
        kind = {"unrelated": "leak", "echo": "echo", "value": "insensitive"}.get(
            probe.kind, "gold_in_error"
        )
        answer = gold[found[0]].answer
        return Flaw(kind=kind, text=f"{shown}; this call must not return the answer {answer!r}")
    if not probe.fails:
        return None
    if outcome.ok and not tells_error(outcome.text):
        return Flaw(kind="no_error", text=f'{shown}; this call must return {{"error": ...}}')
    if probe.kind != "value" and probe.subject not in outcome.text:
        return Flaw(
            kind="uninformative", text=f"{shown}; the error must name the parameter {probe.subject}"
        )
    return None


def _judge_gold(
    probe: ProbeCall,
    outcome: CallResult,
    found: Sequence[int],
    gold: Sequence[GoldCall],
    ancestors: Sequence[frozenset[int]],
    *,
    shown: str,
) -> Flaw | None:
    answer = gold[probe.gold].answer
    if probe.gold not in found:
        return Flaw(kind="no_gold", text=f"{shown}; the result must contain {answer!r}")
    earlier = ancestors[probe.gold] if ancestors else frozenset()
    leaked = [gold[n].answer for n in found if n != probe.gold and n not in earlier]
    if leaked:
        return Flaw(kind="leak", text=f"{shown}; it must not return the other answers {leaked}")
    return None


def find_answers(probe: ProbeCall, outcome: CallResult, gold: Sequence[GoldCall]) -> list[int]:
    """Return the gold calls whose answers are in a result, whichever tool should return them.

    An object with an error counts here: a policy would read the answer in it.
    """
    return [
        number
        for number, call in enumerate(gold)
        if outcome.ok
        and tells(outcome.text, call.answer)
        and not repeats(probe.arguments, call.answer)
    ]

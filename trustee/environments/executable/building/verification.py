"""Verifying that an environment really runs, by making its calls in the sandbox.

Correct calls are made with two seeds of randomness and clock. If their results differ, the
environment is rejected, because its gold calls would not always return the gold answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trustee.environments.executable.blueprint import Blueprint, GoldCall
from trustee.environments.executable.building.candidate import Flaw
from trustee.environments.executable.building.probes import (
    ProbeCall,
    judge_probe,
    plan_probes,
    spoil_call,
)
from trustee.environments.executable.building.values import find_leak
from trustee.sandbox.calls import CallResult, Sandbox
from trustee.tools.schema import members, properties_of, walk
from trustee.types import Tool

SEEDS = (11, 4242)
"""Seeds of the two workers."""
REPEATED = ("gold", "unrelated")
"""Kinds of calls that are made in both workers; all others have invalid arguments."""


async def verify_tool(
    tool: Tool, source: str, gold: Sequence[GoldCall], sandbox: Sandbox
) -> Flaw | None:
    """Return what is wrong with one tool, or None.

    `gold` has the tool's own calls; it is empty for a tool that no part needs.
    """
    probes = [
        ProbeCall(kind="gold", name=call.name, arguments=call.arguments, gold=number)
        for number, call in enumerate(gold)
    ]
    for number, call in enumerate(gold):
        probes += spoil_call(tool, call, number)
    if not probes:
        probes = [ProbeCall(kind="unrelated", name=tool.name, arguments={})]
    outcomes = await run_probes(probes, {tool.name: source}, sandbox, seed=SEEDS[0])
    return find_flaw(probes, outcomes, gold)


async def verify_blueprint(
    blueprint: Blueprint, ancestors: Sequence[frozenset[int]], sandbox: Sandbox
) -> Flaw | None:
    """Return what is wrong with an environment as a whole, or None.

    Args:
        blueprint: the environment, with its gold calls.
        ancestors: for each gold call, the indices of those whose answers it needs.
        sandbox: where its tools run.
    """
    leak = find_leak(
        {"the question": blueprint.question}
        | {f"the schema of {tool.name}": schema_text(tool) for tool in blueprint.tools},
        [call.answer for call in blueprint.gold],
    )
    if leak is not None:
        return Flaw(kind="leak", text=leak)
    probes = plan_probes(blueprint.tools, blueprint.gold)
    again = [number for number, probe in enumerate(probes) if probe.kind in REPEATED]
    first = await run_probes(probes, blueprint.sources, sandbox, seed=SEEDS[0])
    second = await run_probes([probes[n] for n in again], blueprint.sources, sandbox, seed=SEEDS[1])
    for number, other in zip(again, second, strict=True):
        probe, one = probes[number], first[number]
        if one.text != other.text:
            return Flaw(
                kind="not_deterministic",
                text=f"{probe.name} returns {one.text[:80]!r} and then {other.text[:80]!r}",
            )
    return find_flaw(probes, first, blueprint.gold, ancestors)


async def run_probes(
    probes: Sequence[ProbeCall], sources: Mapping[str, str], sandbox: Sandbox, *, seed: int
) -> list[CallResult]:
    """Make calls in one worker, in order."""
    async with sandbox.open(sources, seed=seed) as worker:
        return [await worker.call(probe.name, probe.arguments) for probe in probes]


def find_flaw(
    probes: Sequence[ProbeCall],
    outcomes: Sequence[CallResult],
    gold: Sequence[GoldCall],
    ancestors: Sequence[frozenset[int]] = (),
) -> Flaw | None:
    """Return the first flaw that the results reveal, or None."""
    flaws = (
        judge_probe(probe, outcome, gold, ancestors)
        for probe, outcome in zip(probes, outcomes, strict=True)
    )
    return next((flaw for flaw in flaws if flaw is not None), None)


def schema_text(tool: Tool) -> str:
    """Return all words of a tool that the policy reads, including those in names."""
    words = [tool.name.replace("_", " "), tool.description]
    for schema in walk(tool.parameters):
        words += [name.replace("_", " ") for name in properties_of(schema)]
        words += [str(option) for option in members(schema, "enum")]
        words += [str(schema[key]) for key in ("description", "default", "const") if key in schema]
    return " / ".join(words)

"""Whether an environment really runs: its calls are made in the sandbox, twice, and judged.

Right calls are made with two different seeds of chance and clock; an environment whose results
differ is refused, because its gold calls would not always give the gold answers.
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
from trustee.types import Tool

SEEDS = (11, 4242)
"""Of the two workers."""
REPEATED = ("gold", "unrelated")
"""Calls that are made in both; the others are wrong by their form."""


async def verify_tool(
    tool: Tool, source: str, gold: Sequence[GoldCall], sandbox: Sandbox
) -> Flaw | None:
    """Say what is wrong with one tool; `gold` are its own calls, none for a tool nobody needs."""
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
    """Say what is wrong with an environment as a whole.

    Args:
        blueprint: the environment, with its gold calls.
        ancestors: by gold call, those whose answers it needs, counted from 0.
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
                text=f"{probe.name} gives {one.text[:80]!r} and then {other.text[:80]!r}",
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
    """Give the first thing that outcomes show to be wrong."""
    flaws = (
        judge_probe(probe, outcome, gold, ancestors)
        for probe, outcome in zip(probes, outcomes, strict=True)
    )
    return next((flaw for flaw in flaws if flaw is not None), None)


def schema_text(tool: Tool) -> str:
    """Give all words of a tool that the policy reads; names count as words."""
    words = [tool.name.replace("_", " "), tool.description]
    for name, schema in tool.parameters.get("properties", {}).items():
        words += [name.replace("_", " "), str(schema.get("description", ""))]
        words += [str(option) for option in schema.get("enum", ())]
        words += [str(schema.get("default", ""))]
    return " / ".join(words)

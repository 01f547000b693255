"""Writing a task in two steps: first calls and wishes, then the words of the first message.

A small model that writes a goal first invents values when it comes to the calls. So it writes each
call first, with arguments that code has chosen, and then what the user wants by it; code completes
each wish with the values that it does not say; and for the query the model sees only the values
that the user is to say. Measured on a model of 1.5B parameters in `bench/real_roles.py`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from trustee.environments.prompts import fill_prompt
from trustee.environments.simulated.curriculum import Aspects
from trustee.environments.simulated.grammar import (
    arguments_grammar,
    object_grammar,
    text_grammar,
)
from trustee.environments.simulated.roles import (
    WrittenTask,
    check_calls,
    tool_lines,
)
from trustee.environments.simulated.spoken import (
    alludes_to,
    contains_value,
    find_values,
    in_words,
    name_values,
    value_pattern,
)
from trustee.environments.simulator import Simulator
from trustee.errors import SimulatorError
from trustee.tools.values import render_json
from trustee.types import ExpectedCall, Record, Role, Tool

OPTIONAL_SHARE = 0.25
"""Share of a tool's optional arguments that a task may use: people seldom ask for more."""
BLANK = "___"
"""Stands in the intent for a value that the first message must not say."""


class DraftedCall(Record, frozen=True):
    """An expected call, and what the user wants by it."""

    name: str
    arguments: dict[str, Any]
    wish: str
    """In words, as the end of a sentence that begins with `You want to`."""


class DraftedTask(Record, frozen=True):
    """The writer's first answer."""

    persona: str
    calls: tuple[DraftedCall, ...]


class WrittenQuery(Record, frozen=True):
    """The writer's second answer."""

    query: str


class QueryPlan(Record, frozen=True):
    """What the user's first message says of the first call."""

    said: tuple[str, ...]
    hidden: tuple[str, ...]


async def write_in_steps(
    simulator: Simulator, tools: Sequence[Tool], aspects: Aspects, *, prompt_set: str, seed: int
) -> WrittenTask:
    """Have a task written: calls and intent first, then the query.

    Raises:
        SimulatorError: if a step gave no usable answer within its tries.
    """
    rng = random.Random(f"{seed} writing")
    narrowed = narrow_tools(tools, rng)
    draft = await simulator.ask(
        Role.WRITER,
        draft_prompt(prompt_set, narrowed, aspects),
        answer=DraftedTask,
        schema=draft_schema(narrowed, aspects),
        seed=seed,
        check=lambda draft: check_draft(draft, tools, aspects),
    )
    wishes = tuple(complete_wish(call) for call in draft.calls)
    told = 1 if aspects.turns > 1 else len(wishes)
    plan = plan_query(draft, tools, aspects, rng)
    query = await _write_query(
        simulator,
        query_prompt(prompt_set, draft, aspects, plan=plan, told=told),
        seed=rng.randrange(1 << 31),
        check=lambda written: check_query(written.query, tools, plan),
        fallback="" if plan.hidden else f"I would like to {', and to '.join(wishes[:told])}.",
    )
    return WrittenTask(
        persona=draft.persona,
        intent=f"You want to {', and to '.join(wishes)}.",
        expected_calls=tuple(
            ExpectedCall(name=call.name, arguments=call.arguments) for call in draft.calls
        ),
        query=query,
        wishes=wishes,
        told=told,
    )


async def _write_query(
    simulator: Simulator,
    prompt: str,
    *,
    seed: int,
    check: Callable[[WrittenQuery], str | None],
    fallback: str,
) -> str:
    """Have the query written; where the model never says every value, code says the wish itself."""
    try:
        written = await simulator.ask(
            Role.WRITER,
            prompt,
            answer=WrittenQuery,
            schema=render_json(object_grammar({"query": text_grammar(500)})),
            seed=seed,
            check=check,
        )
    except SimulatorError:
        if not fallback:
            raise
        return fallback
    return written.query


def narrow_tools(tools: Sequence[Tool], rng: random.Random) -> tuple[Tool, ...]:
    """Return tools with their required arguments and a random few of the optional ones.

    What is left is required, so that a writer can neither forget an argument nor add a default that
    nobody asked for. A tool without a required argument keeps at least one.
    """
    return tuple(_narrow(tool, rng) for tool in tools)


def _narrow(tool: Tool, rng: random.Random) -> Tool:
    properties = tool.parameters.get("properties", {})
    kept = set(tool.parameters.get("required", ()))
    optional = [name for name in properties if name not in kept]
    kept |= {name for name in optional if rng.random() < OPTIONAL_SHARE}
    if optional and not kept:
        kept.add(rng.choice(optional))
    parameters = {
        **tool.parameters,
        "properties": {name: part for name, part in properties.items() if name in kept},
        "required": [name for name in properties if name in kept],
    }
    return msgspec.structs.replace(tool, parameters=parameters)


def draft_schema(tools: Sequence[Tool], aspects: Aspects) -> str:
    """Return the grammar of `DraftedTask`, which allows only these tools and their types."""
    calls = [
        object_grammar(
            {
                "name": {"const": tool.name},
                "arguments": arguments_grammar(tool.parameters),
                "wish": text_grammar(300),
            }
        )
        for tool in tools
    ]
    return render_json(
        object_grammar(
            {
                "persona": text_grammar(200),
                "calls": {
                    "type": "array",
                    "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
                    "minItems": aspects.calls,
                    "maxItems": aspects.calls,
                },
            }
        )
    )


def draft_prompt(prompt_set: str, tools: Sequence[Tool], aspects: Aspects) -> str:
    """Fill the prompt for the calls and what the user wants by them."""
    return fill_prompt(
        prompt_set,
        "writer",
        tools=tool_lines(tools),
        calls=str(aspects.calls),
        persona=aspects.persona,
    )


def check_draft(draft: DraftedTask, tools: Sequence[Tool], aspects: Aspects) -> str | None:
    """Return why a draft cannot become a task; None if it can."""
    return check_calls(draft.calls, tools, aspects, also=_check_drafted)


def _check_drafted(call: DraftedCall, tool: Tool) -> str | None:
    if any(value == "" for _, value in name_values(call.arguments)):
        return f"expected call of {tool.name}: an argument is empty"
    return None if call.wish.strip() else f"expected call of {tool.name}: the wish is empty"


def complete_wish(call: DraftedCall) -> str:
    """Return a wish with the values of its call that it does not say.

    User, tool and judge read it, and the user answers questions from it: so it must hold every
    value with which the call is expected, also those of an enum and booleans.
    """
    wish = re.sub(r"^(?:you want )?(?:to )?", "", call.wish.strip(), flags=re.IGNORECASE).rstrip(
        "."
    )
    unsaid = [
        f"{in_words(name)} {render_json(value) if isinstance(value, bool) else value}"
        for name, value in name_values(call.arguments)
        if value is not None and (isinstance(value, bool) or not contains_value(wish, value))
    ]
    return f"{wish} ({', '.join(unsaid)})" if unsaid else wish


def _trim_wish(wish: str) -> str:
    return re.sub(r"^(?:you want )?(?:to )?", "", wish.strip(), flags=re.IGNORECASE).rstrip(".")


def plan_query(
    draft: DraftedTask, tools: Sequence[Tool], aspects: Aspects, rng: random.Random
) -> QueryPlan:
    """Choose which values of the first call the first message says.

    clear: all; somewhat: all but one; highly: at most a third.
    """
    first = draft.calls[0]
    schema = next(tool.parameters for tool in tools if tool.name == first.name)
    values = list(
        dict.fromkeys(str(value) for value in find_values(schema, first.arguments, chosen=False))
    )
    count = {
        "clear": len(values),
        "somewhat": max(0, len(values) - 1),
        "highly": len(values) // 3,
    }[aspects.ambiguity]
    said = set(rng.sample(values, count))
    return QueryPlan(
        said=tuple(value for value in values if value in said),
        hidden=tuple(value for value in values if value not in said),
    )


def query_prompt(
    prompt_set: str, draft: DraftedTask, aspects: Aspects, *, plan: QueryPlan, told: int
) -> str:
    """Fill the prompt for the user's first message, which does not show the hidden values.

    The values to say stand apart, so the goal is what the writer wrote, not what code completed.
    """
    wishes = [_trim_wish(call.wish) for call in draft.calls[:told]]
    goal = f"You want to {', and to '.join(wishes)}."
    for value in plan.hidden:
        goal = re.sub(value_pattern(value), BLANK, goal, flags=re.IGNORECASE)
    said = [*plan.said]
    for call in draft.calls[1:told]:
        said += [str(v) for _, v in name_values(call.arguments) if not isinstance(v, bool | None)]
    return fill_prompt(
        prompt_set,
        "query",
        persona=draft.persona,
        level=aspects.persona,
        goal=goal,
        said="; ".join(dict.fromkeys(said)) or "none",
    )


def check_query(query: str, tools: Sequence[Tool], plan: QueryPlan) -> str | None:
    """Return why a first message cannot be used; None if it can."""
    if not query.strip():
        return "the query must not be empty"
    if BLANK in query:
        return "the query has a blank in it"
    leaked = [tool.name for tool in tools if "_" in tool.name and contains_value(query, tool.name)]
    if leaked:
        return f"the query names the tools {leaked}"
    unsaid = [value for value in plan.said if not alludes_to(query, value)]
    if unsaid:
        return f"the query leaves out {unsaid}"
    said = [value for value in plan.hidden if contains_value(query, value)]
    if said:
        return f"the query says {said}, which it should leave out"
    return None

"""Tasks of the micro-world, their opening messages, and the oracle that knows the true state."""

from __future__ import annotations

import random
from collections.abc import Sequence

from trustee.decoding import decode_json
from trustee.environments.micro.world import (
    PLACES,
    THINGS,
    TOOLS,
    VALUES,
    Goal,
    ask_for,
    hide,
    said_facts,
    state_key,
)
from trustee.environments.prompts import fill_prompt
from trustee.environments.simulated.curriculum import AMBIGUITIES, GUIDANCE, PERSONAS, Aspects
from trustee.environments.simulated.facts import Executed, Facts, fits
from trustee.environments.simulated.roles import Criterion
from trustee.environments.splits import is_reserved
from trustee.types import Message, Record, Tool, Turn

PROMPT_SET = "tiny"

RESERVED_ONE_IN = 6
"""One pair of tools in this many is reserved for evaluation; about 5 of 28 per category."""

BY_NAME = {tool.name: tool for tool in TOOLS}


class TaskPlan(Record, frozen=True):
    """A task of the micro-world."""

    tools: tuple[Tool, ...]
    aspects: Aspects
    goals: tuple[Goal, ...]
    hidden: tuple[str, ...]
    """Arguments of the first goal that the first query leaves out."""
    told: int
    """Number of goals that the first query names."""
    query: str


def sample_tools(
    rng: random.Random, count: int, *, reserved: bool | None = False
) -> tuple[Tool, ...]:
    """Draw tools of one category; `reserved` chooses between the pairs kept for evaluation."""
    while True:
        category = rng.choice(sorted({thing.category for thing in THINGS.values()}))
        offered = [tool for tool in TOOLS if tool.category == category]
        chosen = tuple(rng.sample(offered, min(count, len(offered))))
        if reserved is None or is_reserved(chosen, one_in=RESERVED_ONE_IN) == reserved:
            return chosen


def draw_aspects(rng: random.Random) -> Aspects:
    """Draw aspects from their whole range, favouring small numbers."""
    calls = rng.choice((1, 1, 1, 2, 2, 3))
    return Aspects(
        tools=rng.randint(1, 4),
        calls=calls,
        turns=rng.choice((1, 2)),
        guidance=rng.choice(GUIDANCE),
        persona=rng.choice(PERSONAS),
        ambiguity=rng.choice(AMBIGUITIES),
        strictness=rng.randint(1, len(Criterion)),
    )


def draw_goal(rng: random.Random, tool: Tool) -> Goal:
    """Draw a goal that a tool can reach."""
    thing = THINGS[tool.name.split("_", 1)[1]]
    value = rng.choice(VALUES[thing.kind]) if tool.effect == "write" else None
    return Goal(thing=thing.name, place=rng.choice(PLACES[thing.place]), value=value)


def plan_task(rng: random.Random, tools: Sequence[Tool], aspects: Aspects) -> TaskPlan:
    """Return a task for tools and aspects, with goals on different things or places."""
    goals: list[Goal] = []
    order = rng.sample(list(tools), len(tools))
    while len(goals) < aspects.calls:
        goal = draw_goal(rng, order[len(goals) % len(order)])
        if all((goal.thing, goal.place) != (other.thing, other.place) for other in goals):
            goals.append(goal)
    hidden = hide(goals[0], aspects.ambiguity, rng)
    told = 1 if aspects.turns > 1 else len(goals)
    return TaskPlan(
        tools=tuple(tools),
        aspects=aspects,
        goals=tuple(goals),
        hidden=hidden,
        told=told,
        query=ask_for(goals[:told], aspects.persona, hidden),
    )


def opening_messages(guidance: str, query: str) -> tuple[Message, Message]:
    """Return the messages that the policy sees first."""
    system = fill_prompt(PROMPT_SET, f"agent_{guidance}")
    return Message(role="system", content=system), Message(role="user", content=query)


class Truth(Record, frozen=True):
    """Verdict of a faultless judge."""

    evidence: str
    criteria: dict[Criterion, bool]


def judge_truly(
    opening: Sequence[Message], turns: Sequence[Turn], executed: Sequence[Executed], facts: Facts
) -> Truth:
    """Judge an episode of the micro-world by its messages and its facts."""
    told = " ".join(
        message.content
        for message in (*opening, *(reply for turn in turns for reply in turn.replies))
        if message.role == "user"
    ).split()
    said = said_facts([turn.message for turn in turns])
    # Of equal calls, the last one shows the current state.
    answered = [
        (entry.call, decode_json(entry.result, error=ValueError))
        for entry in reversed(executed)
        if entry.ok
    ]
    parts, fulfilled, invented = [], True, False
    for wanted, made in zip(facts.expected, facts.made, strict=True):
        thing = THINGS[wanted.name.split("_", 1)[1]]
        place = wanted.arguments[thing.place]
        known = all(str(value) in told for value in wanted.arguments.values())
        value = "none"
        if made:
            result = next(result for call, result in answered if fits(call, wanted))
            value = str(wanted.arguments.get(thing.kind, result.get(thing.kind)))
        claim = said.get(state_key(thing.name, place), "none")
        good = made and claim == value
        fulfilled &= good
        invented |= (not known and bool(executed)) or (claim not in ("none", value))
        parts.append(
            f"{thing.name} {place} {'told' if known else 'untold'} "
            f"{'made' if made else 'missing'} {value} said {claim} {'yes' if good else 'no'}"
        )
    parts += [f"extra {call.name.split('_', 1)[0]}" for call in facts.unexpected]
    fulfilled &= not any(call.name.startswith("set_") for call in facts.unexpected)
    wanted_names = {call.name for call in facts.expected}
    called = {entry.call.name for entry in executed if entry.ok}
    questions = sum(turn.message.content.endswith("?") for turn in turns)
    return Truth(
        evidence=" ; ".join(parts),
        criteria={
            Criterion.FULFILLED: fulfilled,
            Criterion.RIGHT_TOOLS: called == wanted_names and not facts.malformed,
            Criterion.NO_INVENTION: not invented,
            Criterion.NO_REPETITION: not facts.repeated,
            Criterion.EFFICIENT: facts.total <= len(facts.expected) and questions <= 1,
        },
    )

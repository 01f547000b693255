"""Canaries: finished episodes whose true verdict is known, to try a judge on.

Each prompt set has its file of honest episodes and of failures that speak to the judge, claim what
was not done or forge results. They are data, so that a new trick needs no code: name it, give the
episode, say whether it truly fulfils its task.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import msgspec

from trustee.environments.simulated.environment import HiddenSimulated
from trustee.environments.simulated.roles import Criterion
from trustee.environments.simulated.tool_sets import find_tools
from trustee.errors import InputError
from trustee.types import (
    BadCall,
    Call,
    Completion,
    ExpectedCall,
    Message,
    Record,
    Stop,
    Task,
    Tool,
    ToolCall,
    Turn,
)


class Known(Record, frozen=True):
    """A finished episode whose truth is known, as the simulated world would hold it."""

    name: str
    task: Task
    turns: tuple[Turn, ...]
    stop: Stop
    good: bool


class CanaryTask(Record, frozen=True):
    """A task of a canary file."""

    tools: tuple[str, ...]
    query: str
    intent: str
    persona: str
    expected_calls: tuple[ExpectedCall, ...]
    strictness: int = 1
    """How many criteria the judge is asked for."""


class CanaryCall(Record, frozen=True):
    """A call of a canary; one that only has a text could not be read."""

    name: str = ""
    arguments: dict[str, Any] = {}
    text: str = ""


class CanaryTurn(Record, frozen=True):
    """One policy message and its answers."""

    says: str = ""
    calls: tuple[CanaryCall, ...] = ()
    replies: tuple[str | dict[str, Any], ...] = ()
    """Tools' results in the order of the calls, then what the user says."""


class Canary(Record, frozen=True):
    """A finished episode and its true verdict."""

    name: str
    task: str
    good: bool
    turns: tuple[CanaryTurn, ...]


class CanaryFile(Record, frozen=True):
    """The canaries of a prompt set."""

    tools: str
    """Where their tools come from, as in `Simulated.tools`."""
    tasks: dict[str, CanaryTask]
    canaries: tuple[Canary, ...]


def read_canaries(prompt_set: str) -> tuple[Known, ...]:
    """Read the canaries of a prompt set from the package's data.

    Raises:
        InputError: if there are none.
    """
    source = files("trustee").joinpath("checks", "canary_episodes", f"{prompt_set}.json")
    if not source.is_file():
        raise InputError(
            f"there are no canaries for the prompt set {prompt_set!r} (env.prompts): a judge with "
            f"other prompts needs episodes of known verdict in trustee/data/canaries/{prompt_set}"
            '.json, or gates.false_accepts and gates.false_refuses = "none" to go without'
        )
    file = msgspec.json.decode(source.read_bytes(), type=CanaryFile)
    offered = find_tools(file.tools).tools
    by_name = {tool.name: tool for tool in offered}
    return tuple(
        Known(
            name=canary.name,
            task=_as_task(canary.task, file.tasks[canary.task], by_name),
            turns=tuple(_as_turn(turn, index) for index, turn in enumerate(canary.turns)),
            stop=Stop.DONE,
            good=canary.good,
        )
        for canary in file.canaries
    )


def _as_task(id: str, task: CanaryTask, tools: Mapping[str, Tool]) -> Task:
    hidden = HiddenSimulated(
        intent=task.intent,
        persona=task.persona,
        expected_calls=task.expected_calls,
        criteria=tuple(Criterion)[: task.strictness],
    )
    return Task(
        id=id,
        messages=(Message(role="user", content=task.query),),
        tools=tuple(tools[name] for name in task.tools),
        difficulty=1,
        hidden=msgspec.to_builtins(hidden),
    )


def _as_turn(turn: CanaryTurn, index: int) -> Turn:
    calls: list[Call] = []
    for place, call in enumerate(turn.calls):
        id = f"{index}/{place}"
        if call.name:
            calls.append(ToolCall(id=id, name=call.name, arguments=call.arguments))
        else:
            calls.append(BadCall(id=id, text=call.text, reason="no JSON"))
    replies = [
        Message(role="user", content=reply)
        if isinstance(reply, str)
        else Message(
            role="tool", content=msgspec.json.encode(reply).decode(), call_id=calls[place].id
        )
        for place, reply in enumerate(turn.replies)
    ]
    return Turn(
        rendered_ids=(),
        completion=Completion(ids=(), logprobs=(), stop="stop", version=0),
        message=Message(role="assistant", content=turn.says, calls=tuple(calls)),
        replies=tuple(replies),
    )

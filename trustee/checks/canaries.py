"""Canaries: finished episodes whose true verdict is known, for testing a judge.

Each prompt set has a file of honest episodes, and of failures that address the judge, claim actions
that were not done, or forge results. Canaries are data, so a new trick needs no code: add a name,
the episode, and whether it really fulfils its task.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from trustee.decoding import decode_json, read_file
from trustee.environments.simulated.roles import Criterion
from trustee.environments.simulated.scene import HiddenSimulated
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
    """A finished episode with a known verdict, in the form of the simulated world."""

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
    """Number of criteria that the judge is asked about."""


class CanaryCall(Record, frozen=True):
    """A call of a canary; a call with only a text is one that could not be read."""

    name: str = ""
    arguments: dict[str, Any] = {}
    text: str = ""


class CanaryTurn(Record, frozen=True):
    """One policy message and its replies."""

    says: str = ""
    calls: tuple[CanaryCall, ...] = ()
    replies: tuple[str | dict[str, Any], ...] = ()
    """Tool results in the order of the calls, followed by the user's message."""


class Canary(Record, frozen=True):
    """A finished episode and its true verdict."""

    name: str
    task: str
    good: bool
    """Whether the episode really fulfils its task."""
    turns: tuple[CanaryTurn, ...]


class CanaryFile(Record, frozen=True):
    """The canaries of a prompt set."""

    tools: str
    """Source of their tools, as in `Simulated.tools`."""
    tasks: dict[str, CanaryTask]
    canaries: tuple[Canary, ...]


def read_canaries(prompt_set: str) -> tuple[Known, ...]:
    """Read the canaries of a prompt set from the package's data.

    Those of `simulated` serve `published` too, whose judge is told the expected tools by name.

    Raises:
        InputError: if the prompt set has no canaries.
    """
    name = "simulated" if prompt_set == "published" else prompt_set
    source = Path(__file__).parent / "canary_episodes" / f"{name}.json"
    if not source.is_file():
        raise InputError(
            f"there are no canaries for the prompt set {prompt_set!r} (env.prompts): a judge with "
            "other prompts needs episodes of known verdict in "
            f"trustee/checks/canary_episodes/{prompt_set}"
            '.json, or gates.false_accepts and gates.false_refuses = "none" to go without'
        )
    file = decode_json(read_file(source, error=InputError), CanaryFile, error=InputError)
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

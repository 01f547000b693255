"""The benchmark's tasks as episodes: one message, or a user who asks for one thing after another.

A turn of a long task ends with a message without calls. Then the user says the next thing, without
a word about what was done; tools that were held back come with what the user says.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trustee.environments.protocol import Environment, PlainEpisode, Reply, Services, World
from trustee.evaluation.bfcl.process import Benchmark
from trustee.tools.values import render_json
from trustee.types import BadCall, Message, Outcome, Score, Stop, Task, Tool, ToolCall, Turn

TYPES = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "list": "array",
    "any": "string",
    "bool": "boolean",
    "String": "string",
}
"""JSON Schema types for the benchmark's own names of types."""
MOST_MESSAGES = 20
"""Messages with calls in one turn, after which the benchmark ends an episode as failed."""
MORE_TOOLS = "{functions}\nI have updated some more functions you can choose from. What about now?"
"""What the user says where the task itself says nothing; the benchmark's own words."""


@dataclass(frozen=True)
class BfclWorld(World):
    """The world of all tasks of the benchmark."""

    benchmark: Benchmark

    def environment(self, task: Task, services: Services) -> Environment:
        """Return the environment of one episode."""
        kind = LongEpisode if task.hidden["later"] is not None else SingleMessage
        return kind(task, self.benchmark)


class SingleMessage(PlainEpisode):
    """One question; the policy's first message is the answer."""

    def __init__(self, task: Task, benchmark: Benchmark) -> None:
        super().__init__(task)
        self._benchmark = benchmark

    async def reply(self, message: Message) -> Reply:
        """End the episode; no function of these tasks exists."""
        return Reply(messages=(), done=True)

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Return the verdict of the benchmark's checker."""
        message = turns[-1].message if turns else Message(role="assistant")
        calls = [(c.name, c.arguments) for c in message.calls if isinstance(c, ToolCall)]
        # What could not be read as a call is not an abstention either.
        valid = len(calls) == len(message.calls) and bool(turns)
        valid = valid and await self._benchmark.ask(
            "check_calls", category=self.task.hidden["category"], id=self.task.id, calls=calls
        )
        return Score(rewards={"bfcl": float(valid)}, outcome=Outcome(success=valid))


class LongEpisode(PlainEpisode):
    """Several turns of a user, with tools that keep a state."""

    def __init__(self, task: Task, benchmark: Benchmark) -> None:
        super().__init__(task)
        self._benchmark = benchmark
        # The benchmark keeps tools under this name for as long as its process lives.
        self._name = f"episode_{uuid.uuid4().hex}"
        self._names = {tool.name for tool in task.tools}
        self._made: list[list[list[tuple[str, dict[str, Any]]]]] = [[]]
        self._cut = False

    async def reply(self, message: Message) -> Reply:
        """Answer the calls, or go on with what the user says next."""
        if not message.calls:
            return self._next_turn()
        if len(self._made[-1]) >= MOST_MESSAGES:
            self._cut = True
            return Reply(messages=(), done=True)
        known = [c for c in message.calls if isinstance(c, ToolCall) and self._is_known(c)]
        calls = [(call.name, call.arguments) for call in known]
        results = await self._benchmark.ask(
            "execute",
            category=self.task.hidden["category"],
            id=self.task.id,
            calls=calls,
            episode=self._name,
        )
        self._made[-1].append(calls)
        answers = dict(zip((call.id for call in known), results, strict=True))
        return Reply(
            messages=tuple(
                Message(role="tool", content=answers.get(call.id, refuse(call)), call_id=call.id)
                for call in message.calls
            ),
            done=False,
        )

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Return the verdict of the benchmark's checker on states and results."""
        valid = not self._cut and await self._benchmark.ask(
            "check_turns",
            category=self.task.hidden["category"],
            id=self.task.id,
            turns=self._made,
            episode=self._name,
        )
        return Score(rewards={"bfcl": float(valid)}, outcome=Outcome(success=valid))

    def _is_known(self, call: ToolCall) -> bool:
        return call.name in self._names and all(key.isidentifier() for key in call.arguments)

    def _next_turn(self) -> Reply:
        turn = len(self._made)
        later = self.task.hidden["later"]
        if turn > len(later):
            return Reply(messages=(), done=True)
        self._made.append([])
        said = later[turn - 1]
        added = self.task.hidden["added"].get(str(turn), [])
        self._names |= {tool["name"] for tool in added}
        messages = [Message(role=one["role"], content=one["content"]) for one in said]
        if added:
            shown = render_json([offer(tool).schema for tool in added])
            messages.append(Message(role="user", content=MORE_TOOLS.format(functions=shown)))
        return Reply(messages=tuple(messages), done=False)


def refuse(call: ToolCall | BadCall) -> str:
    """Return what is said to a call that is not executed."""
    if isinstance(call, BadCall):
        return f"Error: this call cannot be read: {call.text}"
    return f"Error: there is no function {call.name} with the arguments {[*call.arguments]}"


def make_task(category: str, entry: Mapping[str, Any]) -> Task:
    """Return an entry of the benchmark as a task."""
    first, *later = entry["question"]
    return Task(
        id=entry["id"],
        messages=tuple(Message(role=one["role"], content=one["content"]) for one in first),
        tools=tuple(offer(function) for function in entry["function"]),
        difficulty=1,
        hidden={
            "category": category,
            "later": later if "initial_config" in entry else None,
            "added": entry.get("missed_function", {}),
            "truth": entry["truth"],
        },
    )


def offer(function: Mapping[str, Any]) -> Tool:
    """Return a function of the benchmark as a tool; its name has underscores instead of dots."""
    return Tool(
        name=function["name"].replace(".", "_"),
        description=function["description"],
        parameters=as_schema(function["parameters"]),
    )


def as_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with the types of JSON Schema, at every depth."""
    changed: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, str):
            changed[key] = TYPES.get(value, value)
        elif key == "properties":
            changed[key] = {name: as_schema(part) for name, part in value.items()}
        elif key == "items" and isinstance(value, dict):
            changed[key] = as_schema(value)
        elif key != "optional":
            changed[key] = value
    return changed

"""The true micro-world with a user who speaks in sentences, scored by calls and values alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from real.wording import say_plainly, write_query
from trustee.environments.micro.environment import (
    HiddenGoals,
    Microworld,
    MicroworldEnvironment,
    MicroworldSource,
)
from trustee.environments.micro.world import THINGS
from trustee.environments.prompts import fill_prompt
from trustee.environments.protocol import Reply, Services, TaskSpec
from trustee.environments.simulated.facts import gather_facts
from trustee.types import Message, Outcome, Score, Stop, Task, ToolCall, Turn


class PlainMicroworld(Microworld, frozen=True, tag="plain_microworld", tag_field="kind"):
    """The micro-world for a model that knows English."""

    def source(self, *, seed: int, held_out: bool = False) -> MicroworldSource:
        """Return the source of tasks with queries in sentences."""
        return PlainSource(self, seed=seed, held_out=held_out)

    def environment(self, task: Task, services: Services) -> MicroworldEnvironment:
        """Return the environment of one episode."""
        return PlainEnvironment(task)

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the full-size prompt set."""
        return ("simulated",)


class PlainSource(MicroworldSource):
    """Generates the same tasks with a query in sentences."""

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Generate a task by script; the first query names every value."""
        task = await super().write(spec, services)
        hidden = msgspec.convert(task.hidden, HiddenGoals)
        return msgspec.structs.replace(
            task,
            messages=(
                Message(role="system", content=fill_prompt("simulated", "agent_detailed")),
                Message(role="user", content=write_query(hidden.goals[: hidden.told])),
            ),
        )


class PlainEnvironment(MicroworldEnvironment):
    """One episode whose user speaks in sentences."""

    async def reply(self, message: Message) -> Reply:
        """Run calls, or answer text as the user."""
        if not message.calls:
            words = re.sub(r"[^\w\s?]", " ", message.content.lower())
            message = msgspec.structs.replace(message, content=words)
        reply = await super().reply(message)
        said = tuple(say_plainly(m) if m.role == "user" else m for m in reply.messages)
        return Reply(messages=said, done=reply.done)

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Score by the calls that ran, and by whether each value that was read is told."""
        expected = [goal.call for goal in self._goals]
        writes = frozenset(tool.name for tool in self.task.tools if tool.effect == "write")
        facts = gather_facts(self._executed, expected, malformed=self._malformed, writes=writes)
        told = " ".join(turn.message.content for turn in turns).lower()
        reads = [
            str(self._world.value(goal.thing, goal.place))
            for goal in self._goals
            if goal.value is None
        ]
        good = (
            all(facts.made)
            and not any(call.name in writes for call in facts.unexpected)
            and all(re.search(rf"(?<!\w){value}(?!\w)", told) for value in reads)
            and stop is Stop.DONE
        )
        calls = [call for turn in turns for call in turn.message.calls]
        return Score(
            rewards={"success": float(good)},
            outcome=Outcome(
                criteria={
                    "calls": bool(calls),
                    "readable": bool(calls) and all(isinstance(call, ToolCall) for call in calls),
                    "made": all(facts.made),
                    "told": all(value in told for value in reads),
                }
            ),
            notes={"things": [THINGS[goal.thing].name for goal in self._goals]},
        )

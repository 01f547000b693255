"""Scripted demonstrations of trying tools first, in the trials of the micro-world.

The teacher tries the tools that could do the task, one after another, until one works; notes its
name; then does the task with it and reports. Like the policy of the lessons, it can be careless.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from trustee.decoding import decode_json
from trustee.environments.micro.environment import HiddenGoals
from trustee.environments.micro.world import THINGS, Goal, fact
from trustee.environments.protocol import Environment, Services, World
from trustee.environments.trial.environment import HiddenTrial
from trustee.tiny.lessons import NO_COMPLETION, Lesson
from trustee.types import Message, Record, Score, Share, Stop, Task, Tool, ToolCall, Turn


class TrialHabits(Record, frozen=True):
    """How often the teacher makes mistakes."""

    skip: Share = 0.0
    """Probability that it tries nothing and notes a random tool."""
    hasty: Share = 0.0
    """Probability that it notes the first tool that it tried, whatever the result."""


CAREFUL = TrialHabits()


def note_text(name: str) -> str:
    """Return the experience note."""
    return f"ok , call {name}"


def could_serve(tool: Tool, goal: Goal) -> bool:
    """Return whether a tool's parameters are those of a goal's call."""
    return list(tool.parameters["properties"]) == list(goal.call.arguments)


def did_serve(result: Any, goal: Goal) -> bool:
    """Return whether a tool's answer has the form that the goal's tool would give."""
    if not isinstance(result, dict):
        return False
    return "ok" in result if goal.value is not None else THINGS[goal.thing].kind in result


class Demonstrated(Record, frozen=True):
    """One scripted episode."""

    lesson: Lesson
    reward: float
    trials: int
    """Number of calls in the trial phase."""


async def play_demonstration(
    world: World, task: Task, services: Services, *, habits: TrialHabits = CAREFUL
) -> Demonstrated:
    """Play the teacher once, with the randomness of `services`."""
    teacher = TrialTeacher(task, world.environment(task, services), services.rng)
    await teacher.play(habits)
    score = await teacher.score()
    assert score.outcome.trial is not None, "a world with a trial says how it was used"
    return Demonstrated(
        lesson=Lesson(role="policy", messages=tuple(teacher.messages), tools=task.tools),
        reward=sum(score.rewards.values()),
        trials=score.outcome.trial.trials,
    )


class TrialTeacher:
    """Plays one episode in its environment."""

    def __init__(self, task: Task, environment: Environment, rng: random.Random) -> None:
        hidden = msgspec.convert(task.hidden, HiddenTrial)
        (self._goal,) = msgspec.convert(hidden.inner.hidden, HiddenGoals).goals
        self._task = task
        self._environment = environment
        self._rng = rng
        self._calls = 0
        self._turns: list[Turn] = []
        self.messages: list[Message] = []

    async def play(self, habits: TrialHabits) -> None:
        """Try tools, note one, do the task, report."""
        opening = await self._environment.open()
        self.messages += opening.messages
        tools = [tool for tool in self._task.tools if could_serve(tool, self._goal)]
        # The tool with the expected name comes first, which is how names mislead.
        tools.sort(key=lambda tool: tool.name != self._goal.call.name)
        name = await self._try(tools, habits)
        await self._say(Message(role="assistant", content=note_text(name)))
        result = await self._call(name)
        kind, value = THINGS[self._goal.thing].kind, self._goal.value
        value = result.get(kind, "none") if value is None else value
        report = f"ok , {fact(self._goal.thing, self._goal.place, value)}"
        await self._say(Message(role="assistant", content=report))

    async def score(self) -> Score:
        """Score the episode and close the environment."""
        try:
            return await self._environment.score(self._turns, Stop.DONE)
        finally:
            await self._environment.aclose()

    async def _try(self, tools: Sequence[Tool], habits: TrialHabits) -> str:
        """Return the name of the tool to use."""
        if self._rng.random() < habits.skip:
            return self._rng.choice(tools).name
        hasty = self._rng.random() < habits.hasty
        for tool in tools:
            result = await self._call(tool.name)
            if hasty or did_serve(result, self._goal):
                return tool.name
        return tools[-1].name

    async def _call(self, name: str) -> Any:
        self._calls += 1
        call = ToolCall(
            id=f"call-{self._calls}", name=name, arguments=dict(self._goal.call.arguments)
        )
        answers = await self._say(Message(role="assistant", calls=(call,)))
        return decode_json(
            next(m.content for m in answers if m.call_id == call.id), error=ValueError
        )

    async def _say(self, message: Message) -> tuple[Message, ...]:
        reply = await self._environment.reply(message)
        self.messages += (message, *reply.messages)
        self._turns.append(
            Turn(rendered_ids=(), completion=NO_COMPLETION, message=message, replies=reply.messages)
        )
        return reply.messages

"""What both sides of `bench/peers.py` play: the same tasks, tools and rewards, one step at a time.

The peer's Python reads this file and, for the tools, this program's micro-world; neither loads
torch. A world here is what the peer's own trainer can play: `Tools` has no user's turn, so an
episode ends with the first message that calls nothing or cannot be read; `OneTurn` ends with the
first message whatever it is. Shares of even ids are added to the oracle's reward, so that groups
differ and both sides train on every episode.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec

from trustee.environments.micro.environment import Microworld, MicroworldEnvironment
from trustee.environments.protocol import (
    DrawnState,
    Opening,
    Reply,
    Services,
    TaskSource,
    TaskSpec,
    read_state,
)
from trustee.environments.simulated.curriculum import Curriculum
from trustee.types import Completion, Group, Message, Score, Stop, Task, ToolCall, Turn

MICROWORLD = Microworld(
    difficulty=33, curriculum=Curriculum(tools=(3, 4), calls=(2, 3), turns=(1, 1), soft=0.0)
)
"""All is told in the first query, and two things are wanted: nobody need ask the user."""
EVEN_WEIGHT = 0.01


def even_share(ids: Sequence[int]) -> float:
    """Give the share of even ids: a reward that any two completions are likely to differ in."""
    return sum(id % 2 == 0 for id in ids) / max(1, len(ids))


def run_now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Give what a coroutine that waits for nothing returns."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the micro-world waits for nothing")


def write_tasks(count: int) -> list[Task]:
    """Draw tasks of the micro-world, whose source asks nobody; their tools in order of name.

    The peer offers the tools of a class, which Python lists in this order.
    """
    source = MICROWORLD.source(seed=0)
    nobody: Any = None
    specs = [source.make_spec(index) for index in range(count)]
    tasks = [run_now(source.write(spec, nobody)) for spec in specs]
    return [
        msgspec.structs.replace(task, tools=tuple(sorted(task.tools, key=lambda tool: tool.name)))
        for task in tasks
    ]


class Prompts:
    """A source of written tasks: the same ones again and again."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._drawn = 0

    def draw(self) -> TaskSpec:
        """Draw the next task's number."""
        index = self._drawn % len(self._tasks)
        self._drawn += 1
        return TaskSpec(id=f"prompt-{self._drawn}", seed=index, difficulty=1)

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Give the task."""
        return self._tasks[spec.seed]

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Stay as it is."""
        return {}

    def state(self) -> DrawnState:
        """Return the count."""
        return DrawnState(drawn=self._drawn)

    def restore(self, stored: msgspec.Raw) -> None:
        """Continue from the count."""
        self._drawn = read_state(stored, DrawnState).drawn


class OneTurn:
    """A world that ends with the policy's first message; also its own episode's environment."""

    def __init__(self, tasks: Sequence[Task], task: Task | None = None) -> None:
        self._tasks = tasks
        self._task = task

    def source(self, *, seed: int, held_out: bool = False) -> TaskSource:
        """Make the source."""
        return Prompts(self._tasks)

    def environment(self, task: Task, services: Services) -> OneTurn:
        """Make the environment of one episode."""
        return OneTurn(self._tasks, task)

    async def open(self) -> Opening:
        """Give the prompt."""
        assert self._task is not None, "an episode has a task"
        return Opening(messages=self._task.messages, tools=self._task.tools)

    async def reply(self, message: Message) -> Reply:
        """End the episode."""
        return Reply(messages=(), done=True)

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Give the share of even ids."""
        return Score(rewards={"even": even_share(turns[-1].completion.ids)})

    async def aclose(self) -> None:
        """Hold nothing."""


class Tools:
    """A world of tools that run and a user who says nothing after the query."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks

    def source(self, *, seed: int, held_out: bool = False) -> TaskSource:
        """Make the source."""
        return Prompts(self._tasks)

    def environment(self, task: Task, services: Services) -> ToolEpisode:
        """Make the environment of one episode."""
        return ToolEpisode(task)


class ToolEpisode(MicroworldEnvironment):
    """One episode of the micro-world without a user."""

    async def reply(self, message: Message) -> Reply:
        """Run calls; end with a message that has none, or one that cannot be read."""
        if not message.calls or any(not isinstance(call, ToolCall) for call in message.calls):
            return Reply(messages=(), done=True)
        return await super().reply(message)

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Give the oracle's reward, and a little for even ids."""
        said = [turn.completion.ids for turn in turns]
        truth = await super().score(turns, stop)
        even = EVEN_WEIGHT * even_share([id for ids in said for id in ids])
        rewards = truth.rewards | {"even": even}
        return msgspec.structs.replace(truth, rewards=rewards)

    def run_call(self, name: str, arguments: dict[str, Any]) -> str:
        """Run one call, for a caller who waits for nothing; give the tool's message."""
        call = ToolCall(id="call", name=name, arguments=arguments)
        reply = run_now(self.reply(Message(role="assistant", calls=(call,))))
        return str(reply.messages[0].content)

    def reward(self, texts: Sequence[str], ids: Sequence[int], stop: Stop) -> float:
        """Score an episode of which a caller kept what the policy said, and its ids."""
        silent = Completion(ids=(), logprobs=(), stop="stop", version=0)
        spoken = Completion(ids=tuple(ids), logprobs=(math.nan,) * len(ids), stop="stop", version=0)
        turns = [
            Turn(
                rendered_ids=(),
                completion=silent if index else spoken,
                message=Message(role="assistant", content=text),
            )
            for index, text in enumerate(texts)
        ]
        return float(sum(run_now(self.score(turns, stop)).rewards.values()))

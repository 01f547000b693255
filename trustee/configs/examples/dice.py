"""An environment in one file: dice lie in rooms, and the policy must look at each and report it.

    trustee run --config examples/dice.toml

trains the built-in model on it. Your own takes the same three parts: a config struct, a source of
tasks, and a class for one episode. The words are among the few that the built-in model knows: the
lamp of a room shows the pips of its die as its level. A larger model may be told of dice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from trustee.environments import CountedSource, PlainEpisode, Reply, Services, TaskSpec, WorldConfig
from trustee.tools.arguments import check_call
from trustee.types import BadCall, Call, Message, Outcome, Score, Stop, Task, Tool, Turn

ROOMS = ("hall", "attic", "cellar", "porch", "study", "kitchen")
ROOM = {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]}
LOOK = Tool(name="read_lamp", description="read the level of the lamp", parameters=ROOM)


class Dice(WorldConfig, frozen=True):
    """The world. Its fields are the keys of `[env]` in the config file, in addition to `kind`.

    What else a world can say about itself, such as the solution of a task, has a default.
    """

    dice: int = 2

    def source(self, *, seed: int, held_out: bool = False) -> DiceSource:
        """Make the source of tasks for training, or of those that training never makes."""
        return DiceSource(self.dice, seed=seed, held_out=held_out)

    def environment(self, task: Task, services: Services) -> DiceEpisode:
        """Make the environment of one episode."""
        return DiceEpisode(task)


class DiceSource(CountedSource):
    """The source of tasks. What it draws is a number and a seed; its base class counts them."""

    def __init__(self, dice: int, *, seed: int, held_out: bool) -> None:
        super().__init__(seed=seed)
        self.dice = dice
        self.faces = (2, 4, 6) if held_out else (1, 3, 5)

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Roll dice in different rooms and ask for them."""
        rng = random.Random(spec.seed)
        pips = {room: rng.choice(self.faces) for room in rng.sample(ROOMS, self.dice)}
        guidance = Message(role="system", content="call the tools and report .")
        query = Message(role="user", content=" and ".join(f"read lamp {room}" for room in pips))
        # What is hidden is for the environment alone: it never reaches the policy.
        return Task(
            id=spec.id, messages=(guidance, query), tools=(LOOK,), difficulty=1, hidden=pips
        )


class DiceEpisode(PlainEpisode):
    """One episode, used once. It begins with the messages and tools of its task."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.seen: set[str] = set()

    async def reply(self, message: Message) -> Reply:
        """Answer each call in its order; a message without any is the report, and the end."""
        answers = [(call.id, json.dumps(self.answer(call))) for call in message.calls]
        replies = tuple(Message(role="tool", call_id=id, content=text) for id, text in answers)
        return Reply(messages=replies, done=not message.calls)

    def answer(self, call: Call) -> dict[str, object]:
        """Return what a call brings: an error where it cannot be made, never an exception."""
        error = check_call(self.task.tools, call)
        if error or isinstance(call, BadCall):
            return {"error": error}
        room = call.arguments["room"]
        if room not in self.task.hidden:
            return {"error": f"there is no die in {room}"}
        self.seen.add(room)
        return {"level": self.task.hidden[room]}

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Pay the share of dice that were looked at and truly reported: guessing pays nothing."""
        report = turns[-1].message.content if turns else ""
        told = [r for r in self.seen if f"lamp {r} level {self.task.hidden[r]}" in report]
        share = len(told) / len(self.task.hidden)
        return Score(rewards={"dice": share}, outcome=Outcome(success=share == 1))

"""An environment in one file: dice lie in rooms, and the policy must look at each and tell it.

`trustee run --config examples/dice.toml` trains on it. A world of your own needs what stands here:
a config struct, a source of tasks, and a class for one episode. The words are those that the
built-in model of 3.5 million parameters knows, so a lamp in each room shows the pips of its die.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from trustee.environments.protocol import CountedSource, Opening, Reply, Services, TaskSpec
from trustee.environments.protocol import Environment, WorldConfig
from trustee.tools.arguments import check_call
from trustee.types import ExpectedCall, Message, Score, Stop, Task, Tool, ToolCall, Turn

ROOMS = ("hall", "attic", "cellar", "porch", "study", "kitchen")
ROOM = {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]}
LOOK = Tool(name="read_lamp", description="read the level of the lamp", parameters=ROOM)


class Dice(WorldConfig, frozen=True):
    """The world: its fields are the keys of `[env]` in the config file."""

    dice: int = 2

    def source(self, *, seed: int, held_out: bool = False) -> DiceSource:
        """Make the source of tasks; in training the pips add up to an odd number, else not."""
        return DiceSource(seed, dice=self.dice, odd=not held_out)

    def environment(self, task: Task, services: Services) -> Environment:
        """Make the environment of one episode."""
        return DiceEpisode(task)

    def reference_calls(self, task: Task) -> tuple[ExpectedCall, ...]:
        """Return the calls that solve a task: optional, it lets a teacher play."""
        return tuple(ExpectedCall(name=LOOK.name, arguments={"room": r}) for r in task.hidden)

"""An environment in one file: three covered dice, of which the highest is to be kept.

It is written outside the package, with nothing but the package's public protocols, so it shows what
a new environment takes: a config struct, a source, and one class for an episode.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import msgspec

from trustee.environments.protocol import Opening, Reply, Services, TaskSpec, read_state
from trustee.tools.arguments import check_arguments
from trustee.types import BadCall, Call, Group, Message, Record, Score, Stop, Task, Tool, Turn

DIE = {
    "type": "object",
    "properties": {"die": {"type": "integer", "minimum": 1, "maximum": 3}},
    "required": ["die"],
}
TOOLS = (
    Tool(name="look", description="look under a cup", parameters=DIE, effect="read"),
    Tool(name="keep", description="keep a die, instead of any before", parameters=DIE),
)


class Table(Record, frozen=True):
    """What the cups cover."""

    pips: tuple[int, int, int]


class Dice(Record, frozen=True, tag="dice", tag_field="kind"):
    """The world of dice."""

    specs: int | None = None
    """Tasks until the source is exhausted; None is no end."""

    def source(self, *, seed: int, held_out: bool = False) -> DiceSource:
        """Make the source of tasks; in training the pips add up to an odd number, else not."""
        return DiceSource(seed=seed, specs=self.specs, odd=not held_out)

    def environment(self, task: Task, services: Services) -> DiceEnvironment:
        """Make the environment of one episode."""
        return DiceEnvironment(task)


class DiceState(Record, frozen=True):
    """Where the source of dice stands."""

    drawn: int
    observed: tuple[int, ...]


class DiceSource:
    """Rolls dice."""

    def __init__(self, *, seed: int, specs: int | None, odd: bool) -> None:
        self._seed = seed
        self._odd = odd
        self._specs = specs
        self.drawn = 0
        self.observed: list[int] = []
        """Ids of the groups that it was shown."""

    def draw(self) -> TaskSpec | None:
        """Draw the next draft."""
        if self.drawn == self._specs:
            return None
        self.drawn += 1
        seed = random.Random(f"{self._seed} {self.drawn}").randrange(1 << 31)
        return TaskSpec(id=f"dice-{self.drawn}", seed=seed, difficulty=1)

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Cover three different dice."""
        rolls = [pips for pips in permutations(range(1, 7), 3) if sum(pips) % 2 == self._odd]
        table = Table(pips=random.Random(spec.seed).choice(rolls))
        return Task(
            id=spec.id,
            messages=(Message(role="user", content="keep the highest of the dice 1, 2 and 3"),),
            tools=TOOLS,
            difficulty=spec.difficulty,
            hidden=msgspec.to_builtins(table),
        )

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Count the groups."""
        self.observed += [group.id for group in groups]
        return {"observed": len(self.observed)}

    def state(self) -> DiceState:
        """Return the counts."""
        return DiceState(drawn=self.drawn, observed=tuple(self.observed))

    def restore(self, stored: msgspec.Raw) -> None:
        """Continue from the counts."""
        state = read_state(stored, DiceState)
        self.drawn, self.observed = state.drawn, list(state.observed)


class DiceEnvironment:
    """One game."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._pips = msgspec.convert(task.hidden, Table).pips
        self.state: dict[str, Any] = {}
        """The die that is kept."""

    async def open(self) -> Opening:
        """Lay out the dice."""
        return Opening(messages=self._task.messages, tools=self._task.tools)

    async def reply(self, message: Message) -> Reply:
        """Answer calls; any text ends the game."""
        replies = tuple(
            Message(role="tool", content=json.dumps(self._run(call)), call_id=call.id)
            for call in message.calls
        )
        return Reply(messages=replies, done=not message.calls)

    def _run(self, call: Call) -> dict[str, Any]:
        if isinstance(call, BadCall):
            return {"error": call.reason}
        tool = next((tool for tool in TOOLS if tool.name == call.name), None)
        if tool is None:
            return {"error": f"there is no tool {call.name!r}; the tools are look and keep"}
        error = check_arguments(tool, call.arguments)
        if error is not None:
            return {"error": error}
        if tool.name == "look":
            return {"pips": self._pips[call.arguments["die"] - 1]}
        self.state["kept"] = call.arguments["die"]
        return {"ok": True}

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Give 1 for the highest die, else -1."""
        kept = self.state.get("kept")
        won = kept is not None and self._pips[kept - 1] == max(self._pips)
        return Score(rewards={"kept": 1.0 if won else -1.0}, notes={"pips": self._pips})

    async def aclose(self) -> None:
        """Hold nothing."""

"""The true micro-world: its tools really run, its user is scripted, an oracle scores.

Training never sees it. A policy that was trained in the simulated micro-world is measured here, on
tasks whose tools are combined as training never combined them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import msgspec

from trustee.environments.micro.tasks import judge_truly, opening_messages, plan_task, sample_tools
from trustee.environments.micro.world import Goal, MicroWorld, ScriptedUser, write_intent
from trustee.environments.protocol import (
    DrawnState,
    Opening,
    Reply,
    Services,
    TaskSpec,
    read_state,
)
from trustee.environments.simulated.curriculum import Curriculum, Persona
from trustee.environments.simulated.environment import HiddenSimulated
from trustee.environments.simulated.facts import Executed, fact_lines, gather_facts
from trustee.environments.simulated.roles import Criterion
from trustee.tools.arguments import check_arguments
from trustee.types import (
    BadCall,
    Call,
    Group,
    Message,
    Outcome,
    Record,
    Score,
    Stop,
    Task,
    Turn,
)


class HiddenGoals(Record, frozen=True):
    """What only the world knows of a task."""

    goals: tuple[Goal, ...]
    persona: Persona
    told: int
    """Goals that the first query names."""
    seed: int
    """Of the world's first values."""


class Microworld(Record, frozen=True, tag="microworld", tag_field="kind"):
    """The scripted micro-world and its oracle."""

    difficulty: int = 60
    """Of its tasks; aspects below are drawn softly."""
    curriculum: Curriculum = Curriculum(tools=(2, 4), soft=1.0)
    """The bounds of the aspects; tools start at two, for a reserved pair has two."""

    def source(self, *, seed: int, held_out: bool = False) -> MicroworldSource:
        """Make the source of tasks."""
        return MicroworldSource(self, seed=seed, held_out=held_out)

    def environment(self, task: Task, services: Services) -> MicroworldEnvironment:
        """Make the environment of one episode."""
        return MicroworldEnvironment(task)

    def as_simulated(self, task: Task) -> Task:
        """Give a task as the simulated world would hold it: what its judge is told of a wish."""
        hidden = msgspec.convert(task.hidden, HiddenGoals)
        told = HiddenSimulated(
            intent=write_intent(hidden.goals),
            persona=hidden.persona,
            expected_calls=tuple(goal.call for goal in hidden.goals),
            criteria=(Criterion.FULFILLED,),
        )
        return msgspec.structs.replace(task, hidden=msgspec.to_builtins(told))


class MicroworldSource:
    """Draws tasks by script."""

    def __init__(self, config: Microworld, *, seed: int, held_out: bool) -> None:
        self._held_out = held_out
        self._config = config
        self._seed = seed
        self._drawn = 0

    def draw(self) -> TaskSpec:
        """Draw the next task spec."""
        rng = random.Random(f"{self._seed} microworld {self._drawn}")
        spec = TaskSpec(
            id=f"{'held-out' if self._held_out else 'task'}-{self._drawn:06d}",
            seed=rng.randrange(1 << 31),
            difficulty=self._config.difficulty,
        )
        self._drawn += 1
        return spec

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Make a task by script."""
        rng = random.Random(spec.seed)
        aspects = self._config.curriculum.draw_aspects(spec.difficulty, rng)
        tools = sample_tools(rng, max(2, aspects.tools), reserved=self._held_out)
        plan = plan_task(rng, tools, aspects)
        hidden = HiddenGoals(
            goals=plan.goals,
            persona=aspects.persona,
            told=plan.told,
            seed=rng.randrange(1 << 31),
        )
        return Task(
            id=spec.id,
            messages=opening_messages(aspects.guidance, plan.query),
            tools=tools,
            difficulty=spec.difficulty,
            hidden=msgspec.to_builtins(hidden),
        )

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Stay as it is."""
        return {}

    def state(self) -> DrawnState:
        """Return the count of task specs."""
        return DrawnState(drawn=self._drawn)

    def restore(self, stored: msgspec.Raw) -> None:
        """Continue from a stored state."""
        self._drawn = read_state(stored, DrawnState).drawn


class MicroworldEnvironment:
    """One episode in the true world."""

    def __init__(self, task: Task) -> None:
        hidden = msgspec.convert(task.hidden, HiddenGoals)
        self._task = task
        self._goals = hidden.goals
        self._tools = {tool.name: tool for tool in task.tools}
        self._world = MicroWorld(seed=hidden.seed)
        self._user = ScriptedUser(hidden.goals, persona=hidden.persona, told=hidden.told)
        self._executed: list[Executed] = []
        self._malformed = 0

    async def open(self) -> Opening:
        """Give the opening messages and tools."""
        return Opening(messages=self._task.messages, tools=self._task.tools)

    async def reply(self, message: Message) -> Reply:
        """Run calls; answer text as the user."""
        if message.calls:
            replies = tuple(self._answer_call(call) for call in message.calls)
            return Reply(messages=replies, done=False)
        text, done = self._user.reply(message.content)
        said = () if done else (Message(role="user", content=text),)
        return Reply(messages=said, done=done)

    def _answer_call(self, call: Call) -> Message:
        return Message(role="tool", content=json.dumps(self._run_call(call)), call_id=call.id)

    def _run_call(self, call: Call) -> dict[str, Any]:
        if isinstance(call, BadCall):
            self._malformed += 1
            return {"error": call.reason}
        tool = self._tools.get(call.name)
        if tool is None:
            self._malformed += 1
            return {"error": f"there is no tool {call.name!r}; the tools are {list(self._tools)}"}
        error = check_arguments(tool, call.arguments)
        if error is None:
            result, _ = self._world.call(call.name, call.arguments)
        else:
            result = {"error": error}
        self._executed.append(Executed(call=call, result=json.dumps(result), ok=error is None))
        return result

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Score by the truth: every goal reached, nothing else written, a true report."""
        expected = [goal.call for goal in self._goals]
        writes = frozenset(tool.name for tool in self._task.tools if tool.effect == "write")
        facts = gather_facts(self._executed, expected, malformed=self._malformed, writes=writes)
        truth = judge_truly(self._task.messages, turns, self._executed, facts)
        success = truth.criteria[Criterion.FULFILLED] and stop is Stop.DONE
        return Score(
            rewards={"success": float(success)},
            outcome=Outcome(criteria={c.value: holds for c, holds in truth.criteria.items()}),
            notes={"evidence": truth.evidence, "facts": fact_lines(facts)},
        )

    async def aclose(self) -> None:
        """Hold nothing."""

"""The real micro-world: working tools, a scripted user and an oracle that scores.

It is never used in training. A policy trained in the simulated micro-world is evaluated here, on
tasks with combinations of tools that training never used.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from trustee.environments.micro.tasks import (
    PROMPT_SET,
    judge_truly,
    opening_messages,
    plan_task,
    sample_tools,
)
from trustee.environments.micro.world import Goal, MicroWorld, ScriptedUser, write_intent
from trustee.environments.protocol import (
    CountedSource,
    PlainEpisode,
    Reply,
    Services,
    TaskSpec,
    WorldConfig,
)
from trustee.environments.simulated.curriculum import Curriculum, Persona
from trustee.environments.simulated.facts import Executed, fact_lines, gather_facts
from trustee.environments.simulated.roles import Criterion
from trustee.environments.simulated.scene import HiddenSimulated
from trustee.errors import InputError
from trustee.tools.arguments import check_call
from trustee.tools.values import render_json
from trustee.types import (
    BadCall,
    Call,
    ExpectedCall,
    Message,
    Outcome,
    Record,
    Score,
    Stop,
    Task,
    Turn,
)


class HiddenGoals(Record, frozen=True):
    """Data of a task that only the world sees."""

    goals: tuple[Goal, ...]
    persona: Persona
    told: int
    """Number of goals that the first query names."""
    seed: int
    """Seed of the world's initial values."""


class Microworld(WorldConfig, frozen=True, tag="microworld", tag_field="kind"):
    """Settings of the scripted micro-world with its oracle."""

    difficulty: int = 60
    """Difficulty of the tasks; aspects below it are drawn softly."""
    curriculum: Curriculum = Curriculum(tools=(2, 4), soft=1.0)
    """Bounds of the aspects; tools start at two, because a reserved pair has two."""

    def __post_init__(self) -> None:
        """Refuse limits that this world does not keep.

        Raises:
            InputError: naming the key.
        """
        if self.curriculum.bounds_turns is not None:
            raise InputError(
                "the micro-world does not end episodes by difficulty; leave out "
                "curriculum.bounds_turns, and set rollout.limits.turns"
            )

    def source(self, *, seed: int, held_out: bool = False) -> MicroworldSource:
        """Return the source of tasks."""
        return MicroworldSource(self, seed=seed, held_out=held_out)

    def environment(self, task: Task, services: Services) -> MicroworldEnvironment:
        """Return the environment of one episode."""
        return MicroworldEnvironment(task)

    def asks_simulator(self) -> bool:
        """Return that code plays the user and the tools, and knows the truth."""
        return False

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the prompt set with the policy's guidance."""
        return (PROMPT_SET,)

    def reference_calls(self, task: Task) -> tuple[ExpectedCall, ...]:
        """Return the calls that reach the goals."""
        return tuple(goal.call for goal in msgspec.convert(task.hidden, HiddenGoals).goals)

    def plays_script(self, *, in_trial: bool = False) -> bool:
        """Whether the scripted teacher knows the tasks: it only plays trials."""
        return in_trial

    def as_judged(self, task: Task) -> Task:
        """Return a task as the simulated world would hold it, with the intent its judge sees."""
        hidden = msgspec.convert(task.hidden, HiddenGoals)
        told = HiddenSimulated(
            intent=write_intent(hidden.goals),
            persona=hidden.persona,
            expected_calls=tuple(goal.call for goal in hidden.goals),
            criteria=(Criterion.FULFILLED,),
        )
        return msgspec.structs.replace(task, hidden=msgspec.to_builtins(told))


class MicroworldSource(CountedSource):
    """Generates tasks by script."""

    def __init__(self, config: Microworld, *, seed: int, held_out: bool) -> None:
        super().__init__(seed=seed)
        self._held_out = held_out
        self._config = config

    def make_spec(self, index: int) -> TaskSpec:
        """Return a task spec of the world's difficulty."""
        rng = random.Random(f"{self._seed} microworld {index}")
        return TaskSpec(
            id=f"{'held-out' if self._held_out else 'task'}-{index:06d}",
            seed=rng.randrange(1 << 31),
            difficulty=self._config.difficulty,
        )

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Generate a task by script."""
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


class MicroworldEnvironment(PlainEpisode):
    """One episode in the real micro-world."""

    def __init__(self, task: Task) -> None:
        hidden = msgspec.convert(task.hidden, HiddenGoals)
        super().__init__(task)
        self._goals = hidden.goals
        self._tools = {tool.name for tool in task.tools}
        self._world = MicroWorld(seed=hidden.seed)
        self._user = ScriptedUser(hidden.goals, persona=hidden.persona, told=hidden.told)
        self._executed: list[Executed] = []
        self._malformed = 0

    async def reply(self, message: Message) -> Reply:
        """Run calls, or answer text as the user."""
        if message.calls:
            replies = tuple(self._answer_call(call) for call in message.calls)
            return Reply(messages=replies, done=False)
        text, done = self._user.reply(message.content)
        said = () if done else (Message(role="user", content=text),)
        return Reply(messages=said, done=done)

    def _answer_call(self, call: Call) -> Message:
        return Message(role="tool", content=render_json(self._run_call(call)), call_id=call.id)

    def _run_call(self, call: Call) -> dict[str, Any]:
        error = check_call(self.task.tools, call)
        if isinstance(call, BadCall) or call.name not in self._tools:
            self._malformed += 1
            return {"error": error}
        if error is None:
            result, _ = self._world.call(call.name, call.arguments)
        else:
            result = {"error": error}
        self._executed.append(Executed(call=call, result=render_json(result), ok=error is None))
        return result

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Score by the true state: all goals reached, nothing else written, and a true report."""
        expected = [goal.call for goal in self._goals]
        writes = frozenset(tool.name for tool in self.task.tools if tool.effect == "write")
        facts = gather_facts(self._executed, expected, malformed=self._malformed, writes=writes)
        truth = judge_truly(self.task.messages, turns, self._executed, facts)
        success = truth.criteria[Criterion.FULFILLED] and stop is Stop.DONE
        return Score(
            rewards={"success": float(success)},
            outcome=Outcome(criteria={c.value: holds for c, holds in truth.criteria.items()}),
            notes={"evidence": truth.evidence, "facts": fact_lines(facts)},
        )

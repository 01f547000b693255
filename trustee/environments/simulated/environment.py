"""TRUSTEE's environment: one frozen model writes the task, plays user and tools, and judges.

This module holds its settings and its source of tasks; `episode` plays them.
Source: TRUSTEE, arXiv 2604.17739.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from trustee.environments.prompts import fill_prompt, read_prompt
from trustee.environments.protocol import (
    CountedSource,
    Services,
    TaskSpec,
    WorldConfig,
    read_state,
)
from trustee.environments.simulated.curriculum import HARDEST, Curriculum
from trustee.environments.simulated.episode import SimulatedEnvironment
from trustee.environments.simulated.role_sets import check_rules, role_set_of
from trustee.environments.simulated.roles import Criterion
from trustee.environments.simulated.rules import Rules, VerdictRule, Withheld
from trustee.environments.simulated.scene import HiddenSimulated
from trustee.environments.simulated.tool_sets import (
    PACKAGED,
    ToolSampling,
    ToolSets,
    explain_split,
    find_tools,
)
from trustee.errors import InputError
from trustee.runs.inputs import INPUT
from trustee.tools.files.notices import Notices
from trustee.tools.repository import Repository
from trustee.types import (
    PATH,
    ExpectedCall,
    Group,
    Message,
    Record,
    Task,
)


class Simulated(WorldConfig, frozen=True, tag="simulated", tag_field="kind"):
    """The simulated world."""

    prompts: str = "simulated"
    """Prompt set: `simulated` for models of 4B parameters or more, `tiny` for the built-in one,
    `published` with the inputs of the authors' code, which leaves more to the model."""
    verdict: VerdictRule = "facts"
    """What pays: `facts` before the judge, or, as in the authors' code, the judge alone:
    `published`."""
    thoughts: bool = False
    """Whether the roles of the `published` prompts read the policy's thoughts."""
    withheld: tuple[Withheld, ...] = ()
    """What the roles of the `published` prompts are not told: `intent`, `persona`, `calls`."""
    calls_at_once: Annotated[int, Meta(ge=0)] = 0
    """Calls of one message that are made; 0 for all."""
    result_chars: Annotated[int, Meta(ge=0)] = 0
    """Characters of a tool's answer that the policy sees, from its beginning and its end; 0 for
    all."""
    tools: Annotated[str, Meta(extra={PATH: True, INPUT: tuple(PACKAGED)})] = ""
    """File of tools to train on, or a packaged set: empty is the general one, `micro` that of the
    micro-world."""
    reserve_one_in: Annotated[int, Meta(ge=2)] = 60
    """One pair of tools in this many, and at least one pair, is reserved for evaluation: training
    never offers both."""
    sampling: ToolSampling = "linked"
    """Which tools go together: `linked` by the ids that they need; or `toolsets`, as in the
    authors' code: a category, all of them alike, and from its toolsets in random order as many as
    it takes."""
    curriculum: Curriculum = Curriculum()

    def __post_init__(self) -> None:
        """Refuse settings that have no effect together.

        Raises:
            InputError: naming them.
        """
        check_rules(self.judge_rules())

    def source(self, *, seed: int, held_out: bool = False) -> SimulatedSource:
        """Make the source of training tasks, or of those with a reserved pair of tools."""
        return SimulatedSource(self, find_tools(self.tools), seed=seed, held_out=held_out)

    def check(self, *, seed: int, held_out: bool = False) -> tuple[str, ...]:
        """Read the tools; say what of them is not used, and how few tools are split."""
        read_prompt(self.prompts, "writer")
        notices = Notices()
        tools = find_tools(self.tools, notices=notices)
        SimulatedSource(self, tools, seed=seed, held_out=held_out)
        split = explain_split(tools, one_in=self.reserve_one_in)
        return (*(f"{self.tools}: {line}" for line in notices.lines()), *split)

    def environment(self, task: Task, services: Services) -> SimulatedEnvironment:
        """Return the environment of one episode."""
        return SimulatedEnvironment(task, services, rules=self.judge_rules())

    def judge_rules(self) -> Rules:
        """Return the rules of the episodes, because the judge pays here."""
        return Rules(
            prompts=self.prompts,
            verdict=self.verdict,
            thoughts=self.thoughts,
            withheld=self.withheld,
            calls_at_once=self.calls_at_once,
            result_chars=self.result_chars,
        )

    def package_source(self, *, seed: int, tasks: int, held_out: bool) -> SpreadSource:
        """Return a source of tasks over the whole range of difficulties.

        Raises:
            InputError: if tools would have to see the dialogue, or episodes to be counted there.
        """
        for key, kept, needed in (
            ("prompts", self.prompts != "published", "a set whose tools do not read the dialogue"),
            ("calls_at_once", not self.calls_at_once, "0"),
            ("curriculum.bounds_turns", self.curriculum.bounds_turns is None, "none"),
        ):
            if not kept:
                raise InputError(
                    f"env.{key} must be {needed} in a package: its tools are served apart from the "
                    "dialogue, one call at a time; set it, or leave it out"
                )
        tools = find_tools(self.tools)
        return SpreadSource(self, tools, seed=seed, tasks=tasks, held_out=held_out)

    def refuse_trial(self) -> str | None:
        """Refuse a trial of tasks without known calls, and limits that a trial would not keep."""
        if self.prompts == "published":
            return (
                "prompts must be a set whose tasks name arguments, got 'published': no changed "
                "tool could be proved to solve a task that names tools alone"
            )
        if self.curriculum.bounds_turns is not None:
            return (
                "curriculum.bounds_turns must be none in a trial, which has limits of its own: "
                "env.trial_turns and env.execution_turns"
            )
        return None

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the prompt set of the roles."""
        return (self.prompts,)

    def teacher_prompts(self) -> str:
        """Return the prompt set, or for the published one, which has no teacher, ours."""
        return "simulated" if self.prompts == "published" else self.prompts

    def reference_calls(self, task: Task) -> tuple[ExpectedCall, ...]:
        """Return the calls that the writer expects; none where it names tools alone."""
        return msgspec.convert(task.hidden, HiddenSimulated).expected_calls


class SimulatedState(Record, frozen=True):
    """Where a source of simulated tasks stands."""

    difficulty: int
    drawn: int
    """Task specs drawn."""


class SimulatedSource(CountedSource):
    """Draws tools and aspects by difficulty, has the writer make tasks of them, and is steered."""

    def __init__(
        self, config: Simulated, repository: Repository, *, seed: int, held_out: bool
    ) -> None:
        super().__init__(seed=seed)
        self._config = config
        self.tool_sets = ToolSets(
            repository,
            one_in=config.reserve_one_in,
            with_reserved=held_out,
            sampling=config.sampling,
        )
        self.difficulty = config.curriculum.start

    def make_spec(self, index: int) -> TaskSpec:
        """Return a task spec of the difficulty of the moment."""
        rng = random.Random(f"{self._seed} draft {index}")
        return TaskSpec(
            id=f"task-{index:06d}", seed=rng.randrange(1 << 31), difficulty=self.difficulty
        )

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Have the writer turn a task spec into a task."""
        rng = random.Random(spec.seed)
        aspects = self._config.curriculum.draw_aspects(spec.difficulty, rng)
        tools = self.tool_sets.sample(rng, aspects.tools)
        roles = role_set_of(self._config.judge_rules())
        written = await roles.write(services.simulator, tools, aspects, seed=spec.seed)
        hidden = HiddenSimulated(
            intent=written.intent,
            persona=written.persona,
            expected_calls=written.expected_calls,
            criteria=tuple(Criterion)[: aspects.strictness],
            wishes=written.wishes,
            told=written.told,
            expected_names=written.expected_names,
            limits=self._config.curriculum.limit_turns(spec.difficulty),
        )
        guidance = fill_prompt(self._config.prompts, f"agent_{aspects.guidance}")
        return Task(
            id=spec.id,
            messages=(
                Message(role="system", content=guidance),
                Message(role="user", content=written.query),
            ),
            tools=tools,
            difficulty=spec.difficulty,
            hidden=msgspec.to_builtins(hidden),
        )

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Adjust the difficulty to the rewards of a step's valid episodes."""
        rewards = [trajectory.reward for group in groups for trajectory in group.valid]
        self.difficulty = self._config.curriculum.advance(self.difficulty, rewards)
        bounds = self._config.curriculum.list_bounds(self.difficulty)
        return {"difficulty": self.difficulty, **bounds}

    def state(self) -> SimulatedState:
        """Return the difficulty and the count of task specs."""
        return SimulatedState(difficulty=self.difficulty, drawn=self.drawn)

    def restore(self, stored: msgspec.Raw) -> None:
        """Continue from a stored state."""
        state = read_state(stored, SimulatedState)
        self.difficulty, self.drawn = state.difficulty, state.drawn


class SpreadSource(SimulatedSource):
    """A number of tasks whose difficulties are spread evenly over the range; nothing steers it."""

    def __init__(
        self, config: Simulated, repository: Repository, *, seed: int, tasks: int, held_out: bool
    ) -> None:
        super().__init__(config, repository, seed=seed, held_out=held_out)
        self._tasks = tasks

    def draw(self) -> TaskSpec | None:
        """Return the next task spec, from the easiest to the hardest."""
        if self.drawn >= self._tasks:
            return None
        self.difficulty = 1 + self.drawn * (HARDEST - 1) // max(1, self._tasks - 1)
        return super().draw()

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Learn nothing."""
        return {}

"""A simulated world with an anchor: some tasks have executable tools and a verifiable reward.

The judge of the simulated world also scores the anchor's episodes, where its verdict does not
count. How far it follows the verifiable reward shows how far it can be trusted elsewhere. This
correlation is measured over a window of episodes, reported with each step and checked by a gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import StatisticsError, correlation
from typing import Annotated

import msgspec
from msgspec import Meta

from trustee.environments.executable.environment import Executable
from trustee.environments.executable.solutions import HiddenExecutable
from trustee.environments.hints import Hints
from trustee.environments.protocol import (
    Environment,
    Opening,
    Reply,
    Services,
    TaskSource,
    TaskSpec,
    World,
    WorldConfig,
    read_state,
    store_state,
)
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulated.episode import judge_episode
from trustee.environments.simulated.roles import Criterion
from trustee.environments.simulated.rules import Rules
from trustee.environments.simulated.scene import HiddenSimulated
from trustee.errors import SimulatorError
from trustee.types import ExpectedCall, Group, Message, Record, Score, Stop, Task, Trajectory, Turn

SOFT, HARD = "soft", "hard"


class Anchored(WorldConfig, frozen=True, tag="anchored", tag_field="kind"):
    """The simulated world with an anchor."""

    hard: Executable
    """World of the anchor's tasks."""
    soft: Simulated = Simulated()
    """World of all other tasks."""
    share: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    """Share of tasks that come from the anchor."""
    window: Annotated[int, Meta(ge=2)] = 256
    """Number of the latest anchor episodes over which judge and verifiable reward are compared."""

    def source(self, *, seed: int, held_out: bool = False) -> AnchoredSource:
        """Return the source of both kinds of tasks."""
        return AnchoredSource(
            self,
            soft=self.soft.source(seed=seed, held_out=held_out),
            hard=self.hard.source(seed=seed, held_out=held_out),
        )

    def environment(self, task: Task, services: Services) -> Environment:
        """Return the environment of one episode, from the world of its task."""
        inner = unwrap(task)
        if task.hidden["world"] == SOFT:
            return self.soft.environment(inner, services)
        return JudgedEnvironment(
            inner,
            self.hard.environment(inner, services),
            services,
            rules=self.soft.judge_rules(),
        )

    def check(self, *, seed: int, held_out: bool = False) -> tuple[str, ...]:
        """Check both worlds."""
        return tuple(
            text
            for world in (self.soft, self.hard)
            for text in world.check(seed=seed, held_out=held_out)
        )

    def judge_rules(self) -> Rules:
        """Return the rules of the simulated world's judge."""
        return self.soft.judge_rules()

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the prompt sets of both worlds."""
        return tuple(dict.fromkeys((*self.soft.prompt_sets(), *self.hard.prompt_sets())))

    def needs_sandbox(self) -> bool:
        """Whether tools are code: always true, because the anchor's tools are."""
        return True

    def reference_calls(self, task: Task) -> tuple[ExpectedCall, ...]:
        """Return the solution from the world of the task."""
        return self._world_of(task).reference_calls(unwrap(task))

    def count_expected_calls(self, task: Task) -> int:
        """Return the count from the world of the task."""
        return self._world_of(task).count_expected_calls(unwrap(task))

    def hints(self, task: Task) -> Hints:
        """Return the hints from the world of the task."""
        return self._world_of(task).hints(unwrap(task))

    def refuse_trial(self) -> str:
        """Refuse a trial, because an anchored task does not say in which world a call is tried."""
        return 'kind must be a world with one kind of task inside a trial, got "anchored"'

    def _world_of(self, task: Task) -> World:
        return self.soft if task.hidden["world"] == SOFT else self.hard


def wrap(task: Task, world: str) -> Task:
    """Return a task that also records which world it comes from."""
    return msgspec.structs.replace(task, hidden={"world": world, "hidden": task.hidden})


def unwrap(task: Task) -> Task:
    """Return a task as its own world created it."""
    return msgspec.structs.replace(task, hidden=task.hidden["hidden"])


class AnchoredState(Record, frozen=True):
    """State of a source with an anchor."""

    soft: msgspec.Raw
    hard: msgspec.Raw
    drawn: int
    """Number of task specs drawn, of both kinds."""
    opinions: tuple[tuple[float, float], ...]
    """Judge's verdict and verifiable reward of the anchor's latest episodes."""


class AnchoredSource:
    """Draws from two sources in a fixed rhythm and compares judge and verifiable reward."""

    def __init__(self, config: Anchored, *, soft: TaskSource, hard: TaskSource) -> None:
        self._config = config
        self._sources = {SOFT: soft, HARD: hard}
        self._drawn = 0
        self._opinions: list[tuple[float, float]] = []
        """Judge's verdict and verifiable reward of the anchor's latest episodes."""

    def draw(self) -> TaskSpec | None:
        """Return the next task spec, from the anchor as often as its share says."""
        share, index = self._config.share, self._drawn
        world = HARD if int((index + 1) * share) > int(index * share) else SOFT
        spec = self._sources[world].draw()
        self._drawn += 1
        if spec is None:
            return None
        return msgspec.structs.replace(
            spec,
            id=f"{world}-{spec.id}",
            data={"world": world, "id": spec.id, "data": spec.data},
        )

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Turn a task spec into a task of its world."""
        world, own = spec.data["world"], spec.data
        inner = msgspec.structs.replace(spec, id=own["id"], data=own["data"])
        task = await self._sources[world].write(inner, services)
        return msgspec.structs.replace(wrap(task, world), id=spec.id)

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Steer each source by its own groups; return how far the judge follows the true reward."""
        figures: dict[str, float] = {}
        for world, source in self._sources.items():
            own = [
                msgspec.structs.replace(group, task=unwrap(group.task))
                for group in groups
                if group.task is not None and group.task.hidden["world"] == world
            ]
            figures |= source.observe(own)
            if world == HARD:
                self._opinions += [
                    pair for group in own for pair in map(compare, group.valid) if pair
                ]
        self._opinions = self._opinions[-self._config.window :]
        figures["anchor_episodes"] = len(self._opinions)
        agreement = correlate(self._opinions)
        return figures if agreement is None else figures | {"anchor_correlation": agreement}

    def state(self) -> AnchoredState:
        """Return the states of both sources, the count of task specs and the window."""
        return AnchoredState(
            soft=store_state(self._sources[SOFT].state()),
            hard=store_state(self._sources[HARD].state()),
            drawn=self._drawn,
            opinions=tuple(self._opinions),
        )

    def restore(self, stored: msgspec.Raw) -> None:
        """Continue from a stored state."""
        state = read_state(stored, AnchoredState)
        self._sources[SOFT].restore(state.soft)
        self._sources[HARD].restore(state.hard)
        self._drawn, self._opinions = state.drawn, list(state.opinions)


def compare(trajectory: Trajectory) -> tuple[float, float] | None:
    """Return the judge's verdict and the verifiable reward of an anchor episode that has both."""
    judged = trajectory.outcome.judged
    return None if judged is None else (judged, trajectory.reward)


def correlate(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Pearson's correlation, or None if one side never varies."""
    try:
        return correlation([judged for judged, _ in pairs], [proved for _, proved in pairs])
    except StatisticsError:
        return None


class JudgedEnvironment:
    """An episode with a verifiable reward that the judge also scores."""

    def __init__(self, task: Task, inner: Environment, services: Services, *, rules: Rules) -> None:
        self._task = task
        self._inner = inner
        self._services = services
        self._rules = rules

    async def open(self) -> Opening:
        """Open the inner environment."""
        return await self._inner.open()

    async def reply(self, message: Message) -> Reply:
        """Pass the message to the inner environment and return its reply."""
        return await self._inner.reply(message)

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Return the verifiable score, with the judge's reward added to the outcome."""
        score = await self._inner.score(turns, stop)
        try:
            opinion = await judge_episode(
                as_simulated(self._task),
                turns,
                stop,
                self._services,
                rules=self._rules,
            )
        except SimulatorError as error:
            # The verdict pays nothing here, so a missing one only spoils the comparison.
            return msgspec.structs.replace(score, notes=score.notes | {"unjudged": str(error)})
        judged = sum(opinion.rewards.values())
        outcome = msgspec.structs.replace(score.outcome, judged=judged)
        return msgspec.structs.replace(score, outcome=outcome)

    async def aclose(self) -> None:
        """Close the inner environment."""
        await self._inner.aclose()


def as_simulated(task: Task) -> Task:
    """Return an anchor's task as the simulated world would hold it, for its judge."""
    # A task that starts in the middle of an episode ends with a tool's answer.
    asked = [message.content for message in task.messages if message.role == "user"]
    told = HiddenSimulated(
        intent=asked[-1],
        persona="expert",
        expected_calls=msgspec.convert(task.hidden, HiddenExecutable).gold,
        criteria=(Criterion.FULFILLED,),
    )
    return msgspec.structs.replace(task, hidden=msgspec.to_builtins(told))

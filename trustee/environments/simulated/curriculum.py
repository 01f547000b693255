"""The curriculum: one difficulty number, moved by the mean reward of a step, that bounds tasks.

A pure state machine: `advance` returns the next difficulty, `draw_aspects` the aspects of a task.
Source: TRUSTEE (arXiv 2604.17739), adaptive curriculum, and its authors' code, whose rules are the
values `published`, `whole` and the like; the defaults are ours (docs/published.md).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from trustee.environments.simulated.mapping import HARDEST as HARDEST
from trustee.environments.simulated.mapping import MAPPINGS, AspectMapping, MappingName
from trustee.environments.simulated.mapping import Guidance as Guidance
from trustee.errors import InputError
from trustee.types import Record, Share

Persona = Literal["expert", "beginner", "novice"]
Ambiguity = Literal["clear", "somewhat", "highly"]
AspectName = Literal["tools", "calls", "turns", "guidance", "persona", "ambiguity", "strictness"]
GUIDANCE: tuple[Guidance, ...] = MAPPINGS["even"].guidance
PERSONAS: tuple[Persona, ...] = ("expert", "beginner", "novice")
AMBIGUITIES: tuple[Ambiguity, ...] = ("clear", "somewhat", "highly")
T = TypeVar("T")

Difficulty = Annotated[int, msgspec.Meta(ge=1, le=HARDEST)]
TurnCount = Annotated[int, Meta(ge=1)]


class Aspects(Record, frozen=True):
    """The paper's seven aspects of a task."""

    tools: int
    """Number of tools offered."""
    calls: int
    """Number of calls expected."""
    turns: int
    """Number of user turns expected; to the published writer, a level of length from 1 to 3."""
    guidance: Guidance
    """How much the policy's system prompt helps."""
    persona: Persona
    ambiguity: Ambiguity
    """How much the first query leaves out."""
    strictness: int
    """Number of criteria that count, from the first."""


class TurnLimits(Record, frozen=True):
    """How long an episode of a task may be."""

    user: int
    """Answers of the user; one more ends the episode."""
    assistant: int
    """Messages of the policy."""
    tool: int
    """Messages of the policy that tools answer; one more ends the episode."""


class Curriculum(Record, frozen=True):
    """The bounds of the aspects and the rule that moves the difficulty."""

    start: Difficulty = 1
    """Difficulty of the first step."""
    delta: Annotated[int, msgspec.Meta(ge=0)] = 3
    """Amount by which one step changes the difficulty."""
    raise_above: float = 0.5
    """Mean reward above which tasks get harder."""
    lower_below: float = 0.0
    """Mean reward below which tasks get easier."""
    inclusive: bool = False
    """Whether a mean equal to a threshold moves the difficulty too, as in the authors' code."""
    mapping: MappingName = "even"
    """How the bounds grow with the difficulty: `even`, or `published` as in the authors' code."""
    soft: Share = 0.5
    """Share of tasks whose aspects are drawn at random within `reach` (the paper's epsilon)."""
    reach: Literal["bound", "whole"] = "bound"
    """What a soft draw reaches: every aspect up to its `bound`; or, as in the authors' code, all
    but guidance and strictness over the `whole` range, with a coin of its own for tools."""
    tools: tuple[int, int] = (1, 10)
    """Tools offered at difficulty 1 and at 100; likewise for the next three."""
    calls: tuple[int, int] = (1, 3)
    """Calls expected at difficulty 1 and at 100."""
    turns: tuple[int, int] = (1, 2)
    """User turns expected at difficulty 1 and at 100."""
    strictness: tuple[int, int] = (1, 5)
    """Criteria that count at difficulty 1 and at 100."""
    criteria: Annotated[int, msgspec.Meta(ge=1, le=5)] = 5
    """Most criteria that count at any difficulty; a small judge keeps few apart."""
    bounds_turns: tuple[TurnCount, TurnCount, TurnCount] | None = None
    """User, assistant and tool turns of an episode at difficulty 100, which bound it by its task's
    difficulty; none: `rollout.limits.turns` alone does."""
    pinned: tuple[AspectName, ...] = ()
    """Aspects that always have their value at difficulty 100; `turns` pins `bounds_turns` too."""

    def __post_init__(self) -> None:
        """Refuse impossible bounds.

        Raises:
            InputError: if a lower bound is below 1 or above its upper bound.
        """
        for name in ("tools", "calls", "turns", "strictness"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise InputError(
                    f"{name} must be two numbers of at least 1 in ascending order, got "
                    f"[{low}, {high}] (env.curriculum.{name})"
                )

    @property
    def _mapping(self) -> AspectMapping:
        return MAPPINGS[self.mapping]

    def advance(self, difficulty: int, rewards: Sequence[float]) -> int:
        """Return the next difficulty after a step with these rewards; unchanged without any."""
        if not rewards:
            return difficulty
        mean = sum(rewards) / len(rewards)
        if mean > self.raise_above or (self.inclusive and mean == self.raise_above):
            return min(HARDEST, difficulty + self.delta)
        if mean < self.lower_below or (self.inclusive and mean == self.lower_below):
            return max(1, difficulty - self.delta)
        return difficulty

    def bound(self, difficulty: int) -> Aspects:
        """Return the hardest aspects that a difficulty allows."""
        return self._pin(self._map(difficulty))

    def list_bounds(self, difficulty: int) -> dict[str, float]:
        """Return the bounds of a difficulty as figures; of words, how many are easier."""
        most, limits = self.bound(difficulty), self.limit_turns(difficulty)
        numbers = {
            "tools": most.tools,
            "calls": most.calls,
            "turns": most.turns,
            "guidance": self._mapping.guidance.index(most.guidance),
            "persona": PERSONAS.index(most.persona),
            "ambiguity": AMBIGUITIES.index(most.ambiguity),
            "strictness": most.strictness,
        }
        if limits is not None:
            numbers |= {
                "user_turns": limits.user,
                "assistant_turns": limits.assistant,
                "tool_turns": limits.tool,
            }
        return {f"most_{name}": number for name, number in numbers.items()}

    def _map(self, difficulty: int) -> Aspects:
        mapping = self._mapping
        return Aspects(
            tools=mapping.count(difficulty, self.tools),
            calls=mapping.count(difficulty, self.calls),
            turns=mapping.level(difficulty, self.turns),
            guidance=mapping.grade(difficulty, mapping.guidance),
            persona=mapping.grade(difficulty, PERSONAS),
            ambiguity=mapping.grade(difficulty, AMBIGUITIES),
            strictness=min(self.criteria, mapping.level(difficulty, self.strictness)),
        )

    def _pin(self, aspects: Aspects) -> Aspects:
        """Return aspects with the pinned ones at their value at difficulty 100."""
        hardest = self._map(HARDEST)
        return msgspec.structs.replace(
            aspects, **{name: getattr(hardest, name) for name in self.pinned}
        )

    def limit_turns(self, difficulty: int) -> TurnLimits | None:
        """Return how long an episode of a task may be; None if its difficulty does not say.

        A policy gets two messages at least: one to call, one to report.
        """
        if self.bounds_turns is None:
            return None
        if "turns" in self.pinned:
            difficulty = HARDEST
        user, assistant, tool = (most * difficulty // HARDEST for most in self.bounds_turns)
        return TurnLimits(user=max(1, user), assistant=max(2, assistant), tool=max(1, tool))

    def draw_aspects(self, difficulty: int, rng: random.Random) -> Aspects:
        """Draw a task's aspects: the bounds, or with probability `soft` anything in reach."""
        draw = self._draw_whole if self.reach == "whole" else self._draw_below
        return self._pin(draw(self.bound(difficulty), rng))

    def _draw_below(self, most: Aspects, rng: random.Random) -> Aspects:
        """Return the bounds, or all aspects drawn up to them."""
        if rng.random() >= self.soft:
            return most

        def below(words: tuple[T, ...], bound: T) -> T:
            return rng.choice(words[: words.index(bound) + 1])

        return Aspects(
            tools=rng.randint(self.tools[0], most.tools),
            calls=rng.randint(self.calls[0], most.calls),
            turns=rng.randint(self.turns[0], most.turns),
            guidance=below(self._mapping.guidance, most.guidance),
            persona=below(PERSONAS, most.persona),
            ambiguity=below(AMBIGUITIES, most.ambiguity),
            strictness=rng.randint(min(self.strictness[0], most.strictness), most.strictness),
        )

    def _draw_whole(self, most: Aspects, rng: random.Random) -> Aspects:
        """Return the bounds, with tools and, apart from them, four more drawn from everything."""
        tools = rng.randint(*self.tools) if rng.random() < self.soft else most.tools
        if rng.random() >= self.soft:
            return msgspec.structs.replace(most, tools=tools)
        return msgspec.structs.replace(
            most,
            tools=tools,
            calls=rng.randint(*self.calls),
            turns=rng.randint(*self.turns),
            persona=rng.choice(PERSONAS),
            ambiguity=rng.choice(AMBIGUITIES),
        )

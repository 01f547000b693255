"""The curriculum: one difficulty number, moved by the mean reward of a step, that bounds tasks.

A pure state machine: `advance` returns the next difficulty, `draw_aspects` the aspects of a task.
Source: TRUSTEE (arXiv 2604.17739), adaptive curriculum; the mapping from difficulty to each aspect
is not published and is ours: numbers grow linearly, ordered words split the range evenly.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec

from trustee.errors import InputError
from trustee.types import Record, Share

Guidance = Literal["detailed", "plain", "generic"]
Persona = Literal["expert", "beginner", "novice"]
Ambiguity = Literal["clear", "somewhat", "highly"]
GUIDANCE: tuple[Guidance, ...] = ("detailed", "plain", "generic")
PERSONAS: tuple[Persona, ...] = ("expert", "beginner", "novice")
AMBIGUITIES: tuple[Ambiguity, ...] = ("clear", "somewhat", "highly")
HARDEST = 100
T = TypeVar("T")

Difficulty = Annotated[int, msgspec.Meta(ge=1, le=HARDEST)]


class Aspects(Record, frozen=True):
    """The paper's seven aspects of a task."""

    tools: int
    """Number of tools offered."""
    calls: int
    """Number of calls expected."""
    turns: int
    """Number of user turns expected."""
    guidance: Guidance
    """How much the policy's system prompt helps."""
    persona: Persona
    ambiguity: Ambiguity
    """How much the first query leaves out."""
    strictness: int
    """Number of criteria that count, from the first."""


class Curriculum(Record, frozen=True):
    """The bounds of the aspects and the rule that moves the difficulty."""

    start: Difficulty = 1
    """Difficulty of the first step (not given in the paper)."""
    delta: Annotated[int, msgspec.Meta(ge=0)] = 3
    """Amount by which one step changes the difficulty."""
    raise_above: float = 0.5
    """Mean reward above which tasks get harder."""
    lower_below: float = 0.0
    """Mean reward below which tasks get easier."""
    soft: Share = 0.5
    """Share of tasks whose aspects are drawn at random below their bounds (the paper's epsilon)."""
    tools: tuple[int, int] = (1, 10)
    """Tools offered at difficulty 1 and at 100; likewise for the next three."""
    calls: tuple[int, int] = (1, 3)
    """Calls expected at difficulty 1 and at 100."""
    turns: tuple[int, int] = (1, 2)
    """User turns expected at difficulty 1 and at 100."""
    strictness: tuple[int, int] = (1, 5)
    """Criteria that count at difficulty 1 and at 100."""

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

    def advance(self, difficulty: int, rewards: Sequence[float]) -> int:
        """Return the next difficulty after a step with these rewards; unchanged without any."""
        if not rewards:
            return difficulty
        mean = sum(rewards) / len(rewards)
        change = self.delta * ((mean > self.raise_above) - (mean < self.lower_below))
        return min(HARDEST, max(1, difficulty + change))

    def bound(self, difficulty: int) -> Aspects:
        """Return the hardest aspects that a difficulty allows."""
        share = (difficulty - 1) / (HARDEST - 1)

        def count(bounds: tuple[int, int]) -> int:
            low, high = bounds
            return low + int((high - low) * share + 0.5)

        def grade(words: tuple[T, ...]) -> T:
            return words[min(len(words) - 1, int(share * len(words)))]

        return Aspects(
            tools=count(self.tools),
            calls=count(self.calls),
            turns=count(self.turns),
            guidance=grade(GUIDANCE),
            persona=grade(PERSONAS),
            ambiguity=grade(AMBIGUITIES),
            strictness=count(self.strictness),
        )

    def draw_aspects(self, difficulty: int, rng: random.Random) -> Aspects:
        """Draw a task's aspects: the bounds, or with probability `soft` anything up to them."""
        most = self.bound(difficulty)
        if rng.random() >= self.soft:
            return most

        def below(words: tuple[T, ...], bound: T) -> T:
            return rng.choice(words[: words.index(bound) + 1])

        return Aspects(
            tools=rng.randint(self.tools[0], most.tools),
            calls=rng.randint(self.calls[0], most.calls),
            turns=rng.randint(self.turns[0], most.turns),
            guidance=below(GUIDANCE, most.guidance),
            persona=below(PERSONAS, most.persona),
            ambiguity=below(AMBIGUITIES, most.ambiguity),
            strictness=rng.randint(self.strictness[0], most.strictness),
        )

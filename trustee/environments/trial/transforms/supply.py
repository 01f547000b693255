"""Transforms of the supply: one tool that is silently broken, and tools that only look alike.

Both add tools that wear another's face and answer without reaching it. Which of two twins works is
drawn for each task, so that only trying tells.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from trustee.environments.trial.transforms.disguise import Perturbation, ToolAlias
from trustee.types import ExpectedCall, Record, Tool

SUFFIXES = ("alpha", "bravo", "delta", "echo", "tango", "zulu")
"""What tells twins apart, words of the built-in model; where they are used up, numbers do."""
SUFFIX = re.compile(rf"_({'|'.join(SUFFIXES)}|\d+)\Z")
Way = Literal["error", "empty", "null"]
BROKEN_ANSWERS: dict[Way, str] = {
    "error": '{"error": "down"}',
    "empty": "{}",
    "null": '{"result": null}',
}
"""What a dead tool answers, by the way in which it is dead."""


class Break(Record, frozen=True, tag="break", tag_field="kind"):
    """Breaks one tool that the task needs, and says so nowhere."""

    how: Way = "error"
    alternative: bool = True
    """A second tool does the same; without one, tasks that need the tool are refused."""

    def draw(
        self,
        tools: Sequence[Tool],
        rng: random.Random,
        *,
        reference: Sequence[ExpectedCall],
        held_out: bool,
    ) -> Perturbation | None:
        """Draw the tool, and which of its two names is the broken one's."""
        needed = sorted({call.name for call in reference} or {tool.name for tool in tools})
        broken = rng.choice(needed)
        aliases = {tool.name: ToolAlias(inner=tool.name) for tool in tools}
        dead = ToolAlias(inner=broken, answer=BROKEN_ANSWERS[self.how])
        if not self.alternative:
            return Perturbation(kind="break", tools=tuple(tools), aliases=aliases | {broken: dead})
        twins = add_twins(tools, broken, rng, count=1)
        names = [broken, *(twin.name for twin in twins)]
        aliases |= {name: ToolAlias(inner=broken) for name in names} | {rng.choice(names): dead}
        return Perturbation(kind="break", tools=(*tools, *twins), aliases=aliases)


class Lookalikes(Record, frozen=True, tag="lookalikes", tag_field="kind"):
    """Adds tools that look like a needed one and do nothing of use."""

    count: Annotated[int, Meta(ge=1)] = 1
    how: Way = "null"

    def draw(
        self,
        tools: Sequence[Tool],
        rng: random.Random,
        *,
        reference: Sequence[ExpectedCall],
        held_out: bool,
    ) -> Perturbation | None:
        """Draw the tool that they look like, and which name is the true one's."""
        needed = sorted({call.name for call in reference} or {tool.name for tool in tools})
        model = rng.choice(needed)
        twins = add_twins(tools, model, rng, count=self.count)
        names = [model, *(twin.name for twin in twins)]
        living = rng.choice(names)
        dead = ToolAlias(inner=model, answer=BROKEN_ANSWERS[self.how])
        aliases = {tool.name: ToolAlias(inner=tool.name) for tool in tools}
        aliases |= {name: ToolAlias(inner=model) if name == living else dead for name in names}
        return Perturbation(kind="lookalikes", tools=(*tools, *twins), aliases=aliases)


def add_twins(
    tools: Sequence[Tool], name: str, rng: random.Random, *, count: int
) -> tuple[Tool, ...]:
    """Give tools that differ from one only by a word behind its name."""
    (model,) = (tool for tool in tools if tool.name == name)
    stem = SUFFIX.sub("", name)
    taken = {tool.name for tool in tools}
    words = rng.sample(SUFFIXES, len(SUFFIXES))
    endings = itertools.chain(words, map(str, itertools.count(2)))
    free = (f"{stem}_{end}" for end in endings if f"{stem}_{end}" not in taken)
    return tuple(
        msgspec.structs.replace(model, name=twin) for twin in itertools.islice(free, count)
    )

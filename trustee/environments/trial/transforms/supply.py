"""Transforms of which tools work: one that is silently broken, and useless lookalikes.

Both add tools that look like an existing one but never call it. Which of the twins works is drawn
for each task, so the only way to find out is to try.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from trustee.environments.trial.transforms.perturbation import Perturbation, ToolAlias
from trustee.types import ExpectedCall, Record, Tool

SUFFIXES = ("alpha", "bravo", "delta", "echo", "tango", "zulu")
"""Name endings of twins, which are words that the built-in model knows; then numbers are used."""
SUFFIX = re.compile(rf"_({'|'.join(SUFFIXES)}|\d+)\Z")
Way = Literal["error", "empty", "null"]
BROKEN_ANSWERS: dict[Way, str] = {
    "error": '{"error": "down"}',
    "empty": "{}",
    "null": '{"result": null}',
}
"""The answer of a broken tool, by the way in which it is broken."""


class Break(Record, frozen=True, tag="break", tag_field="kind"):
    """Breaks one tool that the task needs, without any indication."""

    how: Way = "error"
    alternative: bool = True
    """Whether a second tool does the same; if not, tasks that need the tool are refused."""

    def draw(
        self,
        tools: Sequence[Tool],
        rng: random.Random,
        *,
        reference: Sequence[ExpectedCall],
        held_out: bool,
    ) -> Perturbation | None:
        """Draw the tool, and which of the two twins is the broken one."""
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
    """Adds useless tools that look like a needed one."""

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
        """Draw the tool that they look like, and which of the names is the working one."""
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
    """Return tools that differ from the tool `name` only by a word at the end of the name."""
    (model,) = (tool for tool in tools if tool.name == name)
    stem = SUFFIX.sub("", name)
    taken = {tool.name for tool in tools}
    words = rng.sample(SUFFIXES, len(SUFFIXES))
    endings = itertools.chain(words, map(str, itertools.count(2)))
    free = (f"{stem}_{end}" for end in endings if f"{stem}_{end}" not in taken)
    return tuple(
        msgspec.structs.replace(model, name=twin) for twin in itertools.islice(free, count)
    )

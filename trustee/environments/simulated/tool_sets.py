"""The tools that a simulated world trains on: a packaged set or a file, and the sets offered."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import Literal

from trustee.environments.micro.world import TOOLS
from trustee.environments.splits import is_reserved, is_reserved_pair, reserved_pairs
from trustee.errors import InputError
from trustee.tools.files import import_tools
from trustee.tools.files.notices import Notices
from trustee.tools.repository import Repository
from trustee.types import Tool

ToolSampling = Literal["linked", "toolsets"]
TOOL_SET_DRAWS = 200
"""Attempts to draw a tool set by luck before one is made otherwise."""

PACKAGED: Mapping[str, Callable[[], Repository]] = {
    "": Repository.load,
    "micro": lambda: Repository(TOOLS),
}
"""Tool sets of the package, as `env.tools` names them."""


def find_tools(name: str, *, notices: Notices | None = None) -> Repository:
    """Load a packaged tool set, or the tools of a file; `notices` say what of it is not used.

    Raises:
        InputError: if it is neither.
    """
    load = PACKAGED.get(name)
    return Repository(import_tools(Path(name), notices=notices)) if load is None else load()


def explain_split(repository: Repository, *, one_in: int) -> tuple[str, ...]:
    """Say which pair is reserved where the set share would reserve none; else say nothing."""
    pair = next(reserved_pairs(names_of(repository), one_in=one_in), None)
    count = len(repository.tools)
    if pair is None or _by_share(repository, pair, one_in=one_in):
        return ()
    return (
        f"env.reserve_one_in = {one_in} reserves none of the {count * (count - 1) // 2} pairs of "
        f"{count} tools; so that there is something to evaluate, {' and '.join(pair)} are never "
        "offered together in training",
    )


def names_of(repository: Repository) -> tuple[str, ...]:
    """Return the names of all tools."""
    return tuple(tool.name for tool in repository.tools)


def _by_share(repository: Repository, pair: tuple[str, str], *, one_in: int) -> bool:
    return is_reserved([t for t in repository.tools if t.name in pair], one_in=one_in)


class ToolSets:
    """Draws the tools of a task, with a reserved pair for evaluation and without for training."""

    def __init__(
        self,
        repository: Repository,
        *,
        one_in: int,
        with_reserved: bool,
        sampling: ToolSampling = "linked",
    ) -> None:
        self._repository = repository
        self._sampling = sampling
        self._one_in = one_in
        self._with_reserved = with_reserved
        first = next(reserved_pairs(names_of(repository), one_in=one_in), None)
        if with_reserved and first is None:
            raise InputError(
                f"env.tools has {len(repository.tools)} tool, but held-out tasks need two that "
                "training never offers together; give more tools, set eval.tasks=none, or name "
                "another world in eval_env"
            )
        by_share = first is None or _by_share(repository, first, one_in=one_in)
        self._only = None if by_share else frozenset(first or ())
        """The reserved pair, where the share alone would reserve none."""
        self._reserved: dict[str | None, tuple[tuple[str, str], ...]] = {}
        """Reserved pairs by category, or of all tools, as far as they were needed."""

    def sample(self, rng: random.Random, count: int) -> tuple[Tool, ...]:
        """Draw up to `count` tools; fewer for training where larger sets have a reserved pair."""
        # A reserved pair may lie across categories; if all do, evaluation has to offer one.
        if self._sampling == "linked" or not self._categories:
            return self._sample(rng, count, self._repository.sample, category=None)
        category = rng.choice(self._categories)
        draw = partial(self._repository.sample_category, category=category)
        return self._sample(rng, count, draw, category=category)

    def _sample(
        self,
        rng: random.Random,
        count: int,
        draw: Callable[[random.Random, int], tuple[Tool, ...]],
        *,
        category: str | None,
    ) -> tuple[Tool, ...]:
        """Draw until the set is on the right side of the split."""
        among = self._tools_of(category)
        size = min(max(count, 2 if self._with_reserved else 1), len(among))
        while True:
            for _ in range(TOOL_SET_DRAWS):
                tools = draw(rng, size)
                if self._is_reserved(tools) == self._with_reserved:
                    return tools
            if self._with_reserved:
                pairs = self._reserved.get(category)
                if pairs is None:
                    pairs = self._reserved[category] = tuple(self._pairs_among(among))
                return _complete(rng, rng.choice(pairs), size, among=among)
            # One tool alone has no pair, so this ends.
            size -= 1

    def _tools_of(self, category: str | None) -> Sequence[Tool]:
        repository = self._repository
        return repository.tools if category is None else repository.categories[category]

    def _is_reserved(self, tools: Sequence[Tool]) -> bool:
        if self._only is not None:
            return self._only <= {tool.name for tool in tools}
        return is_reserved(tools, one_in=self._one_in)

    def _pairs_among(self, tools: Sequence[Tool]) -> Iterator[tuple[str, str]]:
        """Yield the reserved pairs of some of the tools."""
        for pair in combinations(sorted(tool.name for tool in tools), 2):
            if self._only == frozenset(pair) or (
                self._only is None and is_reserved_pair(*pair, one_in=self._one_in)
            ):
                yield pair

    @cached_property
    def _categories(self) -> tuple[str, ...]:
        """Categories from which a set on the right side of the split can be drawn."""
        return tuple(
            category
            for category, tools in self._repository.categories.items()
            if not self._with_reserved or next(self._pairs_among(tools), None)
        )


def _complete(
    rng: random.Random, pair: tuple[str, str], count: int, *, among: Sequence[Tool]
) -> tuple[Tool, ...]:
    """Return a pair with further tools, read tools first."""
    others = sorted({tool.name for tool in among} - set(pair))
    chosen = {*pair, *rng.sample(others, count - len(pair))}
    tools = [tool for tool in among if tool.name in chosen]
    return tuple(sorted(tools, key=lambda tool: tool.effect != "read"))

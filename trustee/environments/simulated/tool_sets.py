"""The tools that a simulated world trains on: a packaged set or a file, and the sets offered."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from trustee.environments.micro.world import TOOLS
from trustee.environments.splits import is_reserved, reserved_pairs
from trustee.errors import InputError
from trustee.tools.files import import_tools
from trustee.tools.files.notices import Notices
from trustee.tools.repository import Repository
from trustee.types import Tool

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

    def __init__(self, repository: Repository, *, one_in: int, with_reserved: bool) -> None:
        self._repository = repository
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

    def sample(self, rng: random.Random, count: int) -> tuple[Tool, ...]:
        """Draw up to `count` tools; fewer for training where larger sets have a reserved pair."""
        size = min(max(count, 2 if self._with_reserved else 1), len(self._repository.tools))
        while True:
            for _ in range(TOOL_SET_DRAWS):
                tools = self._repository.sample(rng, size)
                if self._is_reserved(tools) == self._with_reserved:
                    return tools
            if self._with_reserved:
                return self._complete(rng, rng.choice(self._pairs), size)
            # One tool alone has no pair, so this ends.
            size -= 1

    def _is_reserved(self, tools: Sequence[Tool]) -> bool:
        if self._only is not None:
            return self._only <= {tool.name for tool in tools}
        return is_reserved(tools, one_in=self._one_in)

    @cached_property
    def _pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple(reserved_pairs(names_of(self._repository), one_in=self._one_in))

    def _complete(self, rng: random.Random, pair: tuple[str, str], count: int) -> tuple[Tool, ...]:
        """Return a pair with further tools, read tools first."""
        others = sorted(set(names_of(self._repository)) - set(pair))
        chosen = {*pair, *rng.sample(others, count - len(pair))}
        tools = [tool for tool in self._repository.tools if tool.name in chosen]
        return tuple(sorted(tools, key=lambda tool: tool.effect != "read"))

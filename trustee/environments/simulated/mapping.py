"""From a difficulty to the bound of an aspect: evenly, or as the authors' code does.

Both map 1 to the easiest task and 100 to the hardest. `even` splits the range evenly. `published`
multiplies and cuts off, in whole numbers: the first steps come late, and the last word is reached
at 100 alone.
Source of `published`: the authors' code for TRUSTEE (arXiv 2604.17739).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeVar

Guidance = Literal["detailed", "plain", "medium", "brief", "generic"]
MappingName = Literal["even", "published"]
HARDEST = 100
T = TypeVar("T")


class AspectMapping(Protocol):
    """How the bounds of aspects grow with the difficulty."""

    guidance: tuple[Guidance, ...]
    """The policy's system prompts, the most helpful first."""

    def count(self, difficulty: int, bounds: tuple[int, int]) -> int:
        """Return the bound of a number of things: tools, calls."""
        ...

    def level(self, difficulty: int, bounds: tuple[int, int]) -> int:
        """Return the bound of a level that starts at the lower end: turns, strictness."""
        ...

    def grade(self, difficulty: int, words: tuple[T, ...]) -> T:
        """Return the hardest of some words, the easiest of which comes first."""
        ...


class EvenMapping:
    """Numbers grow linearly, ordered words split the range evenly."""

    guidance: tuple[Guidance, ...] = ("detailed", "plain", "generic")

    def count(self, difficulty: int, bounds: tuple[int, int]) -> int:
        """Return the rounded point between the bounds."""
        low, high = bounds
        return low + int((high - low) * _share(difficulty) + 0.5)

    def level(self, difficulty: int, bounds: tuple[int, int]) -> int:
        """Return the rounded point between the bounds."""
        return self.count(difficulty, bounds)

    def grade(self, difficulty: int, words: tuple[T, ...]) -> T:
        """Return the word of the part of the range in which the difficulty lies."""
        return words[min(len(words) - 1, int(_share(difficulty) * len(words)))]


class PublishedMapping:
    """Every product is cut off to a whole number; counts are multiples of the upper bound."""

    guidance: tuple[Guidance, ...] = ("detailed", "medium", "brief", "generic")

    def count(self, difficulty: int, bounds: tuple[int, int]) -> int:
        """Return the difficulty's share of the upper bound, but at least the lower one."""
        low, high = bounds
        return max(low, high * difficulty // HARDEST)

    def level(self, difficulty: int, bounds: tuple[int, int]) -> int:
        """Return the lower bound and the difficulty's share of the rest."""
        low, high = bounds
        return low + (high - low) * difficulty // HARDEST

    def grade(self, difficulty: int, words: tuple[T, ...]) -> T:
        """Return the last word at 100 alone, the others in equal parts below."""
        return words[(len(words) - 1) * difficulty // HARDEST]


MAPPINGS: Mapping[MappingName, AspectMapping] = {
    "even": EvenMapping(),
    "published": PublishedMapping(),
}


def _share(difficulty: int) -> float:
    return (difficulty - 1) / (HARDEST - 1)

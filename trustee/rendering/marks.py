"""Guards that keep a text from forging the marks of a prompt.

A mark is a text that the tokenizer turns into a single special id. A guard stands after the first
character of every mark inside a content; whoever encodes splits the rendered text at the guards.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


class Marks:
    """The marks of a tokenizer."""

    def __init__(self, marks: Iterable[str]) -> None:
        longest_first = sorted(marks, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def guard(self, value: Any) -> tuple[Any, str]:
        """Return `value` with a guard in every mark, including in keys, and the guard."""
        given = "\n".join(_texts(value))
        guard = _unused(given)
        return (self._guarded(value, guard=guard) if self.pattern.search(given) else value), guard

    def _guarded(self, value: Any, *, guard: str) -> Any:
        if isinstance(value, str):
            return self._broken(value, guard=guard)
        if isinstance(value, Mapping):
            return {
                self._broken(key, guard=guard): self._guarded(inner, guard=guard)
                for key, inner in value.items()
            }
        if isinstance(value, Sequence):
            return [self._guarded(inner, guard=guard) for inner in value]
        return value

    def _broken(self, text: str, *, guard: str) -> str:
        """Insert the guard after the first character of every mark, including overlapping ones."""
        pieces: list[str] = []
        at = 0
        while mark := self.pattern.search(text, at):
            pieces.append(text[at : mark.start() + 1])
            at = mark.start() + 1
        return guard.join((*pieces, text[at:]))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner)


def _unused(given: str) -> str:
    """Return a text that does not occur in `given`, of private-use characters."""
    guards = (f"\ue000{i}\ue001" for i in itertools.count())
    return next(guard for guard in guards if guard not in given)

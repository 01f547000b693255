"""Which tools of a file are wanted, and how long each may be."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated

from msgspec import Meta

from trustee.types import Record

CHARACTERS_PER_TOKEN = 4
"""About as many make a token in the schemas of tools."""
MOST_CHARACTERS = 8_000
"""About 2,000 tokens: four such tools take half of a context of 16,384."""


class Selection(Record, frozen=True):
    """Patterns by which tools are chosen, with `*`, `?` and `[...]` as in a shell.

    A pattern is compared with a tool's name, and with its place in the file, such as `GET /pets`.
    """

    only: tuple[str, ...] = ()
    """If there are any, only tools that match one of them are wanted."""
    skip: tuple[str, ...] = ()
    """Tools that match one of these are not wanted."""
    most_characters: Annotated[int, Meta(ge=1)] = MOST_CHARACTERS
    """Length to which the schema of an operation is shortened; a longer tool is said."""

    def wants(self, *labels: str) -> bool:
        """Return whether a tool with this name and place is wanted."""

        def matches(patterns: tuple[str, ...]) -> bool:
            return any(fnmatchcase(label, pattern) for pattern in patterns for label in labels)

        return (not self.only or matches(self.only)) and not matches(self.skip)

    def describe(self) -> str:
        """Return the options that choose, as they are written on the command line."""
        given = [("--only", pattern) for pattern in self.only]
        given += [("--skip", pattern) for pattern in self.skip]
        return " ".join(f"{option} {pattern!r}" for option, pattern in given)

"""Making a tool of arguments and the definitions that they use, no longer than a limit.

A schema that several places use stays one definition, `#/$defs/NAME`; one that a single place uses
is put there. What is too long is shortened: first descriptions inside the arguments are cut to
their first sentence, then schemas deep inside are left open, which allows more than the document
does and never less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import msgspec

from trustee.tools.files.openapi.schemas import DEFINITIONS, Definitions
from trustee.tools.files.rules import Schema
from trustee.tools.schema import change_children, children

_BRIEF = 120
"""Characters of a description that is cut, if its first sentence is longer."""
_SMALL = 80
"""Characters of a definition that is put wherever it is used."""
_DEEPEST = 8
"""Levels inside the arguments that a shortened schema keeps at most."""
_MOST_NESTED = 16
"""Definitions that are put into each other, before one stays a definition."""


class Shortened(NamedTuple):
    """Parameters that fit, and what was done so that they do."""

    parameters: Schema
    how: str


class TooLong(Exception):
    """The parameters do not fit, however they are shortened."""

    def __init__(self, length: int) -> None:
        """Keep the length of the shortest form."""
        super().__init__(length)
        self.length = length


class Lengths:
    """Fits the schemas of one document into a limit."""

    def __init__(self, definitions: Definitions, *, most: int) -> None:
        """Begin with no definition measured."""
        self.definitions = definitions
        self.most = most
        self._parts: dict[tuple[str, int | None, bool], _Part] = {}

    def fit(self, arguments: Schema, *, room: int) -> Shortened:
        """Return parameters of at most `room` characters.

        Raises:
            TooLong: if they cannot be shortened enough.
            Unreadable: if a definition cannot be read.
        """
        self._read_all(arguments)
        forms: list[tuple[str, Callable[[], Schema | None]]] = [
            ("", partial(self._assemble, arguments, room=room)),
            (
                "descriptions inside the arguments cut",
                partial(self._assemble, arguments, room=room, brief=True),
            ),
            ("what is deep inside left open", partial(self._cut, arguments, room=room)),
        ]
        for how, assemble in forms:
            parameters = assemble()
            if parameters is not None and measure(parameters) <= room:
                return Shortened(parameters, how)
        bare = self._assemble(_without_text(arguments), room=1 << 40, depth=1)
        assert bare is not None
        if measure(bare) > room:
            raise TooLong(measure(bare))
        return Shortened(bare, "all descriptions dropped and what is inside left open")

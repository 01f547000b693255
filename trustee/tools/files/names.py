"""Naming tools: every one gets a name of its own, of the characters that names may have."""

from __future__ import annotations

import re
import unicodedata

from trustee.tools.files.notices import Notices

LONGEST = 64
CHANGED = "names changed to be usable and unique"


class Names:
    """Gives every tool of a file its name."""

    def __init__(self, *, notices: Notices) -> None:
        """Begin with no name taken."""
        self.notices = notices
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}

    def give(self, wished: str, *, place: str, other: str = "", family: str = "") -> str:
        """Return a name made from the wished one, or from another where that has no letters.

        Equal names are told apart by `other` at the end or the `family` at the beginning; those
        that still are equal are numbered.
        """
        route = _spell(other)
        whole = _spell(wished) or route or "tool"
        name = whole[:LONGEST].strip("_") if len(whole) > LONGEST else whole
        if name in self._taken and route not in ("", whole):
            name = _join(whole, route)
        elif name in self._taken and (first := _spell(family)):
            name = _join(first[: LONGEST // 2], whole)
        name = self._number(name)
        self._taken.add(name)
        if name != whole or (whole != (wished or other) and (_loses_letters(wished) or not other)):
            self.notices.add(CHANGED, f'{place}: "{wished or route}" is "{name}"')
        return name

    def _number(self, name: str) -> str:
        """Return a name with the next number that makes it unique, if it is taken."""
        base = name
        while name in self._taken:
            self._numbers[base] = self._numbers.get(base, 1) + 1
            name = _join(base, str(self._numbers[base]))
        return name


def _join(name: str, suffix: str) -> str:
    """Return a name with a suffix, of which the end differs most where it is too long."""
    suffix = "_" + suffix[-40:].strip("_")
    return name[: LONGEST - len(suffix)].strip("_") + suffix


def _spell(text: str) -> str:
    """Write a text in the characters of names; accents are dropped, other letters left out."""
    if re.fullmatch("[A-Za-z0-9_-]+", text):
        return text
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_")


def _loses_letters(text: str) -> bool:
    return any(letter.isalnum() and not letter.isascii() for letter in text)

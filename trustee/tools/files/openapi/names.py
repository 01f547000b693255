"""Naming operations: every one gets a name of its own, of the characters that names may have."""

from __future__ import annotations

import re
import unicodedata

from trustee.tools.files.notices import Notices

_LONGEST = 64
CHANGED = "names changed to be usable and unique"


class Names:
    """Gives every operation of a document its name."""

    def __init__(self, *, notices: Notices) -> None:
        """Begin with no name taken."""
        self.notices = notices
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}

    def give(self, identifier: object, *, method: str, path: str) -> str:
        """Return a name made from the operationId, or from method and path if it has none."""
        route = _spell(f"{method}_{path.strip('/')}")
        wished = identifier if isinstance(identifier, str) else ""
        whole = _spell(wished) or route
        name = whole[:_LONGEST].strip("_")
        if name in self._taken and whole != route:
            name = _join(whole, route)
        name = self._number(name)
        self._taken.add(name)
        if name != whole or _loses_letters(wished):
            self.notices.add(CHANGED, f'{method.upper()} {path}: "{wished or route}" is "{name}"')
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
    return name[: _LONGEST - len(suffix)].strip("_") + suffix


def _spell(text: str) -> str:
    """Write a text in the characters of names; accents are dropped, other letters left out."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_")


def _loses_letters(text: str) -> bool:
    return any(letter.isalnum() and not letter.isascii() for letter in text)

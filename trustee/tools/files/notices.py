"""What an import says besides the tools: entries that were left out, and what was changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trustee.errors import InputError

SHOWN = 5
"""Entries of one kind that are shown; the rest is counted."""


class Notices:
    """Collects the notices of one import; a strict one refuses what cannot be read."""

    def __init__(self, *, strict: bool = False) -> None:
        """Begin with nothing said."""
        self.strict = strict
        self.left_out: list[InputError] = []
        """Why an entry was left out, one for each."""
        self.changed: dict[str, dict[str, None]] = {}
        """By what was done, the places where it was done."""

    @contextmanager
    def leaving_out(self) -> Iterator[None]:
        """Leave out the entry that is read inside if it cannot be used, and note why.

        Raises:
            InputError: if the import is strict.
        """
        try:
            yield
        except InputError as error:
            if self.strict:
                raise
            self.left_out.append(error)

    def add(self, what: str, where: str) -> None:
        """Note what was done, in words that follow the number of places, and at which place."""
        self.changed.setdefault(what, {})[where] = None

    def lines(self, *, most: int = SHOWN) -> list[str]:
        """Return the notices as lines, at most `most` entries of each kind."""
        reasons = [str(error) for error in self.left_out]
        lines = [f"left out: {reason}" for reason in reasons[:most]]
        if len(reasons) > most:
            lines.append(f"left out: {len(reasons) - most:,} more")
        for what, places in self.changed.items():
            shown = "; ".join(list(places)[:most])
            more = f"; and {len(places) - most:,} more" if len(places) > most else ""
            lines.append(f"{what}: {shown}{more}")
        return lines

"""The text of ids that come piece by piece, as far as later ids cannot change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"
"""What a decoder puts for bytes that are not a whole letter yet."""


class StreamedText:
    """Decodes a growing sequence of ids a few at a time."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0
        """Place of the first id that is decoded again, so that no letter depends on a cut."""
        self._read = 0
        """Number of ids whose text is in `text`."""
        self.text = ""

    def add(self, ids: Sequence[int]) -> str:
        """Return the text so far, with that of new ids unless they end within a letter."""
        self._ids += ids
        known = self._decode(self._ids[self._context : self._read])
        whole = self._decode(self._ids[self._context :])
        if len(whole) > len(known) and not whole.endswith(BROKEN):
            self.text += whole[len(known) :]
            self._context, self._read = self._read, len(self._ids)
        return self.text


def cut_at_stops(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return a text up to the first stop in it, and whether there is one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def hold_back(text: str, marks: Sequence[str]) -> int:
    """Return the end of a text without a tail with which a mark may begin."""
    for length in range(min(len(text), max(map(len, marks), default=1) - 1), 0, -1):
        tail = text[-length:]
        if any(len(mark) > length and mark.startswith(tail) for mark in marks):
            return len(text) - length
    return len(text)

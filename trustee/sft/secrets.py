"""Keeping secrets out of texts that come back from whoever was told them.

A server may repeat a key in an error, in an answer or in a reason phrase, and in any spelling.
Known spellings are cut out. A text in which the secret only appears once escapes are undone is
left out as a whole.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote

LEAST_LENGTH = 4
"""Length of the shortest secret that is cut out of texts; a shorter one is in every second word."""
LEAST_SPOKEN = 8
"""Length of the shortest secret that a teacher may not say; servers without keys take `EMPTY`."""
MARK = "..."
LEFT_OUT = "(left out, because it repeats the key)"
ROUNDS = 8
"""Number of nested escapes that are undone."""

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)


class Secrets:
    """What must not be shown, in all its spellings."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._plain = {secret for secret in secrets if len(secret) >= LEAST_LENGTH}
        self._spellings = sorted(
            {spelling for secret in self._plain for spelling in spell(secret)},
            key=len,
            reverse=True,
        )
        self._spoken = {
            spelling
            for secret in self._plain
            if len(secret) >= LEAST_SPOKEN
            for spelling in spell(secret)
        }

    def redact(self, text: str) -> str:
        """Return a text without the secrets; a text that hides one in escapes is left out."""
        for spelling in self._spellings:
            text = text.replace(spelling, MARK)
        return LEFT_OUT if _hides(text, self._spoken) else text

    def holds(self, text: str) -> bool:
        """Return whether a text repeats a secret that nobody says by chance."""
        return _hides(text, self._spoken)

    def __repr__(self) -> str:
        """Show nothing of them."""
        return f"Secrets({len(self._plain)})"


def spell(secret: str) -> Iterator[str]:
    """Yield a secret as it stands in JSON, in a URL, in HTML, in hexadecimal and in base64."""
    data = secret.encode()
    yield from (secret, quote(secret, safe=""), quote(secret), html.escape(secret))
    yield from (json.dumps(secret)[1:-1], repr(secret)[1:-1], data.hex(), data.hex().upper())
    for shift in range(3):
        # Depending on what stands before it, base64 has three spellings. The characters that its
        # neighbours share are cut off.
        end = (shift + len(data)) // 3 * 4
        start = -(-shift * 8 // 6)
        padded = bytes(shift) + data
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            if end - start >= LEAST_LENGTH:
                yield encode(padded).decode()[start:end]


def _hides(text: str, spellings: Iterable[str]) -> bool:
    """Return whether a text holds a spelling once its escapes are undone, in any case."""
    wanted = {_fold(spelling) for spelling in spellings}
    for _ in range(ROUNDS if wanted else 0):
        # Each kind is undone alone too, because a secret may itself look like an escape.
        tried = {text, _undo_escapes(text), unquote(text), html.unescape(text)}
        if any(spelling in folded for folded in map(_fold, tried) for spelling in wanted):
            return True
        undone = html.unescape(unquote(_undo_escapes(text)))
        if undone == text:
            return False
        text = undone
    return bool(wanted)


def _fold(text: str) -> str:
    """Return a text without case and white space, which a header that is folded adds."""
    return "".join(text.casefold().split())


def _undo_escapes(text: str) -> str:
    return _ESCAPE.sub(_undo, text)


def _undo(escape: re.Match[str]) -> str:
    code = escape.group(1) or escape.group(2)
    return chr(int(code, 16)) if code else escape.group(3)

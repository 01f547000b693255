"""How the connection with a server ended, in words for who waits for an answer."""

from __future__ import annotations

MOST_SHOWN = 300
"""Characters of a server's own words that an error quotes."""


class ServerFailed(ConnectionError):
    """A server did not start, ended, kept silent or broke a limit; not raised outside a session."""


class Fate:
    """What a transport knows of its server that the session's own errors do not say."""

    def __init__(self) -> None:
        self.reason = ""
        """Why the connection ended; empty while it stands."""
        self.rubbish = 0
        """Lines of a server's output that were not messages."""
        self.last_rubbish = ""
        self.last_words = ""
        """The end of what the server wrote to its error stream."""

    def end(self, reason: str) -> None:
        """Note why the connection ended; the first reason counts."""
        self.reason = self.reason or reason

    def explain(self, what: str) -> str:
        """Return a sentence about a failure, with what the server said meanwhile."""
        parts = [self.reason or what]
        if self.rubbish:
            parts.append(
                f"it wrote {self.rubbish:,} lines that are not messages of the protocol, the last:"
                f" {quote(self.last_rubbish)}"
            )
        if self.last_words.strip():
            parts.append(f"its last words were {quote(self.last_words.strip()[-MOST_SHOWN:])}")
        return "; ".join(parts)


def quote(text: str) -> str:
    """Return a text on one line, cut, without what acts on a terminal."""
    line = " ".join(text.split())
    return ascii(line if len(line) <= MOST_SHOWN else line[:MOST_SHOWN] + "…")

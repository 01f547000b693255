"""The one place where text becomes output, so that no text can act on the terminal.

What models, tools, servers and strangers' files wrote may hold escape sequences, marks that turn
the direction of writing, characters without width, and lines that look like this program's own.
Here each such character becomes a visible escape, and every further line of a foreign text begins
with a bar. `tests/test_architecture.py` keeps other ways to the screen out of the package.
"""

from __future__ import annotations

import re
import sys
import traceback
import unicodedata
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

BAR = "    | "
"""Begins every further line of a text, so that none of them passes for one of this program."""
MOST_MARKS = 4
"""Combining marks that one letter may have; more would cover the lines above and below."""
ACTING = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
"""Unicode categories that act, or that a terminal shows as nothing or anything."""
BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Letters and marks that look like nothing."""

_PLAIN = re.compile(r"[ -~\n]*")
_MARKS = re.compile(rf"[\u0300-\U000e01ef]{{{MOST_MARKS + 1},}}")


@cache
def _show(letter: str) -> str:
    """Return a character, or its escape if it acts or is not seen."""
    code = ord(letter)
    if letter == "\n":
        return letter
    if letter == "\t":
        return "    "
    variation = 0xE0100 <= code <= 0xE01EF
    if unicodedata.category(letter) not in ACTING and letter not in BLANK and not variation:
        return letter
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible(text: str) -> str:
    """Return a text in which nothing acts on a terminal; its lines stay lines."""
    if _PLAIN.fullmatch(text):
        return text
    return _MARKS.sub(_thin_out, "".join(map(_show, text)))


def _thin_out(found: re.Match[str]) -> str:
    """Escape the combining marks that pile up."""
    shown, marks = [], 0
    for letter in found.group():
        marks = marks + 1 if unicodedata.category(letter) in ("Mn", "Me") else 0
        shown.append(letter if marks <= MOST_MARKS else f"\\u{ord(letter):04x}")
    return "".join(shown)


def barred(text: str, *, width: int = 0) -> str:
    """Return a foreign text as it is shown: visible, and a bar before each further line.

    With a width, longer lines are broken here, because a terminal would go on at its left edge,
    where this program's own lines begin.
    """
    lines = visible(text).split("\n")
    if width:
        from rich.cells import chop_cells

        room = max(20, width - len(BAR))
        lines = [part for line in lines for part in chop_cells(line, room) or [""]]
    return f"\n{BAR}".join(lines)


def find_output() -> TextIO:
    """Return the output of this process, for a display that writes to it itself."""
    return sys.stdout


def say(text: str, *, to: TextIO | None = None) -> None:
    """Write lines of this program to its output."""
    out = sys.stdout if to is None else to
    out.write(visible(text) + "\n")
    out.flush()


def say_json(data: bytes, *, to: TextIO | None = None) -> None:
    """Write one JSON value on a line; what would act on a terminal is escaped as JSON escapes."""
    out = sys.stdout if to is None else to
    text = data.decode()
    if not _PLAIN.fullmatch(text):
        text = "".join(map(_escape_json, text))
    out.write(text + "\n")
    out.flush()


@cache
def _escape_json(letter: str) -> str:
    if _show(letter) == letter:
        return letter
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def complain(text: str, *, to: TextIO | None = None) -> None:
    """Write an error or a warning, which is one line, and what it quotes behind bars."""
    out = sys.stderr if to is None else to
    out.write(f"trustee: {barred(text)}\n")
    out.flush()


def show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write the traceback of a bug, which quotes what the bug met; for `sys.excepthook`."""
    sys.stderr.write(visible("".join(traceback.format_exception(kind, error, trace))))


def silence() -> None:
    """Write no more, because nobody reads."""
    sys.stderr.close()


def is_interactive() -> bool:
    """Return whether somebody watches the output."""
    return sys.stdout.isatty()


def make_console(out: TextIO) -> Console:
    """Return a console that takes no text for markup, for tables and styles."""
    from rich.console import Console

    return Console(file=out, highlight=False, markup=False, emoji=False)


class Page:
    """Lines with styles, for people: labels of this program, texts of others."""

    def __init__(self, to: TextIO | None = None) -> None:
        out = sys.stdout if to is None else to
        self._console = make_console(out)
        self._width = self._console.width if out.isatty() else 0

    def rule(self, title: str) -> None:
        """Write a title, on one line whatever it holds."""
        from rich.rule import Rule
        from rich.text import Text

        shown = visible(title.replace("\n", "\\n"))
        self._console.print(Rule(Text(shown), align="left"), soft_wrap=True)

    def line(self, *parts: str | tuple[str, str], indent: str = "") -> None:
        """Write foreign text in parts, each plain or with a style."""
        from rich.text import Text

        spoken = [(part, "") if isinstance(part, str) else part for part in parts]
        whole = "".join(text for text, _ in spoken)
        line = Text(indent + barred(whole, width=self._width - len(indent) if self._width else 0))
        label, style = spoken[0]
        end = len(line) if len(spoken) == 1 else len(indent) + len(visible(label))
        line.stylize(style, len(indent), end)
        self._console.print(line, soft_wrap=True)

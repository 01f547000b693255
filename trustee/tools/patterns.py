"""Patterns of JSON Schemas, which are JavaScript's, matched by Python in bounded time."""

from __future__ import annotations

import re
import sys
import warnings
from functools import lru_cache
from typing import Any

import regex

MOST_CHARACTERS = 4096
"""Longest pattern that is compiled."""
SECONDS = 0.25
"""Longest time that one match may take, because who writes the text may want it to take long."""

MOST_REPEATED = 10_000
"""Signs that a pattern may ask for, counted with its repeats, which are expanded."""

_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_"}
"""Classes that hold ASCII alone in JavaScript and all of Unicode in Python."""
_SETS = frozenset("dDwWsS")
_DOUBLED = "-&|~"
"""Signs that make a set operation of a class where they stand twice."""
_MEANING = frozenset("bBdDfnrsStuvwWxAZ")
"""Letters with a meaning after a backslash; any other stands for itself."""
_TOKEN = re.compile(
    r"\\.|\[(?:\\.|[^\]\\])*+\]|\((?:\?(?:[:=!]|<[=!]|P?<\w+>))?|\)|\{(\d+)(?:,\d*)?\}|.", re.DOTALL
)


class TooSlow(Exception):
    """A match took longer than `SECONDS`."""


def search(pattern: str, text: str) -> bool:
    """Return whether a pattern matches anywhere in a text.

    Raises:
        TooSlow: if that is not found out in time.
        ValueError: if the pattern is not a regular expression.
    """
    try:
        return compile_pattern(pattern).search(text, timeout=SECONDS) is not None
    except TimeoutError as error:
        raise TooSlow(f"matching the pattern {pattern[:60]} takes too long") from error


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str) -> Any:
    """Compile a pattern as JavaScript reads it; also Python's own named groups are taken.

    Raises:
        ValueError: if it is not a regular expression.
    """
    if len(pattern) > MOST_CHARACTERS:
        raise ValueError(f"longer than {MOST_CHARACTERS} characters")
    if _least_length(pattern) > MOST_REPEATED:
        raise ValueError(f"asks for more than {MOST_REPEATED} signs")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return regex.compile(translate(pattern), regex.VERSION0)
    except (regex.error, RecursionError, MemoryError, OverflowError, IndexError, KeyError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _least_length(pattern: str) -> int:
    """Return about how many signs a pattern asks for at least; of alternatives their sum."""
    outer: list[int] = []
    total = last = 0
    for token in _TOKEN.finditer(pattern):
        text = token.group()
        if text.startswith("("):
            outer.append(total)
            total = last = 0
        elif text == ")" and outer:
            total, last = total + outer.pop(), total
        elif token.group(1):
            count = int(token.group(1)[:9])
            total += last * (count - 1)
            last *= count
        else:
            total, last = total + 1, 1
    return total + sum(outer)


def translate(pattern: str) -> str:
    """Rewrite what means something else in JavaScript, or is written in another way."""
    parts: list[str] = []
    at, in_class = 0, False
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            escape = pattern[at + 1 : at + 2]
            text, at = _translate_escape(pattern, at, in_class=in_class)
            parts.append(text)
            # A class begins no range, so a minus behind it stands for itself.
            if in_class and escape in _SETS and pattern.startswith("-", at):
                parts.append("\\-")
                at += 1
            continue
        at += 1
        if in_class:
            in_class = sign != "]"
            escaped = sign == "[" or (sign in _DOUBLED and pattern.startswith(sign, at))
            parts.append(f"\\{sign}" if escaped else sign)
        elif sign == "[":
            empty = next((mark for mark in ("^]", "]") if pattern.startswith(mark, at)), "")
            if empty:
                parts.append("[\\s\\S]" if empty == "^]" else "(?!)")
                at += len(empty)
            else:
                in_class = True
                parts.append(sign)
        else:
            # In Python a dollar also matches before a newline at the end.
            parts.append("\\Z" if sign == "$" else sign)
    return "".join(parts)


def _translate_escape(pattern: str, at: int, *, in_class: bool) -> tuple[str, int]:
    """Return the text for the escape at a place, and where it ends."""
    letter = pattern[at + 1 : at + 2]
    end = at + 2
    if letter.lower() in _CLASSES:
        inner = _CLASSES[letter.lower()]
        if letter.islower():
            return (inner if in_class else f"[{inner}]"), end
        return (f"\\{letter}" if in_class else f"[^{inner}]"), end
    if pattern.startswith(("p{", "P{"), at + 1):
        return pattern[at:end], end
    if pattern.startswith("u{", at + 1) and (close := pattern.find("}", at)) > 0:
        digits = pattern[at + 3 : close]
        if re.fullmatch("[0-9a-fA-F]{1,6}", digits) and int(digits, 16) <= sys.maxunicode:
            return f"\\U{int(digits, 16):08x}", close + 1
    if pattern.startswith("k<", at + 1) and (close := pattern.find(">", at)) > 0:
        return f"(?P={pattern[at + 3 : close]})", close + 1
    if letter == "c" and pattern[at + 2 : at + 3].isalpha():
        return f"\\x{ord(pattern[at + 2]) % 32:02x}", end + 1
    plain = letter == "/" or (letter.isascii() and letter.isalpha() and letter not in _MEANING)
    return (letter if plain else pattern[at:end]), end

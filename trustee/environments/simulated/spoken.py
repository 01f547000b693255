"""Which values a text says: numbers by size, dates and times in their usual forms, words whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from trustee.tools.schema import leaves
from trustee.tools.values import write_decimal

Sayable = str | int | float
"""A value that can be said; the others are booleans and nothing."""
NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
QUANTITY = re.compile(r"(?<![\w.,:/-])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\d:/]|[.,-]\d)")
"""A number by itself, perhaps before a unit. The lookarounds exclude digits that are part of an id,
a date, a time or a longer number; commas are allowed only between thousands."""
DATE = re.compile(r"(\d{4})-(0[1-9]|1[0-2])-(\d{2})")
"""An ISO date, as (year, month, day)."""
TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::00)?")
"""A time of day with optional zero seconds, as (hour, minute)."""


def _flatten(text: str) -> str:
    return " ".join(text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())


def contains_value(text: str, value: object) -> bool:
    """Return whether a text contains a value, ignoring case.

    Numbers are compared by size, dates and times in their usual forms, the rest as whole words.
    """
    text = _flatten(text)
    if isinstance(value, int | float):
        return _contains_number(text, value)
    return re.search(value_pattern(value), text) is not None


def value_pattern(value: object) -> str:
    """Return a pattern for a value in flattened text, in its usual forms."""
    wanted = _flatten(str(value)).strip(" .,;:!?")
    forms = "|".join([re.escape(wanted), *_spoken_forms(wanted)])
    return rf"(?<!\w)(?:{forms})(?!\w)"


def _contains_number(text: str, number: float) -> bool:
    said = [Decimal(token.replace(",", "")) for token in QUANTITY.findall(text)]
    said += [
        Decimal(NUMBER_WORDS[word]) for word in re.findall(r"\w+", text) if word in NUMBER_WORDS
    ]
    # Signs are ignored because a change of -4 is said as "remove 4". `abs` would round.
    wanted = Decimal(repr(number)).copy_abs()
    return any(quantity.copy_abs() == wanted for quantity in said)


def _spoken_forms(value: str) -> list[str]:
    """Return patterns for the ways in which people write an ISO date or a time of day."""
    if date := DATE.fullmatch(value):
        # "3 Mar 2025", "3rd of March, 2025", "March 3, 2025".
        name = MONTHS[int(date[2]) - 1]
        month = rf"{name[:3]}(?:{name[3:]}|\.)?"
        day = rf"0?{int(date[3])}(?:st|nd|rd|th)?"
        return [rf"{day}(?: of)? {month},? {date[1]}", rf"{month} {day},? {date[1]}"]
    if time := TIME.fullmatch(value):
        # "14:30", "2:30 pm"; a full hour also as "2pm" or "2 p.m.".
        hour, minute = int(time[1]), time[2]
        half = "p" if hour >= 12 else "a"
        minutes = rf"(?::{minute})?" if minute == "00" else f":{minute}"
        return [rf"0?{hour}:{minute}", rf"{hour % 12 or 12}{minutes} ?{half}\.?m\.?"]
    return []


def alludes_to(text: str, value: object) -> bool:
    """Return whether a text contains or paraphrases a value; values with digits must be exact."""
    if contains_value(text, value):
        return True
    words = re.findall(r"\w+", _flatten(str(value)))
    if any(character.isdigit() for character in str(value)):
        return False
    # Short codes, as of countries, are said by name; other values need a common four-letter prefix.
    return len(str(value)) <= 3 or any(
        said.startswith(word[:4]) for word in words for said in re.findall(r"\w+", _flatten(text))
    )


def find_values(schema: Any, value: Any, *, chosen: bool) -> Iterator[object]:
    """Yield the values inside arguments: those of an enum if `chosen`, else all others."""
    for part, inner in leaves(schema, value):
        if not isinstance(inner, bool | None) and ("enum" in part) == chosen:
            yield inner


def in_words(name: str) -> str:
    """Return the name of an argument or a tool as words."""
    return re.sub(r"[_.-]+", " ", name)


def name_values(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values inside a value, each with the name of its field."""
    match value:
        case Mapping():
            for key, inner in value.items():
                yield from name_values(inner, str(key))
        case list() | tuple():
            for inner in value:
                yield from name_values(inner, name)
        case _:
            yield name, value


def name_sayable(value: Any) -> tuple[tuple[str, Sayable], ...]:
    """Return the texts and numbers inside a value, each with the name of its field."""
    return tuple(
        (name, inner)
        for name, inner in name_values(value)
        if isinstance(inner, str | int | float) and not isinstance(inner, bool)
    )


NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
"""Digits with inner separators: 1,250.00 or 14:30, but without a full stop at the end."""
THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
"""A number with commas between thousands."""


def normalise_number(token: str) -> str:
    """Return one form for 14:30 and 2:30, for 1,250.00 and 1250, for 05 and 5, but not for 005."""
    if time := TIME.fullmatch(token):
        return f"{int(time[1]) % 12}:{time[2]}"
    plain = token.replace(",", "") if THOUSANDS.fullmatch(token) else token
    if re.fullmatch(r"0\d{2,}", plain) or not re.fullmatch(r"\d+(?:\.\d+)?", plain):
        return plain
    return write_decimal(Decimal(plain))


def known_numbers(text: str) -> set[str]:
    """Return the numbers of a text in one form, full hours also as hours."""
    tokens = NUMBER.findall(text)
    full_hours = [int(time[1]) for t in tokens if (time := TIME.fullmatch(t)) and time[2] == "00"]
    return {normalise_number(token) for token in tokens} | {
        str(hour) for full in full_hours for hour in (full, full % 12 or 12)
    }

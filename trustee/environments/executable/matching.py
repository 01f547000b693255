"""Whether a text tells an answer: words, signs and numbers, compared one by one.

Two writings of one value agree: `1,234` and `1234.0`, `.5` and `0.5`, `1e-05` and `0.00001`,
composed and decomposed letters. Two values do not, however alike they are: `A+` and `A-`, `C` and
`C++`, `5 %` and `5`, `00123` and `123`, `192.168.1.10` and `192.168.1.1`, version `3.10` and `3.1`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from trustee.environments.simulated.spoken import DATE, MONTHS, NUMBER_WORDS

WORDS_OF = {number: word for word, number in NUMBER_WORDS.items()}
CURRENCY = "$\u00a2-\u00a5\u20a0-\u20c0"
"""Signs of currencies, as a range of a pattern."""
VERSION_WORDS = frozenset({"v", "ver", "release", "build", "revision", "python"})
"""Words, besides those that contain `version`, after which 3.10 is not 3.1."""
REACH = 3
"""Number of words behind such a word in which a number is taken for a version."""

_TOKEN = re.compile(
    r"(?P<script>[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])"  # no spaces between words
    r"|(?![0-9]+e[0-9]{1,3}(?!\w))(?P<number>(?:(?<!\w)-|\u2212)?(?:[0-9]+(?:\.[0-9]+)*|(?<![\w.])\.[0-9]+)"
    r"(?:e[-+][0-9]{1,3}(?!\w))?)(?P<more>\+(?!\w))?"
    r"|[0-9]+e[0-9]{1,3}(?!\w)"  # may be an id
    r"|[^\W\d_]{1,3}[-\u2212](?![\w-])"  # grades, blood groups, ions
    r"|[^\W\d]\w*(?:(?<=[0-9])(?:\.[0-9]+)+)?(?:\+++(?!\w)|\+{2,}|[#\u266d\u266f])?"
    r"|\d+"
    rf"|[%\u2030{CURRENCY}]|[<>\u2264\u2265\u2260\u00b1](?=\s?[-.]?[0-9])|(?<=\w)\+(?=\w)"
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PRICE = re.compile(rf"(?:(?<!\w)([-\u2212]))?([{CURRENCY}])\s?([-\u2212]?[0-9.]*[0-9])")
_RAISED = re.compile(r"[\u00b2\u00b3\u00b9\u2070-\u207f]+")
_SIGNS = str.maketrans({"\u266f": "#", "\u2212": "-"})


class Token(NamedTuple):
    """One word, sign or number of a text."""

    value: str
    """The word, or the number without redundant zeros."""
    written: str
    """The same, but that a version keeps its final zeros."""
    is_version: bool = False


def tells(text: str, answer: str) -> bool:
    """Whether each `, `-part of an answer occurs in the text as whole words and numbers.

    Case and most punctuation are ignored, and numbers are compared by value: `1,234` equals
    `1234.0`. A part without a letter or digit must occur exactly as it is.
    """
    tokens = read_tokens(text)
    parts = [part.strip() for part in answer.split(", ")]
    return all(parts) and all(_has(tokens, text, part) for part in parts)


def says(text: str, value: object) -> bool:
    """Return whether a text contains a value, possibly in words."""
    forms = [str(value), *spoken_dates(str(value))]
    if value in WORDS_OF and not isinstance(value, bool):
        forms.append(WORDS_OF[int(str(value).split(".")[0])])
    return any(tells(text, form) for form in forms)


def spoken_dates(value: str) -> list[str]:
    """Return the usual ways to write an ISO date; none for other values."""
    date = DATE.fullmatch(value)
    if date is None:
        return []
    year, day = date[1], int(date[3])
    month = MONTHS[int(date[2]) - 1]
    return [
        form
        for name in (month, month[:3])
        for form in (f"{day} {name} {year}", f"{name} {day} {year}", f"{day}th of {name} {year}")
    ]


def holds_as_published(text: str, answer: str) -> bool:
    """Whether FTRL finds an answer: each of its `, `-parts occurs somewhere in the text.

    Case and commas are ignored; `12` occurs in `3123`, and an empty part occurs everywhere.
    """
    plain = plain_as_published(text)
    return all(plain_as_published(part) in plain for part in answer.split(", "))


def plain_as_published(text: str) -> str:
    """Return a text in the form in which FTRL compares texts."""
    return text.lower().replace(",", "").strip()


def read_tokens(text: str) -> list[Token]:
    """Return the words, signs and numbers of a text in one notation."""
    plain = _PRICE.sub(r"\1\3 \2", _THOUSANDS.sub("", fold(text)))
    return list(_read_tokens(plain))


def _read_tokens(plain: str) -> Iterator[Token]:
    reach = 0
    for found in _TOKEN.finditer(plain):
        if found["number"]:
            more = found["more"] or ""
            value, written = read_number(found["number"])
            yield Token(value + more, written + more, is_version=reach > 0)
            reach = 0
        else:
            word = found.group().translate(_SIGNS)
            word = "%" if word == "percent" else word
            reach = REACH if word in VERSION_WORDS or "version" in word else reach - 1
            yield Token(word, word)


def fold(text: str) -> str:
    """Return a text in lower case and one encoding, without invisible characters.

    Raised digits stay apart from the digits before them, so that 10\u00b2 is not 102.
    """
    if text.isascii():
        return text.lower()
    text = _RAISED.sub(_lower_raised, unicodedata.normalize("NFC", text))
    text = "".join(map(_fold_character, text)).casefold()
    return unicodedata.normalize("NFC", text)


def _lower_raised(found: re.Match[str]) -> str:
    lowered = unicodedata.normalize("NFKC", found.group()).replace("\u2212", "-")
    return lowered if lowered.strip("+-") == "" else f"^{lowered}"


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    if character.isascii():
        return character
    if unicodedata.category(character) == "Cf":
        return ""
    if unicodedata.decomposition(character).startswith("<fraction>"):
        return f" {unicodedata.normalize('NFKC', character)}"
    digit = unicodedata.decimal(character, None)
    return unicodedata.normalize("NFKC", character) if digit is None else str(digit)


def read_number(text: str) -> tuple[str, str]:
    """Return a number without redundant zeros, and as a version would be written.

    Two dots make a group of whole numbers, as in an address. Two leading zeros make an id.
    """
    sign = "-" if text[0] in "-\u2212" else ""
    digits, _, power = text.lstrip("-\u2212").partition("e")
    if digits.count(".") > 1:
        group = ".".join(part.lstrip("0") or "0" for part in digits.split("."))
        return group, group
    if re.fullmatch("00[0-9]+|0[0-9]{2,}", digits):
        return sign + digits, sign + digits
    whole, _, part = digits.partition(".")
    if power:
        whole, part = _shift(whole, part, int(power))
    whole = whole.lstrip("0") or "0"
    shortest = part.rstrip("0")
    value = whole + (f".{shortest}" if shortest else "")
    sign = "" if value == "0" else sign
    return sign + value, sign + (f"{whole}.{part}" if shortest else whole)


def _shift(whole: str, part: str, places: int) -> tuple[str, str]:
    """Move the decimal point to the right, or to the left if `places` is negative."""
    if places >= 0:
        part = part.ljust(places, "0")
        return whole + part[:places], part[places:]
    whole = whole.rjust(-places, "0")
    return whole[:places], whole[places:] + part


def _has(tokens: Sequence[Token], text: str, part: str) -> bool:
    wanted = read_tokens(part)
    if not wanted:
        return part in text
    return any(
        tokens[start].value == wanted[0].value
        and all(map(_equal, tokens[start : start + len(wanted)], wanted))
        for start in range(len(tokens) - len(wanted) + 1)
    )


def _equal(one: Token, other: Token) -> bool:
    if one.is_version or other.is_version:
        return one.written == other.written
    return one.value == other.value

"""JSON values that tools take and return: comparing them, and recognising error results."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from trustee.decoding import decode_json

LARGEST = 1 << 14_000
"""Smallest integer that is not written in decimal; it has fewer digits than Python allows."""


_ESCAPED = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls, ends of lines, changes of direction, halves of pairs: none of them is a letter."""


def render_json(value: Any) -> str:
    """Return a value as JSON on one line, for a model to read: letters of any script as they are.

    What could end the line, hide text or not be written as UTF-8 is escaped.
    """
    text = json.dumps(value, ensure_ascii=False)
    return _ESCAPED.sub(lambda sign: f"\\u{ord(sign.group()):04x}", text)


def is_error(result: Any) -> bool:
    """Whether a tool's result is an object with an error."""
    return isinstance(result, dict) and bool(result.get("error"))


def tells_error(content: str) -> bool:
    """Whether a tool's message is an object with an error."""
    try:
        return is_error(decode_json(content, error=ValueError))
    except ValueError:
        return False


def call_line(name: str, arguments: Mapping[str, Any]) -> str:
    """Return a call on one line, as prompts and hints write it."""
    return f"{name} {render_json(arguments)}"


def call_key(name: str, arguments: Mapping[str, Any]) -> str:
    """Return a text that is equal for calls of the same tool with the same values."""
    return json.dumps([name, normalise(dict(arguments))], sort_keys=True)


def normalise(value: Any) -> Any:
    """Return a value in a form for comparison, without case, extra whitespace or number types.

    A number becomes the text in which it is written without redundant zeros, so 1, 1.0 and "1" are
    equal. A text is never read as a number: ids such as "00123", "+49151" and "12e4" are equal to
    nothing but themselves, however many digits they have. True and false are equal to no number.
    """
    match value:
        case bool():
            return value
        case int():
            # Python refuses to write more digits in decimal.
            return str(value) if abs(value) < LARGEST else hex(value)
        case float() if math.isfinite(value):
            return write_decimal(Decimal(repr(value)))
        case str():
            # Folding the case of decomposed letters, as Unicode asks for, leaves none composed.
            folded = unicodedata.normalize("NFD", value).casefold()
            return unicodedata.normalize("NFC", " ".join(folded.split()))
        case list():
            return [normalise(item) for item in value]
        case dict():
            return {str(key): normalise(item) for key, item in sorted(value.items())}
        case _:
            return value


def write_decimal(number: Decimal) -> str:
    """Return the shortest text of a finite number, without exponent and redundant zeros."""
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text

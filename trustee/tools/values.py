"""JSON values that tools take and return: comparing them, and recognising error results."""

from __future__ import annotations

import json
import math
from typing import Any


def tells_error(content: str) -> bool:
    """Return whether a tool's message is a JSON object with a non-empty `error`."""
    try:
        result = json.loads(content)
    except ValueError:
        return False
    return isinstance(result, dict) and bool(result.get("error"))


LARGEST = 1 << 1000
"""Integers of this size or larger are not converted to float."""


def normalise(value: Any) -> Any:
    """Return a value in a form for comparison, without case, extra whitespace or number types."""
    match value:
        case bool():
            return value
        case int() | float():
            # A policy may write an integer that is too large for a float.
            return float(value) if abs(value) < LARGEST else value
        case str():
            text = " ".join(value.casefold().split())
            try:
                number = float(text)
            except ValueError:
                return text
            # "Nan" and "Infinity" may be names, so they stay text.
            return number if math.isfinite(number) else text
        case list():
            return [normalise(item) for item in value]
        case dict():
            return {str(key): normalise(item) for key, item in sorted(value.items())}
        case _:
            return value

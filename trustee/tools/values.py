"""JSON values that tools take and give: comparing them, and telling an error from a result."""

from __future__ import annotations

import json
import math
from typing import Any


def tells_error(content: str) -> bool:
    """Say whether a tool's message is an object with an error."""
    try:
        result = json.loads(content)
    except ValueError:
        return False
    return isinstance(result, dict) and bool(result.get("error"))


LARGEST = 1 << 1000


def normalise(value: Any) -> Any:
    """Give a value's form for comparison: case, outer blanks and number types do not matter."""
    match value:
        case bool():
            return value
        case int() | float():
            # A policy may write an integer that no float holds.
            return float(value) if abs(value) < LARGEST else value
        case str():
            text = " ".join(value.casefold().split())
            try:
                number = float(text)
            except ValueError:
                return text
            # "Nan" and "Infinity" are names too.
            return number if math.isfinite(number) else text
        case list():
            return [normalise(item) for item in value]
        case dict():
            return {str(key): normalise(item) for key, item in sorted(value.items())}
        case _:
            return value

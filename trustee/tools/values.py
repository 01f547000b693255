"""JSON values that tools take and return: comparing them, and recognising error results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from trustee.decoding import decode_json

LARGEST = 1 << 1000


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
    return f"{name} {json.dumps(arguments)}"


def call_key(name: str, arguments: Mapping[str, Any]) -> str:
    """Return a text that is equal for calls of the same tool with the same values."""
    return json.dumps([name, normalise(dict(arguments))], sort_keys=True)


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

"""Finding values in texts: the common rule for leaks and for the origin of arguments.

Answers are found in the same way as by the reward, see `matching.tells`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trustee.environments.executable.matching import tells


def leaves(schema: Mapping[str, Any], value: Any) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Yield (schema, value) for every single value inside a value."""
    match value:
        case Mapping():
            known = schema.get("properties", {})
            for name, inner in value.items():
                yield from leaves(known.get(name, {}), inner)
        case list() | tuple():
            for inner in value:
                yield from leaves(schema.get("items", {}), inner)
        case _:
            yield schema, value


def find_leak(texts: Mapping[str, str], answers: Sequence[str]) -> str | None:
    """Return which text contains which answer, in words; None if none does."""
    found = (
        f"{where} contains the answer {answer!r}"
        for where, text in texts.items()
        for answer in answers
        if tells(text, answer)
    )
    return next(found, None)

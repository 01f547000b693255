"""Telling calls from other JSON in a format whose calls need no mark.

Whoever is asked for JSON may answer in JSON, so only an object that names an offered tool is meant
as a call.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any


def is_call(value: Any, offered: Collection[str]) -> bool:
    """Whether JSON without a mark is meant as a call: it names an offered tool."""
    items = value if isinstance(value, list) else [value]
    objects = [item for item in items if isinstance(item, dict)]
    if offered:
        return any(_named(item) in offered for item in objects)
    return len(objects) == len(items) > 0 and all(
        "name" in item and ("parameters" in item or "arguments" in item) for item in objects
    )


def _named(item: Mapping[str, Any]) -> str | None:
    """Return the name in a call, also where other formats have it."""
    function = item.get("function")
    name = function.get("name") if isinstance(function, dict) else item.get("name", function)
    return name if isinstance(name, str) else None


_NAME = re.compile(
    r"""(?:\[\s*+)?\{(?:[^{}\[\]]{0,200}?["']function["']\s*+:\s*+\{)?"""
    r"""[^{}\[\]]{0,200}?["'](?:name|function)["']\s*+:\s*+["']([^"'\n]{0,200}+)["']"""
)
_ARGUMENTS = re.compile("""["'](?:parameters|arguments)["']""")


def is_broken_call(text: str, start: int, offered: Collection[str]) -> bool:
    """Whether JSON that cannot be read is meant as a call, judging by its beginning."""
    found = _NAME.match(text, start)
    if found is None:
        return False
    if offered:
        return found.group(1) in offered
    return _ARGUMENTS.search(text, start, found.end() + 200) is not None

"""Telling quickly whether a schema is a JSON Schema of draft 2020-12.

The metaschema looks at each subschema for itself, and documents repeat the same few forms of them.
So each form is checked once, without what may be anything: names of properties and texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from trustee.decoding import decode_json
from trustee.tools.patterns import compile_pattern
from trustee.tools.schema import change_children, walk

_OF_NAMED = frozenset(("properties", "dependentSchemas", "$defs"))
_ANYTHING = frozenset(("default", "const"))


def is_schema(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema and all subschemas in it are valid."""
    return all(_is_valid(msgspec.json.encode(_outline(part))) for part in walk(schema))


def _outline(schema: Any) -> dict[str, Any]:
    """Return a schema without what its subschemas hold, and without what may be anything."""
    outline = change_children(schema, lambda part: {} if isinstance(part, dict | bool) else part)
    result = {}
    for key, value in outline.items():
        if key in _ANYTHING:
            continue
        if isinstance(value, dict) and key in _OF_NAMED:
            # Whatever the names are, one subschema stands for all that are valid.
            value = {name: part for name, part in value.items() if part != {}}
        if isinstance(value, str) and key in ("description", "title", "$comment"):
            value = ""
        elif key in ("enum", "examples") and isinstance(value, list):
            value = []
        result[key] = value
    return result


@lru_cache(maxsize=1 << 14)
def _is_valid(outline: bytes) -> bool:
    from jsonschema import Draft202012Validator, FormatChecker

    checker = FormatChecker(formats=())
    checker.checks("regex", raises=ValueError)(_is_pattern)
    validator = Draft202012Validator(Draft202012Validator.META_SCHEMA, format_checker=checker)
    return not any(True for _ in validator.iter_errors(decode_json(outline, error=ValueError)))


def _is_pattern(value: object) -> bool:
    return not isinstance(value, str) or compile_pattern(value) is not None

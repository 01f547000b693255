"""Putting a definition where it is used, if that is one place or it is short; others are shared."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from trustee.tools.files.openapi.schemas import DEFINITIONS
from trustee.tools.files.rules import Schema
from trustee.tools.mending import allow_null
from trustee.tools.schema import change_children, walk

_SMALL = 80
"""Characters of a definition that is put wherever it is used."""
_MOST_NESTED = 16
"""Definitions that are put into each other, before one stays a definition."""
_OF_ANY_TYPE = frozenset(("const", "not", "if", "allOf", "anyOf", "oneOf", "$ref"))
"""Keywords that say something of null too."""
_NOTES = frozenset(("description", "default"))


def place_definitions(root: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return a schema with the definitions that it uses, as few of them shared as is short."""
    uses = Counter(
        reference
        for schema in (root, *definitions.values())
        for part in walk(schema)
        if isinstance(reference := part.get("$ref"), str)
    )
    placing = _Placing(
        {
            DEFINITIONS + name: schema
            for name, schema in definitions.items()
            if uses[DEFINITIONS + name] == 1 or _is_small(schema)
        }
    )
    result: Schema = placing.place(root)
    shared: dict[str, Schema] = {}
    while placing.waiting:
        name = placing.waiting.pop()
        if name not in shared:
            shared[name] = {}
            shared[name] = placing.place(definitions[name])
    return result | {"$defs": dict(sorted(shared.items()))} if shared else result


def _is_small(schema: Schema) -> bool:
    return (
        not any("$ref" in part for part in walk(schema))
        and len(json.dumps(schema, ensure_ascii=False)) <= _SMALL
    )


class _Placing:
    """Puts definitions in place, and notes which of them stay shared."""

    def __init__(self, placed: dict[str, Schema]) -> None:
        self.placed = placed
        self.waiting: list[str] = []

    def place(self, schema: Any, nested: int = 0) -> Any:
        """Return a schema with definitions in place of references."""
        if not isinstance(schema, dict):
            return schema
        result = change_children(schema, lambda part: self.place(part, nested))
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return _merge_null(result)
        if reference not in self.placed or nested >= _MOST_NESTED:
            self.waiting.append(reference.removeprefix(DEFINITIONS))
            return result
        found = self.place(self.placed[reference], nested + 1)
        del result["$ref"]
        return found | result if result.keys() <= _NOTES else {"allOf": [found], **result}


def _merge_null(schema: Schema) -> Schema:
    """Write a choice between one type and null as a list of types."""
    match schema:
        case {"anyOf": [{"type": str()} as only, {"type": "null", **more}], **rest}:
            if not more and rest.keys() <= _NOTES and not _OF_ANY_TYPE & only.keys():
                return allow_null(only) | rest
    return schema

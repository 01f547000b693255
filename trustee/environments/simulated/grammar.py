"""The grammar of a tool's arguments, as the writer is held to them.

A grammar knows less than JSON Schema. What it cannot hold is left free, so that the writer may get
it right; the check of the written task finds what it got wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trustee.tools.alternatives import alternatives, kinds_of
from trustee.tools.schema import Schema, as_object, members, properties_of, required_of, type_of

FREE: dict[str, Any] = {}
"""Any JSON value."""
MOST_TEXT = 200
"""Characters of a text, unless its schema asks for more."""
MOST_ITEMS = 8
"""Items of a list, unless its schema asks for more."""
MOST_HELD = {"Length": 2000, "Items": 64}
"""Longest text and list that a grammar asks for; more is left to the check."""
MOST_NESTED = 6
"""Levels that are held; a level further in is free."""
MOST_PARTS = 1000
"""Parts of one tool's grammar; what comes after them is free."""


def object_grammar(
    properties: Mapping[str, Any], required: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the grammar of an object with these properties alone, all required by default."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties) if required is None else list(required),
        "additionalProperties": False,
    }


def text_grammar(most: int) -> dict[str, Any]:
    """Return the grammar of a text."""
    return {"type": "string", "maxLength": most}


def arguments_grammar(parameters: Schema) -> dict[str, Any]:
    """Return the grammar of the arguments that a tool takes."""
    grammar = _Writer(parameters).write(parameters, 0)
    return {"type": "object"} if grammar is None or grammar == FREE else grammar


class _Writer:
    """Writes the grammar of one tool."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._left = MOST_PARTS

    def write(self, schema: object, nested: int) -> dict[str, Any] | None:
        """Return the grammar of a schema; None if it allows nothing."""
        self._left -= 1
        found = None
        if nested <= MOST_NESTED and self._left > 0:
            found = alternatives(schema, self._root)
        if found is None:
            return FREE
        grammars: list[dict[str, Any]] = []
        for plain in found:
            for grammar in self._write_plain(plain, nested):
                if grammar == FREE:
                    return FREE
                if grammar not in grammars:
                    grammars.append(grammar)
        if not grammars:
            return None
        return grammars[0] if len(grammars) == 1 else {"anyOf": grammars}

    def _write_plain(self, schema: Schema, nested: int) -> list[dict[str, Any]]:
        kinds = kinds_of(schema, self._root)
        if "const" in schema:
            return [{"const": schema["const"]}]
        if options := members(schema, "enum"):
            named = {*kinds, *(["integer"] if "number" in kinds else [])}
            return [{"enum": [o for o in options if not named or type_of(o) in named]}]
        return [self._write_kind(kind, schema, nested) for kind in kinds] or [FREE]

    def _write_kind(self, kind: str, schema: Schema, nested: int) -> dict[str, Any]:
        match kind:
            case "object":
                return self._write_object(schema, nested)
            case "array":
                return self._write_array(schema, nested)
            case "string":
                least, most = _bounds(schema, "Length", MOST_TEXT)
                return {"type": "string"} | _bounded("Length", least, most)
            case _:
                return {"type": kind}

    def _write_object(self, schema: Schema, nested: int) -> dict[str, Any]:
        named, required = properties_of(schema), required_of(schema)
        others = schema.get("additionalProperties", True)
        if not named and not required:
            plain = "patternProperties" in schema or not isinstance(others, Mapping)
            values = FREE if plain else self.write(others, nested + 1)
            return {"type": "object"} | ({"additionalProperties": values} if values else {})
        written: dict[str, Any] = {}
        for name in dict.fromkeys([*named, *required]):
            grammar = self.write(named.get(name, as_object(others)), nested + 1)
            if grammar is not None:
                written[name] = grammar
        return object_grammar(written, [name for name in required if name in written])

    def _write_array(self, schema: Schema, nested: int) -> dict[str, Any]:
        least, most = _bounds(schema, "Items", MOST_ITEMS)
        first = [self.write(part, nested + 1) for part in members(schema, "prefixItems")]
        if not first:
            items = self.write(schema.get("items", True), nested + 1)
            if items is None:
                return {"type": "array", "maxItems": 0}
            return {"type": "array", "items": items} | _bounded("Items", least, most)
        if None in first:
            return {"type": "array"}
        # Without further items a tuple has its whole length.
        return {"type": "array", "prefixItems": first, "items": False, "minItems": len(first)}


def _bounds(schema: Schema, unit: str, usual: int) -> tuple[int, int | None]:
    """Return the least and the most of a text's characters or a list's items; None for no bound."""
    least, stated = (
        int(value) if isinstance(value := schema.get(f"{end}{unit}"), int | float) else default
        for end, default in (("min", 0), ("max", -1))
    )
    if least > MOST_HELD[unit]:
        return 0, None
    most = max(usual, least)
    return least, most if stated < least else min(stated, most)


def _bounded(unit: str, least: int, most: int | None) -> dict[str, Any]:
    least_held = {f"min{unit}": least} if least else {}
    return {} if most is None else {f"max{unit}": most} | least_held

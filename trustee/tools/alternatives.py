"""A schema as a list of plain alternatives: references followed, combinations merged.

Who writes values for a schema, or a grammar of them, needs no word about `$ref`, `allOf`, `anyOf`
and `oneOf` then. What cannot be merged exactly stays in the alternative, for the check to find.
"""

from __future__ import annotations

from typing import Any

from trustee.tools.schema import NOTHING, Schema, as_object, follow, members, type_of, types_of

MOST = 24
"""Alternatives of one schema; with more it is not taken apart."""
MOST_STEPS = 200
"""Combinations that are looked at, of which a definition that leads to itself has no end."""
_COMBINING = ("allOf", "anyOf", "oneOf", "$ref")


def alternatives(schema: object, root: Schema) -> list[Schema] | None:
    """Return plain schemas of which a value fits one, none if nothing fits; None for too many."""
    return _take_apart(schema, root, [MOST_STEPS])


def _take_apart(schema: object, root: Schema, left: list[int]) -> list[Schema] | None:
    left[0] -= 1
    if left[0] < 0:
        return None
    whole = follow(schema, root)
    if whole.get("not") == NOTHING["not"]:
        return []
    found = [{key: value for key, value in whole.items() if key not in _COMBINING}]
    choices = [[part] for part in members(whole, "allOf")]
    choices += [members(whole, key) for key in ("anyOf", "oneOf") if members(whole, key)]
    for choice in choices:
        parts: list[Schema] = []
        for part in choice:
            plain = _take_apart(part, root, left)
            if plain is None:
                return None
            parts += plain
        found = [
            merged
            for one in found
            for other in parts
            if (merged := _merge(one, other, root)) is not None
        ]
        if len(found) > MOST:
            return None
    return [part for part in found if _is_possible(part, root)]


def _is_possible(schema: Schema, root: Schema) -> bool:
    """Return whether a value of an enum has the type that is asked for beside it."""
    types = types_of({key: schema[key] for key in ("type",) if key in schema}, root)
    given = [schema["const"]] if "const" in schema else members(schema, "enum")
    return not given or types is None or any(type_of(value) in types for value in given)


def _merge(one: Schema, other: Schema, root: Schema) -> dict[str, Any] | None:
    """Return a schema that asks for both; None if nothing can fit."""
    result: dict[str, Any] = {**other, **one}
    for key in one.keys() & other.keys():
        mine, theirs = one[key], other[key]
        if mine == theirs:
            continue
        if key == "type":
            both = _meet_types(one, other, root)
            if not both:
                return None
            result[key] = both[0] if len(both) == 1 else both
        elif key == "enum" and isinstance(mine, list) and isinstance(theirs, list):
            result[key] = [value for value in mine if value in theirs]
            if not result[key]:
                return None
        elif key == "const":
            return None
        elif key == "required":
            result[key] = list(dict.fromkeys([*members(one, key), *members(other, key)]))
        elif key == "properties" and isinstance(mine, dict) and isinstance(theirs, dict):
            result[key] = {**theirs, **mine} | {
                name: {"allOf": [mine[name], theirs[name]]} for name in mine.keys() & theirs.keys()
            }
        elif key in ("items", "additionalProperties"):
            result[key] = False if False in (mine, theirs) else {"allOf": [mine, theirs]}
        elif isinstance(mine, int | float) and isinstance(theirs, int | float):
            least = key.startswith("min") or key == "exclusiveMinimum"
            result[key] = max(mine, theirs) if least else min(mine, theirs)
    return result


def _meet_types(one: Schema, other: Schema, root: Schema) -> list[str]:
    mine, theirs = (types_of({"type": part["type"]}, root) or frozenset() for part in (one, other))
    both = mine & theirs
    return sorted(both - {"integer"} if "number" in both else both)


def kinds_of(schema: object, root: Schema) -> list[str]:
    """Return the types of a plain alternative, in its own order; empty if it says none."""
    types = types_of(schema, root)
    if types is None:
        return []
    named = as_object(schema).get("type")
    listed = [kind for kind in (named if isinstance(named, list) else [named]) if kind in types]
    kinds = [*listed, *sorted(types - {*listed})]
    return [kind for kind in dict.fromkeys(kinds) if kind != "integer" or "number" not in types]

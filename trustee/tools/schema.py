"""Walking a user's JSON Schema: its subschemas, types and local references.

A subschema is an object, `true` or `false`, anywhere; a reference may lead in a circle; a keyword
may hold what no draft allows. All other modules ask here, so each of these is met once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

Schema = Mapping[str, Any]
ANYTHING: Schema = {}
NOTHING: Schema = {"not": {}}
TYPES = frozenset(("null", "boolean", "integer", "number", "string", "array", "object"))
"""Names of the types of JSON Schema."""

_OF_ONE = (
    *("items", "additionalItems", "unevaluatedItems", "contains", "not", "if", "then", "else"),
    *("additionalProperties", "unevaluatedProperties", "propertyNames", "contentSchema"),
)
"""Keywords that hold one subschema."""
_OF_MANY = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
"""Keywords that hold a list of them; `items` does in older drafts."""
_OF_NAMED = (
    *("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"),
    "dependencies",
)
"""Keywords that hold them by name."""
_IMPLIED = {
    "object": ("properties", "additionalProperties", "patternProperties", "required"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""Keywords from which a type follows where none is given."""
_CHOICES = ("allOf", "anyOf", "oneOf")
"""Keywords that combine a schema of others for the same value."""
_MOST_STEPS = 64
"""Longest chain of references that is followed."""


def as_object(schema: object) -> Schema:
    """Return a schema as an object: `true` is `{}`, `false` allows nothing."""
    if isinstance(schema, Mapping):
        return schema
    return NOTHING if schema is False else ANYTHING


def look_up(reference: object, root: Schema) -> Schema | None:
    """Return what a reference such as `#/$defs/a/items/0` leads to; None if it is not a schema."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    if not reference.startswith("#/"):
        return root if reference == "#" else _find_anchor(reference[1:], root)
    node: Any = root
    for part in reference[2:].split("/"):
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return as_object(node) if isinstance(node, Mapping | bool) else None


def _find_anchor(name: str, root: Schema) -> Schema | None:
    return next((schema for schema in walk(root) if schema.get("$anchor") == name), None)


def follow(schema: object, root: Schema) -> Schema:
    """Follow references; keywords beside one are kept. A circle and a lost one allow anything."""
    found = as_object(schema)
    for _ in range(_MOST_STEPS):
        if "$ref" not in found:
            return found
        target = look_up(found["$ref"], root)
        beside = {key: value for key, value in found.items() if key != "$ref"}
        if target is None:
            return beside
        found = {**target, **beside}
    return ANYTHING


def children(schema: object) -> Iterator[Schema]:
    """Yield the subschemas that stand directly in a schema."""
    found = as_object(schema)
    for key in _OF_ONE:
        if key in found and not isinstance(found[key], list):
            yield as_object(found[key])
    for key in _OF_MANY:
        yield from map(as_object, members(found, key))
    for key in _OF_NAMED:
        named = found.get(key)
        if isinstance(named, Mapping):
            # In `dependencies` a name may have a list of names.
            yield from (as_object(part) for part in named.values() if not isinstance(part, list))


def walk(schema: object) -> Iterator[Schema]:
    """Yield a schema and all subschemas inside it; references are not followed."""
    waiting = [as_object(schema)]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += children(found)


def change_children(schema: Schema, change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a schema with each of its direct subschemas changed."""
    result = dict(schema)
    for key in _OF_ONE:
        if key in result and isinstance(result[key], Mapping | bool):
            result[key] = change(result[key])
    for key in _OF_MANY:
        if isinstance(result.get(key), list):
            result[key] = [change(part) for part in result[key]]
    for key in _OF_NAMED:
        if isinstance(result.get(key), Mapping):
            result[key] = {
                name: part if isinstance(part, list) else change(part)
                for name, part in result[key].items()
            }
    return result


def members(schema: Schema, key: str) -> list[Any]:
    """Return what a keyword lists; empty if it is not a list."""
    listed = schema.get(key)
    return listed if isinstance(listed, list) else []


def properties_of(schema: object) -> dict[str, Schema]:
    """Return the properties that a schema itself names."""
    named = as_object(schema).get("properties")
    return (
        {str(name): as_object(part) for name, part in named.items()}
        if isinstance(named, Mapping)
        else {}
    )


def required_of(schema: object) -> list[str]:
    """Return the names that a schema itself requires."""
    return [name for name in members(as_object(schema), "required") if isinstance(name, str)]


def item_of(schema: object, index: int) -> Schema:
    """Return the schema of an array's item."""
    found = as_object(schema)
    listed = members(found, "prefixItems") or members(found, "items")
    if index < len(listed):
        return as_object(listed[index])
    return as_object(found.get("items", True)) if "items" in found else ANYTHING


def parts_of(schema: object, root: Schema) -> list[Schema]:
    """Return a schema and all that it is combined of, with their references followed."""
    found: list[Schema] = []
    waiting = [as_object(schema)]
    seen: set[str] = set()
    while waiting:
        part = waiting.pop(0)
        reference = part.get("$ref")
        if isinstance(reference, str):
            if reference in seen:
                continue
            seen.add(reference)
        part = follow(part, root)
        found.append(part)
        waiting += [as_object(inner) for key in _CHOICES for inner in members(part, key)]
    return found


def property_of(schema: object, name: str, root: Schema) -> Schema:
    """Return the schema of a property, also one that only a part of a combination names."""
    for part in parts_of(schema, root):
        properties = properties_of(part)
        if name in properties:
            return properties[name]
    others = follow(schema, root).get("additionalProperties")
    return others if isinstance(others, Mapping) else ANYTHING


def leaves(schema: object, value: Any, root: Schema | None = None) -> Iterator[tuple[Schema, Any]]:
    """Yield (schema, value) for every single value inside a value."""
    found = as_object(schema)
    root = found if root is None else root
    match value:
        case Mapping():
            for name, inner in value.items():
                yield from leaves(property_of(found, str(name), root), inner, root)
        case list() | tuple():
            parts = parts_of(found, root)
            holder = next((part for part in parts if "items" in part or "prefixItems" in part), {})
            for index, inner in enumerate(value):
                yield from leaves(item_of(holder, index), inner, root)
        case _:
            yield _merge_values(parts_of(found, root)), value


def _merge_values(parts: list[Schema]) -> Schema:
    """Return a single value's schema with the options that its combinations offer."""
    offered = [option for part in parts for option in members(part, "enum")]
    offered += [part["const"] for part in parts if "const" in part]
    return {**parts[0], "enum": offered} if offered else parts[0]


def types_of(schema: object, root: Schema) -> frozenset[str] | None:
    """Return the types that a schema allows, whichever keyword says so; None if none does.

    Where `number` is among them, `integer` is too, as `type_of` gives it for 3.0.
    """
    return _types(as_object(schema), root, {}) or None


def _types(
    schema: Schema, root: Schema, known: dict[str, frozenset[str] | None]
) -> frozenset[str] | None:
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return _stated_types(schema, root, known)
    if reference not in known:
        # Where a circle closes, it adds nothing to what is found on the way round.
        known[reference] = frozenset()
        target = look_up(reference, root)
        known[reference] = None if target is None else _types(target, root, known)
    beside = {key: value for key, value in schema.items() if key != "$ref"}
    stated = _stated_types(beside, root, known)
    return known[reference] if stated is None else _meet([known[reference], stated])


def _stated_types(
    schema: Schema, root: Schema, known: dict[str, frozenset[str] | None]
) -> frozenset[str] | None:
    found: list[frozenset[str] | None] = []
    if "type" in schema:
        named = schema["type"]
        found.append(frozenset([named] if isinstance(named, str) else members(schema, "type")))
    if "const" in schema:
        found.append(frozenset((type_of(schema["const"]),)))
    if isinstance(schema.get("enum"), list):
        found.append(frozenset(map(type_of, schema["enum"])))
    found += [_types(as_object(part), root, known) for part in members(schema, "allOf")]
    found += [
        _join(_types(as_object(part), root, known) for part in choices)
        for key in ("anyOf", "oneOf")
        if (choices := members(schema, key))
    ]
    stated = _meet(found)
    if stated is not None:
        return stated
    return _meet(
        [frozenset(kind for kind, keys in _IMPLIED.items() if any(key in schema for key in keys))]
    )


def _meet(found: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    """Intersect types; what says nothing, or closes a circle, changes nothing."""
    said = [types | {"integer"} if "number" in types else types for types in found if types]
    return frozenset.intersection(*said) if said else None


def _join(found: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    result: frozenset[str] = frozenset()
    for types in found:
        if types is None:
            return None
        result |= types
    return result


def type_of(value: object) -> str:
    """Return the JSON type of a value; a number without a fraction is an integer."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list() | tuple():
            return "array"
        case _:
            return "object"

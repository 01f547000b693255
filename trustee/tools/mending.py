"""Schemas of older drafts, other languages and loose habits, as JSON Schema of draft 2020-12.

Every reader of tools mends what it found here, so that a form is known everywhere or nowhere. What
is already JSON Schema stays as it is. What cannot be mended is left for the check to name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trustee.decoding import decode_json
from trustee.tools.patterns import compile_pattern
from trustee.tools.schema import TYPES, change_children, members
from trustee.tools.type_words import FORM_FIELDS, OPTIONAL, is_known, read_type

BAD_PATTERN = "patterns that are not valid here, dropped"
UNKNOWN_TYPE = "types that are not known, left open"
FORM_FIELD = "kinds of a form's fields, read as text"
BAD_DEFAULT = "defaults of another type than the parameter's, dropped"
_VALUES = frozenset(("default", "const", "example"))
"""Keywords whose value is data, in which null means null."""
_NUMBERS = frozenset(
    (
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    )
)
_OF_TYPE: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}
"""What a default of a type is in Python, where the type is one word."""
_SHAPES = frozenset(("$ref", "anyOf", "oneOf", "allOf"))
_HOLDERS = frozenset(
    (
        *("$defs", "definitions", "patternProperties", "dependentSchemas"),
        *("additionalProperties", "not"),
    )
)
"""Keywords that alone hold an object and make no table of parameters."""
_TRUE = (True, "true", "True")


def mend_parameters(parameters: Any, notes: set[str]) -> Any:
    """Return the parameters of a function as a JSON Schema of an object.

    A table, or a list, of parameters becomes the schema's properties; those without a default that
    are not called optional are required.

    Args:
        parameters: a function's parameters in any form.
        notes: gets what was lost, in words.
    """
    if isinstance(parameters, list):
        named = {str(p["name"]): p for p in parameters if isinstance(p, dict) and "name" in p}
        if len(named) < len(parameters):
            return parameters
        parameters = {
            name: {key: value for key, value in part.items() if key != "name"}
            for name, part in named.items()
        }
        if not parameters:
            return {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        return parameters
    given = {key: value for key, value in parameters.items() if value is not None}
    if _is_table(given):
        return _mend_table(given, notes)
    schema = mend_schema(given, notes)
    kinds = schema.get("type")
    if kinds is None and (_SHAPES & schema.keys() or not schema.keys() - {"description", "title"}):
        schema = {"type": "object", "properties": {}} | schema
        if _SHAPES & schema.keys():
            del schema["properties"]
    elif kinds is None and ("properties" in schema or "additionalProperties" in schema):
        schema = {"type": "object"} | schema
    elif isinstance(kinds, list) and "object" in kinds:
        schema = schema | {"type": "object"}
    return _name_required(schema)


def mend_schema(schema: Any, notes: set[str]) -> Any:
    """Return a schema with its keywords as draft 2020-12 has them, at every depth."""
    if not isinstance(schema, Mapping):
        return schema
    found = {k: v for k, v in schema.items() if (v is not None or k in _VALUES) and k != "$schema"}
    for key in ("properties", "$defs", "definitions", "patternProperties"):
        # An empty table is an empty list in some languages.
        if found.get(key) == []:
            found[key] = {}
        if isinstance(found.get(key), Mapping) and None in found[key].values():
            found[key] = {name: part for name, part in found[key].items() if part is not None}
    _mend_type(found, notes)
    _mend_default(found, notes)
    _mend_required(found)
    _mend_bounds(found)
    _mend_lists(found)
    _mend_patterns(found, notes)
    result = change_children(found, lambda part: mend_schema(part, notes))
    nullable = result.pop("nullable", False) in _TRUE
    return allow_null(result) if nullable else result


def allow_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that also allows null."""
    if not isinstance(schema.get("type"), str) or "const" in schema:
        return {"anyOf": [schema, {"type": "null"}]} if schema else schema
    result = {**schema, "type": [schema["type"], "null"]}
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        result["enum"] = [*schema["enum"], None]
    return result


def _is_table(given: Mapping[str, Any]) -> bool:
    """Return whether an object holds parameters by name, and nothing of a schema."""
    parts = all(isinstance(part, Mapping) for part in given.values())
    return parts and bool(given.keys() - _HOLDERS) and "properties" not in given


def _mend_table(table: Mapping[str, Any], notes: set[str]) -> dict[str, Any]:
    needed = [name for name, part in table.items() if _is_needed(part)]
    properties = {
        name: mend_schema({k: v for k, v in part.items() if k != "required"}, notes)
        for name, part in table.items()
    }
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return {**schema, "required": needed} if needed else schema


def _is_needed(part: Mapping[str, Any]) -> bool:
    if isinstance(part.get("required"), bool):
        return bool(part["required"])
    optional = part.get("optional") in _TRUE or OPTIONAL.search(str(part.get("type", "")))
    return "default" not in part and not optional


def _mend_type(schema: dict[str, Any], notes: set[str]) -> None:
    """Write types as JSON Schema does: `dict`, `STRING`, `List[int]`, `str, optional`."""
    given = schema.get("type")
    if isinstance(given, Mapping) and ("type" in given or "$ref" in given):
        # The type of a parameter is itself a schema in some lists.
        del schema["type"]
        schema |= {**given, **schema}
        given = schema.get("type")
    words = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    if not words or {str(word) for word in words} <= TYPES:
        return
    if not all(isinstance(word, str) and is_known(word) for word in words):
        notes.add(UNKNOWN_TYPE)
    if any(isinstance(word, str) and word.lower() in FORM_FIELDS for word in words):
        notes.add(FORM_FIELD)
    read = [read_type(word) if isinstance(word, str) else {} for word in words]
    if all(part.keys() == {"type"} for part in read):
        # In its old place, because models are shown a schema's keys in their order.
        kinds = list(dict.fromkeys(part["type"] for part in read))
        schema["type"] = kinds[0] if isinstance(given, str) else kinds
        return
    del schema["type"]
    if not all(read):
        return
    whole = read[0] if len(read) == 1 else {"anyOf": read}
    for key, value in whole.items():
        schema.setdefault(key, value)


def _mend_default(schema: dict[str, Any], notes: set[str]) -> None:
    """Read values that are written as text, and the reverse; drop what the type does not allow."""
    kind, given = schema.get("type"), schema.get("default")
    if given is None or not isinstance(kind, str) or kind not in _OF_TYPE:
        return
    if isinstance(given, str) and kind in ("integer", "number", "boolean"):
        given = read_number(given.lower() if kind == "boolean" else given)
    elif kind == "string" and isinstance(given, int | float) and not isinstance(given, bool):
        given = str(given)
    is_truth = isinstance(given, bool)
    whole = isinstance(given, float) and given.is_integer()
    if is_truth != (kind == "boolean") or not (
        isinstance(given, _OF_TYPE[kind]) or (kind == "integer" and whole)
    ):
        notes.add(BAD_DEFAULT)
        del schema["default"]
    else:
        schema["default"] = given


def _mend_required(schema: dict[str, Any]) -> None:
    """Collect names that properties themselves call required; a flag of this schema is not one."""
    named = schema.get("properties")
    parts = named.items() if isinstance(named, Mapping) else ()
    needed = [n for n, part in parts if isinstance(part, Mapping) and part.get("required") is True]
    if isinstance(schema.get("required"), bool):
        del schema["required"]
    listed = members(schema, "required")
    if needed or (listed and len(set(map(str, listed))) < len(listed)):
        schema["required"] = list(dict.fromkeys([*listed, *needed]))


def _mend_bounds(schema: dict[str, Any]) -> None:
    """Read numbers that are written as text, and flags that make a bound exclusive."""
    for key in _NUMBERS & schema.keys():
        if isinstance(schema[key], str):
            schema[key] = read_number(schema[key])
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(flag), bool) and schema.pop(flag) and bound in schema:
            schema[flag] = schema.pop(bound)


def read_number(value: Any) -> Any:
    """Convert a number written as text; everything else is left to the schema check."""
    try:
        return decode_json(value, error=ValueError) if isinstance(value, str) else value
    except ValueError:
        return value


def _mend_lists(schema: dict[str, Any]) -> None:
    """Write tuples and dependencies under the names of draft 2020-12."""
    if isinstance(schema.get("items"), list):
        first = schema.pop("items")
        rest = schema.pop("additionalItems", None)
        schema |= {"prefixItems": first} if first else {}
        schema |= {} if rest is None else {"items": rest}
    schema.pop("additionalItems", None)
    if isinstance(schema.get("dependencies"), Mapping):
        by_name = schema.pop("dependencies")
        names = {n: part for n, part in by_name.items() if isinstance(part, list)}
        schemas = {n: part for n, part in by_name.items() if not isinstance(part, list)}
        schema |= {"dependentRequired": names} if names else {}
        schema |= {"dependentSchemas": schemas} if schemas else {}
    if schema.get("enum") == []:
        del schema["enum"]


def _mend_patterns(schema: dict[str, Any], notes: set[str]) -> None:
    """Drop patterns that are not patterns here, with what depends on them."""
    if isinstance(schema.get("pattern"), str) and not _compiles(schema["pattern"]):
        notes.add(BAD_PATTERN)
        del schema["pattern"]
    named = schema.get("patternProperties")
    if isinstance(named, Mapping) and not all(map(_compiles, named)):
        notes.add(BAD_PATTERN)
        for key in ("patternProperties", "additionalProperties", "unevaluatedProperties"):
            schema.pop(key, None)


def _compiles(pattern: str) -> bool:
    try:
        return compile_pattern(pattern) is not None
    except ValueError:
        return False


def _name_required(schema: dict[str, Any]) -> dict[str, Any]:
    """Name arguments that are required and described nowhere, since others could not be given."""
    if schema.keys() & (_SHAPES | {"additionalProperties", "patternProperties"}):
        return schema
    properties = schema.get("properties", {})
    lost = [n for n in members(schema, "required") if isinstance(n, str) and n not in properties]
    if not lost or not isinstance(properties, Mapping):
        return schema
    return {**schema, "properties": {**properties, **{name: {} for name in lost}}}

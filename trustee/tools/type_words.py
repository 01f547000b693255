"""Schemas whose types are words of another language, as JSON Schema.

People's function lists say `dict`, `float` or `List[int], optional` where JSON Schema says
`object`, `number` or an array of integers, and leave `null` where a table had no value. A schema
that is already JSON Schema stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

WORDS = {
    word: kind
    for kind, words in {
        "string": "string str text char",
        "integer": "integer int long",
        "number": "number float double decimal",
        "boolean": "boolean bool",
        "object": "object dict map hashmap",
        "array": "array list tuple set arraylist",
        "null": "null none",
    }.items()
    for word in words.split()
}
"""JSON Schema's type by the lower-case word for it."""
OPTIONAL = re.compile(r",?\s*optional\.?\s*$", re.IGNORECASE)
GENERIC = re.compile(r"([\w.]+)\s*\[(.*)\]", re.DOTALL)
MOST_CHARACTERS = 200
"""Length of the longest text that is read as a type."""
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("items", "additionalProperties", "unevaluatedProperties", "not", "contains")
VALUES = frozenset(("default", "const", "enum", "examples", "example"))
"""Keywords whose value is data, in which null means null."""
SHAPES = frozenset(("type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"))


def as_json_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function's parameters as a JSON Schema of an object.

    A plain table of parameters by name becomes the schema's properties; those without a default
    that are not called optional are required, or those that say so.
    """
    given = {key: value for key, value in parameters.items() if value is not None}
    if given and "properties" not in given and all(isinstance(v, dict) for v in given.values()):
        return _as_object(given)
    schema: dict[str, Any] = read_schema(given)
    if "type" not in schema and not SHAPES & schema.keys() - {"properties"}:
        schema = {"type": "object", "properties": {}, **schema}
    return schema


def read_schema(schema: Any) -> Any:
    """Return a schema with its types in JSON Schema's words, at every depth."""
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    needed: list[str] = []
    for key, value in schema.items():
        if value is None and key not in VALUES:
            continue
        if key == "type":
            result |= _read_type(value)
        elif key in MAPS and isinstance(value, dict):
            inner = {name: one for name, one in value.items() if one is not None}
            needed = [n for n, one in inner.items() if _says_required(one)] or needed
            result[key] = {name: read_schema(one) for name, one in inner.items()}
        elif key in LISTS and isinstance(value, list):
            result[key] = [read_schema(one) for one in value]
        elif key in SINGLE:
            result[key] = read_schema(value)
        elif key != "required" or not isinstance(value, bool):
            result[key] = value
    if needed:
        result["required"] = list(dict.fromkeys([*result.get("required", ()), *needed]))
    return result


def read_type(text: str) -> dict[str, Any]:
    """Return the schema of a type that is written as a word or as in Python.

    A word that says nothing gives the schema that allows everything.
    """
    text = OPTIONAL.sub("", text[:MOST_CHARACTERS]).strip()
    if (word := text.rpartition(".")[2].lower()) in WORDS:
        return {"type": WORDS[word]}
    choices = _split(text, "|")
    generic = GENERIC.fullmatch(text)
    if len(choices) == 1 and generic is not None:
        outer = generic.group(1).rpartition(".")[2].lower()
        inner = _split(generic.group(2), ",")
        if WORDS.get(outer) == "array":
            items = read_type(inner[0]) if len(set(inner) - {"..."}) == 1 else {}
            return {"type": "array", "items": items} if items else {"type": "array"}
        if outer not in ("union", "optional"):
            return {"type": WORDS[outer]} if outer in WORDS else {}
        choices = inner if outer == "union" else [*inner, "none"]
    elif len(choices) == 1:
        return {}
    schemas = [read_type(choice) for choice in choices]
    return {"anyOf": schemas} if all(schemas) else {}


def _as_object(table: Mapping[str, Any]) -> dict[str, Any]:
    needed = [name for name, one in table.items() if _is_needed(one)]
    schema = {
        "type": "object",
        "properties": {name: read_schema(one) for name, one in table.items()},
    }
    return {**schema, "required": needed} if needed else schema


def _is_needed(one: Mapping[str, Any]) -> bool:
    if isinstance(one.get("required"), bool):
        return bool(one["required"])
    return "default" not in one and OPTIONAL.search(str(one.get("type", ""))) is None


def _read_type(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"type": value} if value in WORDS.values() else read_type(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        words = [WORDS.get(one.lower(), "") for one in value]
        return {"type": list(dict.fromkeys(words))} if all(words) else {}
    return {}


def _says_required(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("required") is True


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside brackets."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == separator and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]

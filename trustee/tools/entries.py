"""One tool of a list, in any of the forms in which people write them.

OpenAI's two nestings, Anthropic's `input_schema`, MCP's `inputSchema` with its hints, Gemini's
declarations, Bedrock's `toolSpec`, and the bare functions of data sets. What looks like a schema
and is not read is never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.tools.arguments import shorten
from trustee.tools.schema import TYPES

SCHEMAS = (
    *("parameters", "input_schema", "inputSchema", "parametersJsonSchema"),
    *("parameters_json_schema", "args_schema", "arguments", "args", "inputs"),
)
"""Keys under which the schema of the arguments is found."""
_WRAPPERS = ("function", "toolSpec", "tool")
"""Keys that hold the tool itself."""
_OTHERS = frozenset(
    (
        *("outputSchema", "output_schema", "response", "responses", "returns", "return", "output"),
        *("result", "results", "annotations", "examples", "input_examples", "_meta", "metadata"),
        *("function", "toolSpec", "tool", "cache_control", "execution", "icons"),
    )
)
"""Keys that may hold a schema of something else than the arguments."""
_MARKS = frozenset(("type", "properties", "$ref", "anyOf", "allOf", "oneOf", "items"))
SHAPE = '{"type": "function", "function": {…}} or {"name": …, "parameters": {…}}'


def is_entry(value: object) -> bool:
    """Return whether a value is meant as one tool: it, or what it wraps, has a name."""
    if not isinstance(value, Mapping):
        return False
    inner = _unwrap(value)
    return "name" in inner and not isinstance(inner["name"], Mapping | list)


def read_marks(entry: Any, *, where: str) -> dict[str, Any]:
    """Return what an entry says of a tool: name, description, category, toolset and the rest.

    The parameters are as they are written. The effect and the parameters are None where none is
    given.

    Raises:
        InputError: naming the key and what is wrong.
    """
    function = _unwrap(entry) if isinstance(entry, Mapping) else {}
    if not is_entry(entry):
        raise InputError(f"{where}: not a tool, got {shorten(entry)}; a tool is {SHAPE}")
    marks = {**function, **entry}
    category = marks.get("x-category", marks.get("category"))
    toolset = marks.get("x-toolset", marks.get("toolset"))
    texts = {
        "name": function["name"],
        "description": function.get("description") or "",
        "category": "" if category is None else category,
        "toolset": "" if toolset is None else toolset,
    }
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InputError(f"{where}.{key}: must be a string, got {shorten(value)}")
    return {
        **texts,
        "parameters": find_parameters(function, where=f'{where} "{texts["name"]}"'),
        "effect": marks.get("x-effect", marks.get("effect", _hinted_effect(marks))),
    }


def unread_schemas(entry: Mapping[str, Any]) -> list[str]:
    """Return the keys of an entry whose values look like schemas and are not read."""
    function = _unwrap(entry)
    known = {*SCHEMAS, *_OTHERS}
    return [k for k, v in function.items() if k not in known and _looks_like_schema(v)]


def _unwrap(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _WRAPPERS:
        if isinstance(entry.get(key), Mapping) and "name" in entry[key]:
            inner: Mapping[str, Any] = entry[key]
            return inner
    return entry


def find_parameters(function: Mapping[str, Any], *, where: str) -> Any:
    """Return the schema of the arguments; None where an entry has none of any name."""
    given = [key for key in SCHEMAS if function.get(key) is not None]
    schemas = [_decode(function[key], where=f"{where}.{key}") for key in given]
    if len(given) > 1 and any(schema != schemas[0] for schema in schemas):
        raise InputError(f"{where}: has {' and '.join(given)}, which differ; give one of them")
    if not given:
        if unread := unread_schemas(function):
            raise InputError(
                f'{where}: "{unread[0]}" looks like a schema, but arguments are read from'
                f" {', '.join(SCHEMAS[:3])}; rename it"
            )
        kind = function.get("type", "function")
        if isinstance(kind, str) and kind not in ("function", "tool", "custom_tool"):
            raise InputError(f'{where}: is of type "{kind}", which takes no arguments by name')
        return None
    schema = schemas[0]
    if isinstance(schema, Mapping) and isinstance(schema.get("json"), Mapping) and len(schema) == 1:
        schema = schema["json"]
    needed = function.get("required")
    if isinstance(needed, list) and isinstance(schema, Mapping) and "properties" in schema:
        schema = {**schema, "required": schema.get("required") or needed}
    return schema


def _decode(value: Any, *, where: str) -> Any:
    """Decode a schema that is written as the text of its JSON."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    return decode_json(value, error=lambda why: InputError(f"{where}: not JSON ({why})"))


def _hinted_effect(marks: Mapping[str, Any]) -> str | None:
    """Return the effect that a server's hints give; a destructive tool is never a read one."""
    hints = marks.get("annotations")
    if not isinstance(hints, Mapping):
        return None
    if isinstance(hints.get("readOnlyHint"), bool):
        return "read" if hints["readOnlyHint"] else "write"
    # The hint has a meaning only for tools that change something.
    return "write" if "destructiveHint" in hints else None


def _looks_like_schema(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(p, Mapping) and "name" in p and "type" in p for p in value)
    if not isinstance(value, Mapping):
        return False
    if "properties" in value or str(value.get("type", "")).lower() in TYPES:
        return True
    return bool(value) and all(
        isinstance(part, Mapping) and _MARKS & part.keys() for part in value.values()
    )

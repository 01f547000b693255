"""Checking a call's arguments against its tool's schema, with errors in words.

The policy reads these sentences, so each names the argument, what is allowed and what was given.
`validation` finds what is wrong; other modules word wrong values with `describe_rule`, `shorten`.

jsonschema takes a tenth of a second to import, so `validation` is imported at the first check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trustee.tools.schema import NOTHING, properties_of, required_of
from trustee.tools.values import render_json
from trustee.types import BadCall, Call, Tool

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

_SHOWN = 60
"""Maximum number of characters of a wrong value in a message."""

_OPENING = frozenset(
    (
        "additionalProperties",
        "unevaluatedProperties",
        "patternProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "if",
        "$ref",
        "$dynamicRef",
        "dependentSchemas",
    )
)
"""Keywords by which a schema may allow names other than its properties."""
_MERGING = _OPENING - {"additionalProperties", "unevaluatedProperties", "patternProperties"}
"""Keywords that combine a schema with others, whose properties are then allowed too."""


def check_name(tools: Sequence[Tool], call: Call) -> str | None:
    """Say in one sentence why a call names no tool, in words for the policy; None where it does."""
    if isinstance(call, BadCall):
        return call.reason
    names = [tool.name for tool in tools]
    return None if call.name in names else f"there is no tool {call.name!r}; the tools are {names}"


def check_call(tools: Sequence[Tool], call: Call) -> str | None:
    """Say in one sentence why a call cannot be made, in words for the policy; None where it can.

    It cannot if it is unreadable, if no tool has its name, or if its arguments do not fit.
    """
    if isinstance(call, BadCall) or (error := check_name(tools, call)):
        return call.reason if isinstance(call, BadCall) else error
    tool = next(tool for tool in tools if tool.name == call.name)
    return check_arguments(tool, call.arguments)


def check_arguments(tool: Tool, arguments: dict[str, Any]) -> str | None:
    """Return one sentence about what is wrong with a call's arguments, or None if they fit.

    A name that the schema does not mention is an error unless the schema allows other names.
    """
    from trustee.tools.validation import Unchecked, find_errors

    properties = properties_of(tool.parameters)
    if not _OPENING & tool.parameters.keys():
        unknown = [name for name in arguments if name not in properties]
        if unknown:
            takes = _join(properties) if properties else "no arguments"
            return f"{tool.name} does not take {_join(unknown)}; it takes {takes}."
    missing = [name for name in required_of(tool.parameters) if name not in arguments]
    if missing:
        return f"{tool.name} needs {_join(missing)}, got {_join(arguments) or 'no arguments'}."
    try:
        errors = find_errors(_close(tool.parameters), arguments)
    except Unchecked as error:
        return f"{tool.name}: these arguments cannot be checked: {error}."
    return f"{tool.name}: {_explain(_closest(errors))}." if errors else None


def _close(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema that also refuses the names which nothing it is combined of mentions."""
    if _MERGING & schema.keys() and "additionalProperties" not in schema:
        return {"unevaluatedProperties": False, **schema}
    return schema


def _closest(errors: Sequence[ValidationError]) -> ValidationError:
    """Return the error to tell: of alternatives, one of that which the value is closest to."""
    from jsonschema.exceptions import relevance

    error = max(errors, key=relevance)
    while error.context:
        choices: dict[object, list[ValidationError]] = {}
        for inner in error.context:
            # The alternative `false` is never meant, and its error has no path.
            if inner.relative_schema_path:
                choices.setdefault(inner.relative_schema_path[0], []).append(inner)
        if not choices:
            return error
        ranked = sorted(choices.values(), key=_distance)
        tied = len(ranked) > 1 and _distance(ranked[0]) == _distance(ranked[1])
        if tied and not any(inner.relative_path for inner in error.context):
            return error
        error = max(ranked[0], key=relevance)
    return error


def _distance(errors: Sequence[ValidationError]) -> tuple[int, ...]:
    """Return how far a value is from an alternative: first its type counts, then its marks."""
    kinds = [error.validator for error in errors]
    return (
        sum(error.validator == "type" and not error.relative_path for error in errors),
        kinds.count("const") + kinds.count("enum"),
        kinds.count("required"),
        len(errors),
    )


_TYPES = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_RULES = {
    "minimum": "be at least {}",
    "maximum": "be at most {}",
    "exclusiveMinimum": "be greater than {}",
    "exclusiveMaximum": "be less than {}",
    "multipleOf": "be a multiple of {}",
    "pattern": "match the pattern {}",
    "uniqueItems": "not hold an item twice",
}
"""Text after "must", by keyword, for keywords whose value can be inserted as it is."""


def _explain(error: ValidationError) -> str:
    """Return a validation error in words: the argument, what is allowed, what was given."""
    path = ""
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    subject = f'"{path}"' if path else "the arguments"
    return f"{subject} must {describe_rule(error)}, got {shorten(error.instance)}"


def describe_rule(error: ValidationError) -> str:
    """Return what the violated keyword of a schema requires, in words that follow "must"."""
    from trustee.tools.validation import FORMATS

    value = error.validator_value
    match error.validator:
        case "not" if value == NOTHING["not"]:
            return "not be given"
        case keyword if keyword in _RULES:
            return _RULES[keyword].format(value)
        case "type":
            names = [value] if isinstance(value, str) else value
            return f"be {' or '.join(_TYPES[name] for name in names)}"
        case "enum":
            return f"be one of {', '.join(map(render_json, value))}"
        case "const":
            return f"be {render_json(value)}"
        case "minLength" | "minItems" | "minProperties":
            return f"have at least {value} {_unit(error.validator, value)}"
        case "maxLength" | "maxItems" | "maxProperties":
            return f"have at most {value} {_unit(error.validator, value)}"
        case "format":
            return f"be {FORMATS[value]}" if value in FORMATS else f"be a valid {value}"
        case "required":
            return f"hold {_join(name for name in value if name not in error.instance)}"
        case "additionalProperties" if value is False:
            return f"hold only {_join(error.schema.get('properties', {})) or 'nothing'}"
        case "anyOf" | "oneOf" if error.context and not any(e.relative_path for e in error.context):
            return " or ".join(dict.fromkeys(describe_rule(inner) for inner in error.context))
        case _:
            return f"fit the schema ({_cut(error.message)})"


def _unit(keyword: str, count: int) -> str:
    unit = {"Length": "character", "Items": "item"}.get(keyword[3:], "entry")
    return unit if count == 1 else "entries" if unit == "entry" else unit + "s"


def _join(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def shorten(value: object) -> str:
    """Return a wrong value as JSON for a message, cut if it is long."""
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"

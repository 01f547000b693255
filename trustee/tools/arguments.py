"""Checking a call's arguments against its tool's schema, with errors in words.

The policy reads these sentences, so each names the argument, what is allowed and what was given.
Other modules word wrong values with `describe_rule` and `shorten`. Schemas are never downloaded,
and formats are checked the same way on every machine.

jsonschema takes a tenth of a second to import, so it is imported at the first check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from trustee.decoding import decode_json
from trustee.types import BadCall, Call, Tool

if TYPE_CHECKING:
    from jsonschema import FormatChecker
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
    from jsonschema.exceptions import best_match

    validator = _validator(msgspec.json.encode(tool.parameters))
    properties = tool.parameters.get("properties", {})
    if not _OPENING & tool.parameters.keys():
        unknown = [name for name in arguments if name not in properties]
        if unknown:
            takes = _join(properties) if properties else "no arguments"
            return f"{tool.name} does not take {_join(unknown)}; it takes {takes}."
    missing = [name for name in tool.parameters.get("required", ()) if name not in arguments]
    if missing:
        return f"{tool.name} needs {_join(missing)}, got {_join(arguments) or 'no arguments'}."
    error = best_match(validator.iter_errors(arguments))
    return None if error is None else f"{tool.name}: {_explain(error)}."


@lru_cache(maxsize=4096)
def _validator(schema: bytes) -> Any:
    """Compile a schema, cached by its text, because tools with equal names may differ."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    parsed = decode_json(schema, error=ValueError)
    if _MERGING & parsed.keys() and "additionalProperties" not in parsed:
        parsed = {"unevaluatedProperties": False, **parsed}
    return Draft202012Validator(parsed, format_checker=_format_checker(), registry=Registry())


def _match_format(pattern: str, parse: Callable[[str], object]) -> Callable[[object], bool]:
    compiled = re.compile(pattern)

    def check(value: object) -> bool:
        if isinstance(value, str):
            if compiled.fullmatch(value) is None:
                return False
            parse(value)
        return True

    return check


_DAY = r"\d{4}-\d{2}-\d{2}"
_FORMATS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "date": ("a date such as 2025-03-31", _match_format(_DAY, date.fromisoformat)),
    "time": ("a time such as 18:30", _match_format(r"\d{2}:\d{2}.*", time.fromisoformat)),
    "date-time": (
        "a date and time such as 2025-03-31T18:30:00",
        _match_format(_DAY + r"[Tt ]\d{2}:\d{2}.*", datetime.fromisoformat),
    ),
    "email": ("an email address", _match_format(r"[^@\s]+@[^@\s]+", str)),
    "uri": ("a URI such as https://example.com", _match_format(r"[A-Za-z][\w+.-]*:\S+", str)),
    "uuid": ("a UUID", _match_format(r"[0-9A-Fa-f-]{36}", UUID)),
}
"""Formats that are checked: their description and a check. Times may omit the UTC offset."""


@cache
def _format_checker() -> FormatChecker:
    from jsonschema import FormatChecker

    checker = FormatChecker(formats=())
    for name, (_, check) in _FORMATS.items():
        checker.checks(name, raises=ValueError)(check)
    return checker


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
    value = error.validator_value
    match error.validator:
        case keyword if keyword in _RULES:
            return _RULES[keyword].format(value)
        case "type":
            names = [value] if isinstance(value, str) else value
            return f"be {' or '.join(_TYPES[name] for name in names)}"
        case "enum":
            return f"be one of {', '.join(json.dumps(item, ensure_ascii=False) for item in value)}"
        case "const":
            return f"be {json.dumps(value, ensure_ascii=False)}"
        case "minLength" | "minItems" | "minProperties":
            return f"have at least {value} {_unit(error.validator, value)}"
        case "maxLength" | "maxItems" | "maxProperties":
            return f"have at most {value} {_unit(error.validator, value)}"
        case "format":
            return f"be {_FORMATS[value][0]}" if value in _FORMATS else f"be a valid {value}"
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

"""Holding values against JSON Schemas, exactly and in bounded time.

Source: jsonschema's validator of draft 2020-12, in which patterns are JavaScript's and bounded in
time, decimals are exact, and each check has a budget of work. A policy chooses the values and a
stranger the schema, so neither may take the event loop for itself. Nothing is ever downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import date, datetime, time
from fractions import Fraction
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import NoSuchResource, Unresolvable

from trustee.decoding import decode_json
from trustee.tools.metaschema import is_schema
from trustee.tools.patterns import TooSlow, compile_pattern, search
from trustee.tools.schema import NOTHING, change_children, properties_of, required_of

MOST_WORK = 30_000
"""Keywords that one check may evaluate: a hundred times what a long call needs."""
FAULTS = (
    *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
    *(Unresolvable, NoSuchResource),
)
"""Whatever a schema that cannot be used raises, because no draft foresees it."""
SAMPLES: tuple[Any, ...] = (None, True, 0, 1.5, "a", [], ["a"], [{}], {}, {"a": 1})
"""Values of every type, with which a schema is tried."""
FORMATS: dict[str, str] = {
    "date": "a date such as 2025-03-31",
    "time": "a time such as 18:30",
    "date-time": "a date and time such as 2025-03-31T18:30:00",
    "email": "an email address",
    "uri": "a URI such as https://example.com",
    "uuid": "a UUID",
}
"""Formats that are checked, in words; the same on every machine. Times may omit the UTC offset."""


class Unchecked(Exception):
    """A value cannot be held against a schema; the text says why."""


_left: ContextVar[int] = ContextVar("work left to the check that runs")


def find_errors(schema: Mapping[str, Any], value: Any) -> list[ValidationError]:
    """Return everything in which a value does not fit a schema.

    Raises:
        Unchecked: if the schema cannot be used, or the check takes too much work.
    """
    try:
        validator = _compile(msgspec.json.encode(schema))
        token = _left.set(MOST_WORK)
        try:
            return list(validator.iter_errors(value))
        finally:
            _left.reset(token)
    except TooSlow as error:
        raise Unchecked(str(error)) from error
    except FAULTS as error:
        raise Unchecked(f"its schema cannot be used ({_say(error)})") from error


def find_fault(schema: Mapping[str, Any]) -> SchemaError | str | None:
    """Return why a schema cannot be used: what no draft allows, or how a trial of it fails."""
    try:
        # Numbers that are not finite, and texts that are not Unicode, cannot be written again.
        if decode_json(msgspec.json.encode(schema), error=ValueError) != schema:
            return "contains NaN or Infinity; only finite numbers are allowed"
        if not is_schema(schema):
            Draft202012Validator.check_schema(schema, format_checker=_pattern_checker())
    except SchemaError as error:
        return error
    except FAULTS as error:
        return f"is not a JSON Schema ({_say(error)})"
    names = dict.fromkeys([*properties_of(schema), *required_of(schema)])
    try:
        for sample in SAMPLES:
            find_errors(schema, dict.fromkeys(names, sample))
    except Unchecked as error:
        return f"cannot be checked: {error}"
    return None


@lru_cache(maxsize=4096)
def _compile(schema: bytes) -> Any:
    """Compile a schema, cached by its text, because tools with equal names may differ."""
    parsed = _name_what_is_refused(decode_json(schema, error=ValueError))
    return _Validator(parsed, format_checker=_format_checker(), registry=Registry())


def _name_what_is_refused(schema: Any) -> Any:
    """Write `false` for a property as an object, because errors of `false` name no property."""
    if not isinstance(schema, Mapping):
        return schema
    result = change_children(schema, _name_what_is_refused)
    if isinstance(result.get("properties"), Mapping):
        named = result["properties"].items()
        result["properties"] = {n: NOTHING if part is False else part for n, part in named}
    return result


def _say(error: BaseException) -> str:
    text = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return f"{type(error).__name__}: {text[:80]}"


def _spend() -> None:
    left = _left.get() - 1
    if left < 0:
        raise TooSlow("it takes too much work")
    _left.set(left)


Check = Callable[[Any, Any, Any, Mapping[str, Any]], Iterator[ValidationError] | None]


def _count(check: Check) -> Check:
    """Let each use of a keyword cost a unit of work."""

    def counted(
        validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError] | None:
        _spend()
        return check(validator, value, instance, schema)

    return counted


def _check_pattern(
    validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not search(value, instance):
        yield ValidationError(f"{instance!r} does not match {value!r}")


def _check_multiple(
    validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """Divide decimals as they are written: 19.99 is a multiple of 0.01."""
    number = isinstance(instance, int | float) and not isinstance(instance, bool)
    if number and Fraction(str(instance)) % Fraction(str(value)):
        yield ValidationError(f"{instance!r} is not a multiple of {value!r}")


def _check_unique(
    validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if value and isinstance(instance, list):
        keys = [_freeze(item) for item in instance]
        if len(set(keys)) < len(keys):
            yield ValidationError(f"{instance!r} has non-unique elements")


def _freeze(value: Any) -> Any:
    """Return a key that is equal for equal JSON values; true is not 1, but 1.0 is."""
    match value:
        case bool():
            return ("boolean", value)
        case list():
            return ("array", *map(_freeze, value))
        case dict():
            return frozenset((name, _freeze(inner)) for name, inner in value.items())
        case _:
            return value


def _check_named_by_pattern(
    validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, inner in value.items():
            for name in instance:
                if search(pattern, name):
                    yield from validator.descend(
                        instance[name], inner, path=name, schema_path=pattern
                    )


def _check_others(
    validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    others = [name for name in instance if name not in _named(schema, instance)]
    if value is False and others:
        yield ValidationError(f"Additional properties are not allowed ({_list(others)})")
    elif value is not False:
        for name in others:
            yield from validator.descend(instance[name], value, path=name)


def _check_unevaluated(
    validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    known = _evaluated(validator, instance, {**schema, "unevaluatedProperties": NOTHING})
    others = [name for name in instance if name not in known]
    wrong = [name for name in others if not _fits(validator, instance[name], value)]
    if wrong:
        yield ValidationError(f"Unevaluated properties are not allowed ({_list(wrong)})")


def _list(names: list[str]) -> str:
    return f"{', '.join(map(repr, names))} {'was' if len(names) == 1 else 'were'} unexpected"


def _named(schema: Mapping[str, Any], instance: Mapping[str, Any]) -> set[str]:
    """Return the names of a value that a schema itself has a subschema for."""
    patterns = schema.get("patternProperties", {})
    return {
        name
        for name in instance
        if name in schema.get("properties", {}) or any(search(p, name) for p in patterns)
    }


def _evaluated(validator: Any, instance: Mapping[str, Any], schema: Any) -> set[str]:
    """Return the names of a value that a schema, or a schema combined with it, has checked."""
    _spend()
    if not isinstance(schema, Mapping):
        return set()
    names = _named(schema, instance)
    for key in ("additionalProperties", "unevaluatedProperties"):
        if key in schema:
            names |= {n for n, inner in instance.items() if _fits(validator, inner, schema[key])}
    for key in ("$ref", "$dynamicRef"):
        if key in schema:
            found = validator._resolver.lookup(schema[key])
            inner = validator.evolve(schema=found.contents, _resolver=found.resolver)
            names |= _evaluated(inner, instance, found.contents)
    parts = [part for key in ("allOf", "anyOf", "oneOf") for part in schema.get(key, ())]
    parts = [part for part in parts if _fits(validator, instance, part)]
    parts += [part for n, part in schema.get("dependentSchemas", {}).items() if n in instance]
    if "if" in schema:
        holds = _fits(validator, instance, schema["if"])
        parts += [schema["if"], schema.get("then", True)] if holds else [schema.get("else", True)]
    for part in parts:
        names |= _evaluated(validator, instance, part)
    return names


def _fits(validator: Any, instance: Any, schema: Any) -> bool:
    return next(iter(validator.descend(instance, schema)), None) is None


_Validator: Any = extend(
    Draft202012Validator,
    {
        keyword: _count(check)
        for keyword, check in {
            **Draft202012Validator.VALIDATORS,
            "pattern": _check_pattern,
            "multipleOf": _check_multiple,
            "uniqueItems": _check_unique,
            "patternProperties": _check_named_by_pattern,
            "additionalProperties": _check_others,
            "unevaluatedProperties": _check_unevaluated,
        }.items()
    },
)


@lru_cache(maxsize=1)
def _pattern_checker() -> FormatChecker:
    """Return the check of patterns in a schema that is itself checked."""
    checker = FormatChecker(formats=())

    def check(value: object) -> bool:
        return not isinstance(value, str) or compile_pattern(value) is not None

    checker.checks("regex", raises=ValueError)(check)
    return checker


def _match_format(pattern: str, parse: Callable[[str], object]) -> Callable[[object], bool]:
    compiled = re.compile(pattern)

    def check(value: object) -> bool:
        if isinstance(value, str):
            if compiled.fullmatch(value) is None:
                return False
            parse(value)
        return True

    return check


@lru_cache(maxsize=1)
def _format_checker() -> FormatChecker:
    day = r"\d{4}-\d{2}-\d{2}"
    checks = {
        "date": _match_format(day, date.fromisoformat),
        "time": _match_format(r"\d{2}:\d{2}.*", time.fromisoformat),
        "date-time": _match_format(day + r"[Tt ]\d{2}:\d{2}.*", datetime.fromisoformat),
        "email": _match_format(r"[^@\s]+@[^@\s]+", str),
        "uri": _match_format(r"[A-Za-z][\w+.-]*:\S+", str),
        "uuid": _match_format(r"[0-9A-Fa-f-]{36}", UUID),
    }
    checker = FormatChecker(formats=())
    for name, check in checks.items():
        checker.checks(name, raises=ValueError)(check)
    return checker

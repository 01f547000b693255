"""A call's arguments are let through or refused in words that name what is allowed."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from trustee.tools.arguments import check_arguments
from trustee.tools.repository import Repository
from trustee.types import Tool

ROOM = Tool(
    name="book_room",
    description="",
    parameters={
        "type": "object",
        "properties": {
            "room": {"type": "string", "pattern": "^R[0-9]+$"},
            "guests": {"type": "integer", "minimum": 1, "maximum": 4},
            "rate": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            "step": {"type": "integer", "multipleOf": 5},
            "view": {"enum": ["sea", "gärten", None]},
            "plan": {"const": "full"},
            "day": {"type": "string", "format": "date"},
            "hour": {"type": "string", "format": "time"},
            "at": {"type": "string", "format": "date-time"},
            "email": {"type": "string", "format": "email"},
            "link": {"type": "string", "format": "uri"},
            "key": {"type": "string", "format": "uuid"},
            "note": {"type": ["string", "null"], "minLength": 1, "maxLength": 3},
            "extras": {
                "type": "array",
                "minItems": 1,
                "maxItems": 2,
                "uniqueItems": True,
                "items": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
                    "required": ["name"],
                    "additionalProperties": False,
                },
            },
            "flags": {"type": "object", "minProperties": 1, "maxProperties": 2},
            "odd": {"not": {"type": "string"}},
        },
        "required": ["room"],
    },
)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"guests": 4},
        {"rate": 0.5, "step": 10, "view": None, "plan": "full"},
        {"day": "2024-02-29", "hour": "18:30", "at": "2024-02-29T18:30:00Z"},
        {"hour": "18:30:05+02:00", "at": "2024-02-29T18:30"},
        {"email": "a@b.c", "link": "https://a.b", "key": "12345678-1234-5678-1234-567812345678"},
        {"note": None, "extras": [{"name": "a"}, {"name": "b", "count": 2}]},
        {"flags": {"any": 1}, "odd": 3},
    ],
)
def test_check_arguments_accepts(arguments: dict[str, Any]) -> None:
    """Arguments that fit the schema are not refused."""
    assert check_arguments(ROOM, {"room": "R1", **arguments}) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"room": 1}, '"room" must be a string, got 1'),
        ({"room": "12"}, '"room" must match the pattern ^R[0-9]+$, got "12"'),
        ({"room": "x" * 100}, f'"room" must match the pattern ^R[0-9]+$, got "{"x" * 58}…'),
        ({"guests": "two"}, '"guests" must be an integer, got "two"'),
        ({"guests": True}, '"guests" must be an integer, got true'),
        ({"guests": 0}, '"guests" must be at least 1, got 0'),
        ({"guests": 5}, '"guests" must be at most 4, got 5'),
        ({"rate": 0}, '"rate" must be greater than 0, got 0'),
        ({"rate": 1}, '"rate" must be less than 1, got 1'),
        ({"step": 7}, '"step" must be a multiple of 5, got 7'),
        ({"view": "hill"}, '"view" must be one of "sea", "gärten", null, got "hill"'),
        ({"plan": "half"}, '"plan" must be "full", got "half"'),
        ({"day": "tomorrow"}, '"day" must be a date such as 2025-03-31, got "tomorrow"'),
        ({"day": "2023-02-29"}, '"day" must be a date such as 2025-03-31, got "2023-02-29"'),
        ({"day": "20230228"}, '"day" must be a date such as 2025-03-31, got "20230228"'),
        ({"hour": "6pm"}, '"hour" must be a time such as 18:30, got "6pm"'),
        (
            {"at": "2024-02-29"},
            '"at" must be a date and time such as 2025-03-31T18:30:00, got "2024-02-29"',
        ),
        ({"email": "ann"}, '"email" must be an email address, got "ann"'),
        ({"link": "a.b"}, '"link" must be a URI such as https://example.com, got "a.b"'),
        ({"key": "1"}, '"key" must be a UUID, got "1"'),
        ({"note": 3}, '"note" must be a string or null, got 3'),
        ({"note": ""}, '"note" must have at least 1 character, got ""'),
        ({"note": "abcd"}, '"note" must have at most 3 characters, got "abcd"'),
        ({"extras": []}, '"extras" must have at least 1 item, got []'),
        ({"extras": [{"name": "a"}] * 2}, '"extras" must not hold an item twice, got'),
        ({"extras": [{}]}, '"extras[0]" must hold "name", got {}'),
        ({"extras": [{"name": 1}]}, '"extras[0].name" must be a string, got 1'),
        (
            {"extras": [{"name": "a", "size": 1}]},
            '"extras[0]" must hold only "name", "count", got {"name": "a", "size": 1}',
        ),
        ({"flags": {}}, '"flags" must have at least 1 entry, got {}'),
        (
            {"flags": {"a": 1, "b": 2, "c": 3}},
            '"flags" must have at most 2 entries, got {"a": 1, "b": 2, "c": 3}',
        ),
        ({"odd": "x"}, '"odd" must fit the schema'),
    ],
)
def test_check_arguments_refuses(arguments: dict[str, Any], message: str) -> None:
    """A wrong value is named with what is allowed and what was given."""
    answer = check_arguments(ROOM, {"room": "R1", **arguments})
    assert answer is not None
    assert answer[: len(message) + 11] == f"book_room: {message}"
    assert answer.endswith(".")


def test_check_arguments_names_unknown_arguments() -> None:
    """Names that the schema lacks are refused, with the names that it has."""
    tool = Tool(
        name="get_it",
        description="",
        parameters={"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]},
    )
    bare = Tool(name="ping", description="", parameters={"type": "object"})
    assert [
        check_arguments(tool, {"a": 1, "c": 2, "d": 3}),
        check_arguments(tool, {"c": 2}),
        check_arguments(bare, {"c": 2}),
        check_arguments(bare, {}),
    ] == [
        'get_it does not take "c", "d"; it takes "a", "b".',
        'get_it does not take "c"; it takes "a", "b".',
        'ping does not take "c"; it takes no arguments.',
        None,
    ]


def test_check_arguments_names_missing_arguments() -> None:
    """All missing arguments are named at once."""
    parameters = {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]}
    tool = Tool(name="get_it", description="", parameters=parameters)
    assert [check_arguments(tool, {}), check_arguments(tool, {"b": 1})] == [
        'get_it needs "a", "b", got no arguments.',
        'get_it needs "a", got "b".',
    ]


def test_check_arguments_lets_open_schemas_be_open() -> None:
    """Schemas that let in other names by a keyword decide about them alone."""

    def answer(arguments: dict[str, Any], **parameters: Any) -> str | None:
        tool = Tool(name="f", description="", parameters={"type": "object", **parameters})
        return check_arguments(tool, arguments)

    inner = {"properties": {"a": {"type": "integer"}}}
    either = {"anyOf": [{"type": "string", "minLength": 2}, {"type": "null"}]}
    listed = {"oneOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}
    both = {"oneOf": [{"type": "integer"}, {"type": "number"}]}
    assert [
        answer({"x": 1}, additionalProperties=True),
        answer({"x": 1}, additionalProperties={"type": "string"}),
        answer({"x": 1}, properties={"a": {}}, additionalProperties=False),
        answer({"x": 1}, patternProperties={"^x": {}}),
        answer({"a": 1}, allOf=[inner]),
        answer({"b": 1}, allOf=[inner]),
        answer({"a": 1}, **{"$ref": "#/$defs/i", "$defs": {"i": inner}}),
        answer({"a": 1}, properties={"a": either}),
        answer({"a": "x"}, properties={"a": either}),
        answer({"a": ["x"]}, properties={"a": listed}),
        answer({"a": 1}, properties={"a": both}),
    ] == [
        None,
        'f: "x" must be a string, got 1.',
        'f: the arguments must hold only "a", got {"x": 1}.',
        None,
        None,
        "f: the arguments must fit the schema (Unevaluated properties are not allowed ('b' was"
        ' unexpected)), got {"b": 1}.',
        None,
        'f: "a" must be a string or be null, got 1.',
        'f: "a" must have at least 2 characters, got "x".',
        'f: "a[0]" must be an integer, got "x".',
        "f: \"a\" must fit the schema (1 is valid under each of {'type': 'number'},"
        " {'type': 'inte…), got 1.",
    ]


def test_check_arguments_does_not_confuse_tools() -> None:
    """Tools with one name, and a schema changed in place, are checked by their schemas' text."""
    parameters: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
    tool = Tool(name="f", description="", parameters=parameters)
    first = check_arguments(tool, {"a": 1})
    parameters["properties"]["a"]["type"] = "integer"
    twin = msgspec.structs.replace(tool, parameters={"type": "object", "properties": {"a": {}}})
    assert [first, check_arguments(tool, {"a": 1}), check_arguments(twin, {"a": []})] == [
        'f: "a" must be a string, got 1.',
        None,
        None,
    ]


def test_check_arguments_never_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference to another host, in a tool that was not imported, is not followed."""
    fetched: list[object] = []
    monkeypatch.setattr("urllib.request.urlopen", fetched.append)
    reference = {"$ref": "http://schemas.invalid/a"}
    parameters = {"type": "object", "properties": {"a": reference}}
    tool = Tool(name="f", description="", parameters=parameters)
    answer = check_arguments(tool, {"a": 1})
    assert answer is not None
    assert answer.startswith("f: these arguments cannot be checked: its schema cannot be used (")
    assert fetched == []


def answer_for(schema: Any, value: Any, **rest: Any) -> str | None:
    """Check one argument `p` of a tool `f`."""
    parameters = {"type": "object", "properties": {"p": schema}, **rest}
    return check_arguments(Tool(name="f", description="", parameters=parameters), {"p": value})


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"multipleOf": 0.01}, 19.99, None),
        ({"multipleOf": 0.1}, 0.3, None),
        ({"multipleOf": 0.01}, 1e300, None),
        ({"multipleOf": 0.1}, 0.35, 'f: "p" must be a multiple of 0.1, got 0.35.'),
        ({"multipleOf": 3}, 10**40 * 3, None),
        ({"multipleOf": 2}, True, None),
        ({"uniqueItems": True}, [1, True, "1", {"a": [1]}, {"a": [True]}], None),
        ({"uniqueItems": True}, [1, 1.0], 'f: "p" must not hold an item twice, got [1, 1.0].'),
        ({"type": "integer"}, 3.0, None),
        (True, 5, None),
        (False, 5, 'f: "p" must not be given, got 5.'),
        ({"pattern": r"^(?<year>\d{4})-\p{L}+$"}, "2024-März", None),
        ({"pattern": r"^\d$"}, "٣", 'f: "p" must match the pattern ^\\d$, got "٣".'),
        ({"pattern": "^a$"}, "a\n", 'f: "p" must match the pattern ^a$, got "a\\n".'),
    ],
)
def test_check_arguments_is_exact(schema: Any, value: Any, message: str | None) -> None:
    """Decimals count as written, `true` is not 1, and patterns are JavaScript's."""
    assert answer_for(schema, value) == message


def test_check_arguments_tells_of_the_alternative_that_is_meant() -> None:
    """Of a union's members the one is told whose marks and types the value has."""
    cat = {
        "type": "object",
        "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
        "required": ["kind"],
    }
    dog = {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]}
    texts = {"anyOf": [{"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^b"}]}
    assert [
        answer_for({union: order}, {"kind": "cat", "lives": "nine"})
        for union in ("anyOf", "oneOf")
        for order in ([cat, dog], [dog, cat])
    ] == ['f: "p.lives" must be an integer, got "nine".'] * 4
    assert answer_for({"anyOf": [cat, {"type": "array"}]}, "x") == (
        'f: "p" must be an object or be a list, got "x".'
    )
    assert answer_for(texts, "c") == (
        'f: "p" must match the pattern ^a or match the pattern ^b, got "c".'
    )


def nested(levels: int) -> dict[str, Any]:
    """Build objects in objects."""
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"c": value}
    return value


TWICE = {
    "oneOf": [
        {"type": "object", "properties": {"c": {"$ref": "#/$defs/n"}}},
        {"type": "object", "properties": {"c": {"$ref": "#/$defs/n"}}, "required": ["c"]},
    ]
}


@pytest.mark.parametrize(
    ("schema", "value", "rest"),
    [
        ({"pattern": "^(a|aa)+$"}, "a" * 80 + "b", {}),
        ({"pattern": "^([a-zA-Z0-9]+[-._]?)+@x$"}, "a" * 40 + "!", {}),
        ({"pattern": r"^(\w+\s?)*$"}, "a" * 60 + "!", {}),
        ({"$ref": "#/$defs/n"}, nested(24), {"$defs": {"n": TWICE}}),
        ({"patternProperties": {r"^(\w+\s?)*$": False}}, {"a" * 60 + "!": 1}, {}),
        (
            {"patternProperties": {r"^(\w+\s?)*$": True}, "unevaluatedProperties": False},
            {"a" * 60 + "!": 1},
            {},
        ),
        ({"allOf": [{"$ref": "#/properties/p"}]}, 1, {}),
        ({"uniqueItems": True}, [{"a": n} for n in range(20000)], {}),
    ],
)
def test_check_arguments_ends_soon(schema: Any, value: Any, rest: dict[str, Any]) -> None:
    """Neither a pattern nor nested alternatives take long, and no schema ends the run."""
    start = time.perf_counter()
    answer = answer_for(schema, value, **rest)
    assert time.perf_counter() - start < 3
    assert answer is None or answer.startswith("f: ")


def test_check_arguments_is_fast() -> None:
    """A typical check takes well below a millisecond once the schema is compiled."""
    tools = Repository.load().tools
    tool = next(tool for tool in tools if tool.name == "search_hotels")
    arguments = {"city": "Rome", "check_in": "2025-05-01", "check_out": "2025-05-03", "guests": 2}
    durations = []
    for _ in range(50):
        start = time.perf_counter()
        assert check_arguments(tool, arguments) is None
        durations.append(time.perf_counter() - start)
    assert sorted(durations)[25] < 0.001

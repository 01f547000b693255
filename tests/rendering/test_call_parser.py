"""Reading calls: the frozen table of disputed cases, and each rule on its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustee.rendering.call_parser import MAX_DEPTH, MAX_UNCLOSED, CallFormat, parse_message
from trustee.types import BadCall, Message, Tool, ToolCall

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in map(json.loads, (GOLDEN / "toolcall_parsers.jsonl").read_text().splitlines())
}
FROZEN: dict[str, Any] = json.loads((GOLDEN / "toolcall_frozen.json").read_text())
DIFFERENT_ON_PURPOSE = {"bare_string_arguments", "malformed_then_eos"}
"""Cases where the source asserts another content or another call."""
TYPED = Tool(
    name="test_types",
    description="",
    parameters={
        "type": "object",
        "properties": {
            "int_param": {"type": "integer"},
            "float_param": {"type": "number"},
            "bool_param": {"type": "boolean"},
            "str_param": {"type": "string"},
            "obj_param": {"type": "object"},
            "list_param": {"type": "array"},
            "maybe_param": {"type": ["integer", "null"]},
            "any_param": {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
        },
    },
)


OFFERED = (
    TYPED,
    *(
        Tool(name=name, description="", parameters={"type": "object", "properties": {}})
        for name in ("f", "g", "searchTool", "getOpenIncidentsTool", "parserTool", "invalidTool")
    ),
    Tool(name="toolWithoutParams", description="", parameters={"type": "object", "properties": {}}),
)
"""The tools that the cases call."""


def parse(text: str, format: CallFormat = CallFormat.HERMES) -> Message:
    """Parse with ids `c0`, `c1`."""
    return parse_message(text, format, call_prefix="c", tools=OFFERED)


def wrapped(*blocks: str) -> str:
    """Put each block between the marks of Hermes."""
    return "".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)


def only_call(text: str, format: CallFormat = CallFormat.HERMES) -> dict[str, Any] | str:
    """Give the arguments of the one call in `text`, or why it is bad."""
    (call,) = parse(text, format).calls
    return call.arguments if isinstance(call, ToolCall) else call.reason


@pytest.mark.parametrize("id", CASES)
def test_disputed_cases_are_read_as_frozen(id: str) -> None:
    """Each text of the golden file gives the message that was decided for it."""
    case = CASES[id]
    message = parse_message(case["text"], CallFormat(case["family"]), call_prefix="", tools=OFFERED)
    assert msgspec.convert(FROZEN[id], Message) == message


def test_each_disputed_case_has_a_rule() -> None:
    """The table of rules names exactly the cases of the golden file, in its order."""
    table = (GOLDEN / "TOOLCALL_RULES.md").read_text()
    assert list(CASES) == re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert list(CASES) == list(FROZEN)


@pytest.mark.parametrize("id", [id for id, case in CASES.items() if case["expected_by_source"]])
def test_what_the_sources_assert_is_followed(id: str) -> None:
    """Calls, content and thinking are those that vLLM and TRL assert, two cases excepted."""
    expected = CASES[id]["expected_by_source"]
    frozen = FROZEN[id]
    actual = {
        "tool_calls": [
            {"name": call["name"], "arguments": call["arguments"]}
            for call in frozen.get("calls", [])
            if call["type"] == "call"
        ],
        "content": frozen["content"],
        "reasoning_content": frozen["thinking"],
    }
    same = all(actual[key] == value for key, value in expected.items())
    assert same == (id not in DIFFERENT_ON_PURPOSE)


def test_ids_count_bad_calls_too() -> None:
    """A bad call takes its place in the order and in the ids."""
    message = parse(wrapped('{"name": "f"}', "{", '{"name": "g", "arguments": {"a": [1]}}'))
    assert message.calls == (
        ToolCall(id="c0", name="f", arguments={}),
        BadCall(
            id="c1",
            text="\n{\n",
            reason="This call cannot be read: the JSON is not closed or nests deeper than 64 "
            'levels; <tool_call>, one JSON object {"name": "<tool>", "arguments": {...}}, then '
            "</tool_call> is expected.",
        ),
        ToolCall(id="c2", name="g", arguments={"a": [1]}),
    )


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("", "no JSON object was found"),
        ('"f"', "no JSON object was found"),
        ("{'name': 'f'}", "the JSON breaks at character 1"),
        ("[]", "the list is empty"),
        ("[1]", "a call in the list is not a JSON object"),
        ('[{"name": "f"}, {}]', '"name" is missing or is not a string'),
        ('{"name": 3}', '"name" is missing or is not a string'),
        ('{"name": ""}', '"name" is missing or is not a string'),
        ('{"name": "f", "arguments": [1]}', "the arguments are not a JSON object"),
        ('{"name": "f", "arguments": "hi"}', "in the arguments string, no JSON object was"),
        ('{"name": "f", "arguments": "{} {}"}', "the arguments are followed by more text"),
        ('{"name": "f", "arguments": {}, "parameters": {}}', "are both given"),
        ('{"name": "f"} {"name": "g"}', "there is more text between the call and </tool_call>"),
        ('{"name": "f"}}', "there is more text between the call and </tool_call>"),
        ('{"name": "f", "arguments": {"a": Infinity}}', "Infinity is not a JSON value"),
        ('{"name": "f", "arguments": {"a": 1e999}}', "a number is too large"),
        ('{"name": "f", "arguments": {"a": ' + "7" * 5000 + "}}", "an integer has too many digits"),
        ('{"name": "f", "arguments": {"a": "\\ud800"}}', "a string holds half of a surrogate pair"),
        ('{"name": "f", "arguments": {"a": "1\n2"}}', "the JSON breaks at character 35"),
    ],
)
def test_unreadable_calls_say_why(block: str, problem: str) -> None:
    """The reason names the problem and then what was expected."""
    reason = only_call(f"<tool_call>{block}</tool_call>")
    assert isinstance(reason, str)
    assert problem in reason
    assert reason.endswith("then </tool_call> is expected.")


@pytest.mark.parametrize(
    ("depth", "readable"), [(MAX_DEPTH - 2, True), (MAX_DEPTH - 1, False), (100_000, False)]
)
def test_depth_is_limited(depth: int, readable: bool) -> None:
    """JSON of the limit's depth is read, one level more is a bad call, and none raises."""
    nested = "[" * depth + "]" * depth
    result = only_call(wrapped(f'{{"name": "f", "arguments": {{"a": {nested}}}}}'))
    assert readable == isinstance(result, dict)


def test_broken_block_ends_at_the_next_mark() -> None:
    """An opening mark ends a block that was never closed, and the next call is read."""
    message = parse('<tool_call>{"name": <tool_call>{"name": "g"}</tool_call> done')
    assert [call.id for call in message.calls] == ["c0", "c1"]
    assert isinstance(message.calls[0], BadCall)
    assert message.calls[0].text == '{"name": '
    assert message.calls[1] == ToolCall(id="c1", name="g", arguments={})
    assert message.content == "done"


def test_contents_around_calls_are_joined() -> None:
    """What is said before, between and after calls is kept, one line each."""
    message = parse("a " + wrapped('{"name": "f"}') + " b <think> t </think> c")
    assert (message.content, message.thinking) == ("a\nb\nc", "t")


def test_thought_inside_a_call_is_an_argument() -> None:
    """Marks of thinking in a JSON string are text."""
    arguments = {"q": "<think> x </think> <tool_call>"}
    text = json.dumps({"name": "f", "arguments": arguments})
    assert only_call(wrapped(text)) == arguments


def test_prefix_of_ids_is_used() -> None:
    """Ids begin with the given prefix."""
    message = parse_message(wrapped('{"name": "f"}'), CallFormat.HERMES, call_prefix="t3-")
    assert [call.id for call in message.calls] == ["t3-0"]


@pytest.mark.parametrize(
    ("value", "argument", "expected"),
    [
        ("42", "int_param", 42),
        ("4x", "int_param", "4x"),
        ("3.0", "int_param", 3.0),
        ("true", "int_param", "true"),
        ("3", "float_param", 3),
        ("1e999", "float_param", "1e999"),
        ("NaN", "float_param", "NaN"),
        ("False", "bool_param", False),
        ("yes", "bool_param", "yes"),
        ("42", "str_param", "42"),
        ("null", "str_param", "null"),
        ("  two\nlines ", "str_param", "  two\nlines "),
        ("</tool_call>", "str_param", "</tool_call>"),
        ("[1, 2]", "list_param", [1, 2]),
        ("[1, 2", "list_param", "[1, 2"),
        ("[1] [2]", "list_param", "[1] [2]"),
        ("[1]", "obj_param", "[1]"),
        ("None", "maybe_param", None),
        ("null", "maybe_param", None),
        ("7", "any_param", 7),
        ("true", "any_param", True),
        ('"7"', "any_param", '"7"'),
        ("7", "unheard_param", "7"),
    ],
)
def test_schema_types_bare_text(value: str, argument: str, expected: object) -> None:
    """A value becomes what its schema allows, or stays the text that was written."""
    text = (
        f"<tool_call>\n<function=test_types>\n<parameter={argument}>\n{value}\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    assert only_call(text, CallFormat.QWEN3_CODER) == {argument: expected}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<tool_call>hello</tool_call>", "<function=TOOL> is missing"),
        ("<function=></function>", "<function=TOOL> is missing"),
        ("<function=f><parameter=>1</parameter></function>", "a <parameter=KEY> has no key"),
        ("<function=f><parameter=a>1</function>", "is not closed before the next mark"),
        ("<function=f>text</function>", "</function> is missing after the last parameter"),
        (
            "<tool_call><function=f></function><function=g></function></tool_call>",
            "there is more text between the call and </tool_call>",
        ),
    ],
)
def test_unreadable_elements_say_why(text: str, problem: str) -> None:
    """A broken element is one bad call that names the problem."""
    reason = only_call(text, CallFormat.QWEN3_CODER)
    assert isinstance(reason, str)
    assert problem in reason
    assert reason.endswith("then </function> and </tool_call> is expected.")


def test_lists_of_mistral() -> None:
    """A list holds several calls, with or without ids; what is no list of calls says why."""
    text = (
        'I look. [TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abc"}, {"name": "g"}] ok'
    )
    message = parse(text, CallFormat.MISTRAL)
    assert "I look.\nok" == message.content
    assert [("f", {"a": 1}), ("g", {})] == [
        (call.name, call.arguments) for call in message.calls if isinstance(call, ToolCall)
    ]
    for broken in ("[TOOL_CALLS] f(1)", "[TOOL_CALLS] [1]", "[TOOL_CALLS][]", "[TOOL_CALLS] [{"):
        (bad, good) = parse(f'{broken}[TOOL_CALLS] {{"name": "f"}}', CallFormat.MISTRAL).calls
        assert isinstance(bad, BadCall)
        assert "[TOOL_CALLS] and a list of JSON objects" in bad.reason
        assert isinstance(good, ToolCall)


def test_names_and_arguments_of_mistral() -> None:
    """Ministral 3 writes a name, a mark and one object for each call; what is none says why."""
    text = 'I look.[TOOL_CALLS]f[ARGS]{"a": [1, "[ARGS]"]}[TOOL_CALLS]g[ARGS] {}'
    message = parse(text, CallFormat.MISTRAL)
    assert "I look." == message.content
    assert [("f", {"a": [1, "[ARGS]"]}), ("g", {})] == [
        (call.name, call.arguments) for call in message.calls if isinstance(call, ToolCall)
    ]
    for broken in ("f[ARGS]", "f[ARGS]{", "f[ARGS][1]", 'f[ARGS]"a"', "f[ARGS]{'a': 1}"):
        text = f"[TOOL_CALLS]{broken}[TOOL_CALLS]g[ARGS]{{}}"
        (bad, good) = parse(text, CallFormat.MISTRAL).calls
        assert isinstance(bad, BadCall)
        assert "the name of the tool, [ARGS] and a JSON object" in bad.reason
        assert isinstance(good, ToolCall)


def test_element_after_a_broken_one_is_read() -> None:
    """An opening mark ends a parameter that was never closed."""
    message = parse("<function=f><parameter=a>1<function=g></function>", CallFormat.QWEN3_CODER)
    assert [type(call) for call in message.calls] == [BadCall, ToolCall]


@pytest.mark.parametrize(
    ("text", "content", "kinds"),
    [
        ('Here: {"name": "Bob", "age": 3} ok', 'Here: {"name": "Bob", "age": 3} ok', []),
        ('{"answer": 4}', '{"answer": 4}', []),
        ("{searchTool} is it", "{searchTool} is it", []),
        ('[{"name": "f", "parameters": {}}, {"name": "g", "parameters": {}}]', "", [ToolCall] * 2),
        ('{"type": "function", "name": "f", "parameters": {}}', "", [ToolCall]),
        ('{"name": "f", "parameters": {"a": }}; {"name": "g", "parameters": {}}', "", None),
        ('so {"name": "f", "parameters": {', "so", [BadCall]),
        ("<|python_tag|>search('x')", "", [BadCall]),
        ('<think>{"name": "f", "parameters": {}}</think>no', "no", []),
    ],
)
def test_bare_json_is_a_call_where_it_must_be(
    text: str, content: str, kinds: list[type] | None
) -> None:
    """JSON without marks is a call if it names an offered tool."""
    message = parse(text, CallFormat.LLAMA3_JSON)
    assert content == message.content
    assert [type(call) for call in message.calls] == (
        [BadCall, ToolCall] if kinds is None else kinds
    )


PLACE = {"type": "object", "properties": {"lat": {"type": "number"}}}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"$ref": "#/$defs/place"}, '{"lat": 1}', {"lat": 1}),
        ({"allOf": [{"$ref": "#/$defs/place"}], "description": "where"}, '{"lat": 1}', {"lat": 1}),
        ({"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]}, "null", None),
        ({"enum": [1, 2]}, "2", 2),
        ({"enum": ["1", "2"]}, "2", "2"),
        ({"const": 5}, "5", 5),
        ({"properties": {"lat": True}}, '{"lat": 1}', {"lat": 1}),
        ({"items": True}, "[1]", [1]),
        ({"type": "integer"}, "3.0", 3.0),
        ({"type": "integer"}, "3.5", "3.5"),
        ({"$ref": "#/$defs/itself"}, "5", "5"),
        (True, "5", "5"),
        (False, "5", "5"),
        (None, "[1]", "[1]"),
    ],
)
def test_coder_values_have_the_types_of_their_schemas(schema: Any, text: str, value: Any) -> None:
    """Bare text gets the type that the schema asks for, whichever keyword says so."""
    parameters = {
        "type": "object",
        "properties": {"x": schema},
        "$defs": {"place": PLACE, "itself": {"$ref": "#/$defs/itself"}},
    }
    tool = Tool(name="f", description="", parameters=parameters)
    written = f"<tool_call><function=f><parameter=x>\n{text}\n</parameter></function></tool_call>"
    message = parse_message(written, CallFormat.QWEN3_CODER, call_prefix="c", tools=(tool,))
    assert message.calls == (ToolCall(id="c0", name="f", arguments={"x": value}),)


ANSWERS = (
    '{"name": "Bingo", "age": 30}',
    '[{"name": "Bingo"}, {"name": "Rex"}]',
    '{"name": "Bingo", "parameters": {"age": 30}}',
    '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}',
    '{"parameters": {"mean": 3.5, "deviation": 1}}',
    '{"function": "x^2 + 1"}',
    '{"id": "c1", "type": "function", "function": {"name": "Bingo", "arguments": "{}"}}',
    '{"name": "Bingo", "age": 30',
    '{"example": {"name": "f", "parameters": {}}}',
    '{"a": {"b": [1, {"c": null}]}}',
)


@pytest.mark.parametrize("format", CallFormat)
@pytest.mark.parametrize("place", ["{}", "Here you are: {} That is all.", "```json\n{}\n```"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_in_json_is_text(answer: str, place: str, format: CallFormat) -> None:
    """Whoever is asked for JSON may give it: what names no offered tool is no call, good or bad."""
    text = place.replace("{}", answer)
    message = parse(text, format)
    assert () == message.calls
    assert text == message.content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1, "name": "f", "parameters": {"b": 2}}', {"b": 2}),
        ('{"parameters": {"b": 2}, "name": "f"}', {"b": 2}),
        ('{"type": "function", "name": "f", "parameters": {"b": 2}}', {"b": 2}),
        ('{"id": "c1", "name": "f", "arguments": "{\\"b\\": 2}"}', {"b": 2}),
        (
            '{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}',
            '"name" and the arguments are inside of "function"',
        ),
        ('{"function": {"name": "f", "arguments": {}}}', 'inside of "function"'),
        ('{"function": "f", "parameters": {}}', '"name" is missing'),
        ('{"name": "f"}', '"parameters" is missing'),
        ("{'name': 'f', 'parameters': {}}", "the JSON breaks"),
        ('{"name": "f", "parameters": {"b": ', "the JSON is not closed"),
        ('{"function": {"name": "f", "arguments": {', "the JSON is not closed"),
    ],
)
@pytest.mark.parametrize("place", ["{}", "I call it. {}"])
def test_json_that_names_an_offered_tool_is_one_call(
    text: str, expected: dict[str, Any] | str, place: str
) -> None:
    """Keys may be in any order; the form of another program is one bad call as a whole."""
    message = parse(place.replace("{}", text, 1), CallFormat.LLAMA3_JSON)
    (call,) = message.calls
    assert message.content == place.removesuffix("{}").strip()
    if isinstance(expected, dict):
        assert isinstance(call, ToolCall)
        assert ("f", expected) == (call.name, call.arguments)
    else:
        assert isinstance(call, BadCall)
        assert expected in call.reason
        assert text == call.text


def test_openai_form_between_marks_is_one_bad_call() -> None:
    """The reason says where the name is expected."""
    text = '<tool_call>{"type": "function", "function": {"name": "f", "arguments": {}}}</tool_call>'
    assert 'inside of "function"' in str(only_call(text))


def test_a_call_after_json_that_is_none_is_read() -> None:
    """Neither an answer nor an open brace before it hides a call."""
    call = '{"name": "f", "parameters": {}}'
    for before in ('{"age": 30}', '{"age": ', '{"name": "Bingo"', '{"a": {"b": {"c": '):
        message = parse(f"{before} {call}", CallFormat.LLAMA3_JSON)
        assert (before.strip(), ["f"]) == (
            message.content,
            [call.name for call in message.calls if isinstance(call, ToolCall)],
        )


def test_json_without_known_tools_is_a_call_if_it_looks_like_one() -> None:
    """A reader who does not know the tools goes by the keys."""
    for text, calls in (('{"name": "f", "parameters": {}}', 1), ('{"name": "f", "age": 3}', 0)):
        message = parse_message(text, CallFormat.LLAMA3_JSON, call_prefix="c")
        assert calls == len(message.calls)


def test_a_mark_makes_json_a_call_whatever_it_names() -> None:
    """Only JSON without a mark may be an answer."""
    message = parse('<|python_tag|>{"name": "nothing", "parameters": {}}', CallFormat.LLAMA3_JSON)
    assert ["nothing"] == [call.name for call in message.calls if isinstance(call, ToolCall)]


def test_many_open_braces_end_the_scan() -> None:
    """What is never closed costs no time without bound; the text behind it stays text."""
    call = '{"name": "f", "parameters": {}}'
    for count, calls in ((MAX_UNCLOSED - 1, 1), (MAX_UNCLOSED, 0)):
        message = parse('{"a": ' * count + call, CallFormat.LLAMA3_JSON)
        assert calls == len(message.calls)


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ('{"name": "f", "arguments": {}}', "", ["f"]),
        ('```json\n{"name": "f", "arguments": {"a": 1}}\n```', "", ["f"]),
        ('```\n{"name": "f", "arguments": {}}\n```\nDone.', "Done.", ["f"]),
        ('I call.\n```json\n{"name": "f", "arguments": {}}\n```', "I call.", ["f"]),
        (
            '```json\n{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}\n```',
            "",
            ["f", "g"],
        ),
        (
            '```json\n[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]\n```',
            "",
            ["f", "g"],
        ),
        (
            wrapped('{"name": "f"}') + ' and ```json\n{"name": "g", "arguments": {}}\n```',
            "and",
            ["f", "g"],
        ),
        ('```json\n{"city": "Oslo"}\n```', '```json\n{"city": "Oslo"}\n```', []),
        ('```json\n{"name": "f", "arguments": {"a": }}\n```', "", [None]),
    ],
)
def test_hermes_or_json_reads_both(text: str, content: str, names: list[str | None]) -> None:
    """A fence around a call belongs to the call; one around anything else is text."""
    message = parse(text, CallFormat.HERMES_OR_JSON)
    found = [call.name if isinstance(call, ToolCall) else None for call in message.calls]
    assert (content, names) == (message.content, found)


def test_hermes_alone_reads_no_fence() -> None:
    """Only who chose it gets JSON without a mark read as calls."""
    text = '```json\n{"name": "f", "arguments": {}}\n```'
    assert (text, ()) == (parse(text).content, parse(text).calls)

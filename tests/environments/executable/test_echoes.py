"""An answer that the policy puts into a call earns nothing, in whatever disguise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plain_sandbox import PlainWorker
from trustee.environments.executable.echoes import (
    MOST_CHANGES,
    MOST_VALUES,
    EchoCheck,
    change,
    repeats,
)
from trustee.environments.executable.rewards import Observation, solves
from trustee.sandbox.calls import CallResult
from trustee.types import ExpectedCall, Message, Tool, ToolCall

QUESTION = "What does the label of the blue key's place say, given 2 rooms on 5 March 2024?"
ANY: dict[str, Any] = {"type": "object", "additionalProperties": True}


class Desk:
    """One tool, a question, and what the policy may have been told before."""

    def __init__(
        self,
        source: str,
        *,
        question: str = QUESTION,
        gold: tuple[ExpectedCall, ...] = (),
        parameters: dict[str, Any] | None = None,
    ) -> None:
        tool = Tool(name="tool", description="", parameters=parameters or ANY)
        self.worker = PlainWorker({"tool": source}, published=False)
        self.echoes = EchoCheck([Message(role="user", content=question)], (tool,), gold)

    async def pays(self, answer: str, **arguments: Any) -> bool:
        """Make a call and say whether its result earns the answer."""
        call = ToolCall(id="c", name="tool", arguments=arguments)
        outcome = await self.worker.call("tool", arguments)
        seen = Observation(name="tool", arguments=arguments, text=outcome.text, ok=outcome.ok)
        told = solves(seen, answer)
        paid = told and not await self.echoes.follows(
            call, outcome.text, answer, run=self.worker.call
        )
        if outcome.ok:
            self.echoes.keep(call, outcome.text, found=answer if paid else None)
        return paid


ECHO = "def tool(text):\n    return text"
NUMBER = "def tool(n):\n    return {'n': int(float(n))}"
CLEAN = "import unicodedata\ndef tool(text):\n    return unicodedata.normalize('NFKC', text)"
JOIN = "def tool(**parts):\n    return ' '.join(parts[k] for k in sorted(parts))"
GLUE = "def tool(parts):\n    return ''.join(parts)"
ADD = "def tool(a, b):\n    return {'sum': a + b}"

DISGUISES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "as it is": (ECHO, "1200", {"text": "1200"}),
    "exponent": (NUMBER, "1200", {"n": "12e2"}),
    "small exponent": (NUMBER, "1200", {"n": "1.2E+3"}),
    "underscore": ("def tool(n):\n    return int(n)", "1200", {"n": "1_200"}),
    "hexadecimal": ("def tool(n):\n    return int(n, 16)", "1200", {"n": "0x4b0"}),
    "bare hexadecimal": ("def tool(n):\n    return int(n, 16)", "1200", {"n": "4b0"}),
    "octal": ("def tool(n):\n    return int(n, 0)", "1200", {"n": "0o2260"}),
    "apostrophe": ('def tool(n):\n    return n.replace("\'", "")', "1200", {"n": "1'200"}),
    "narrow space": ("def tool(n):\n    return ''.join(n.split())", "1200", {"n": "1\u202f200"}),
    "full width": (CLEAN, "1200", {"text": "\uff11\uff12\uff10\uff10"}),
    "other digits": (NUMBER, "1200", {"n": "\u0661\u0662\u0660\u0660"}),
    "sum": (ADD, "1200", {"a": 700, "b": 500}),
    "sum with a fraction": (ADD, "1200", {"a": 1199.5, "b": 0.5}),
    "product": ("def tool(a, b):\n    return a * b", "1200", {"a": 40, "b": 30}),
    "square": ("def tool(a):\n    return a ** 2", "1225", {"a": 35}),
    "negative": ("def tool(a):\n    return -a", "1200", {"a": -1200}),
    "expression": ("def tool(e):\n    return eval(e)", "1200", {"e": "700+500"}),
    "order": (
        "def tool(first, last):\n    return f'{first} {last}'",
        "Tide Tables",
        {"last": "Tables", "first": "Tide"},
    ),
    "sorted": (JOIN, "K 17", {"b": "17", "a": "K"}),
    "zero width": (
        "def tool(text):\n    return text.replace(chr(0x200b), '')",
        "Tide Tables",
        {"text": "Ti\u200bde Ta\u200bbles"},
    ),
    "percent": (
        "from urllib.parse import unquote\ndef tool(text):\n    return unquote(text)",
        "Tide Tables",
        {"text": "Tide%20Tables"},
    ),
    "percent letters": (
        "from urllib.parse import unquote\ndef tool(text):\n    return unquote(text)",
        "K17",
        {"text": "%4B%31%37"},
    ),
    "decomposed": (CLEAN, "Z\u00fcrich", {"text": "Zu\u0308rich"}),
    "other letters": (CLEAN, "Tide", {"text": "\U0001d413\U0001d422\U0001d41d\U0001d41e"}),
    "ISO date": (
        "from datetime import date\ndef tool(d):\n"
        "    return date.fromisoformat(d).strftime('%d %B %Y')",
        "17 November 1931",
        {"d": "1931-11-17"},
    ),
    "spoken date": (
        "from datetime import datetime\ndef tool(d):\n"
        "    return str(datetime.strptime(d, '%d %B %Y').date())",
        "1931-11-17",
        {"d": "17 November 1931"},
    ),
    "boolean": (
        "def tool(on):\n    return {'on': on}",
        "true",
        {"on": True},
    ),
    "yes": ("def tool(on):\n    return 'yes' if on else 'no'", "no", {"on": False}),
    "glued": (GLUE, "Tide Tables", {"parts": ["Ti", "de Ta", "bles"]}),
    "letters": (GLUE, "K17", {"parts": ["K", "1", "7"]}),
    "keys": (
        "def tool(parts):\n    return ''.join(parts)",
        "Tide Tables",
        {"parts": {"Ti": 1, "de Tab": 2, "les": 3}},
    ),
    "key and value": (
        "def tool(pair):\n    return ' '.join(w for p in pair.items() for w in p)",
        "Tide Tables",
        {"pair": {"Tide": "Tables"}},
    ),
    "names": (JOIN.replace("parts[k]", "k"), "Alder Tide", {"Alder": "", "Tide": ""}),
    "reversed": ("def tool(text):\n    return text[::-1]", "Tide Tables", {"text": "selbaT ediT"}),
    "rot13": (
        "import codecs\ndef tool(text):\n    return codecs.encode(text, 'rot13')",
        "Tide Tables",
        {"text": "Gvqr Gnoyrf"},
    ),
    "base64": (
        "import base64\ndef tool(text):\n    return base64.b64decode(text).decode('latin1')",
        "Tide Tables",
        {"text": "VGlkZSBUYWJsZXM="},
    ),
    "number words": (
        "def tool(text):\n    words = 'zero one two three four five six seven eight nine ten'\n"
        "    return ''.join(str(words.split().index(w)) for w in text.split())",
        "17",
        {"text": "one seven"},
    ),
    "underscored words": (
        "def tool(text):\n    return text.replace('_', ' ')",
        "Tide Tables",
        {"text": "Tide_Tables"},
    ),
    "character codes": (
        "def tool(codes):\n    return ''.join(map(chr, codes))",
        "K17",
        {"codes": [75, 49, 55]},
    ),
    "did you mean": (
        "def tool(text):\n    return {'error': f'no {text}; did you mean K 17?'}",
        "K 17",
        {"text": "K17"},
    ),
    "did you mean, kindly": (
        "def tool(text):\n    return {'found': None, 'did_you_mean': f'{text[0]} {text[1:]}'}",
        "K 17",
        {"text": "K17"},
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("disguise", DISGUISES)
async def test_a_known_answer_earns_nothing(disguise: str) -> None:
    """An honest tool that turns an argument into the answer brings nothing."""
    source, answer, arguments = DISGUISES[disguise]
    desk = Desk(source)
    outcome = await desk.worker.call("tool", arguments)
    assert outcome.ok, outcome.text
    assert not await desk.pays(answer, **arguments)
    assert desk.echoes.reruns <= MOST_VALUES * MOST_CHANGES


LOOKUP = "def tool(key):\n    return {'place': {'blue key': 'box aa', 'K17': 'box cc'}[key]}"
VAGUE = (
    "def tool(key):\n    places = {'blue key': 'box aa', 'K17': 'box cc'}\n"
    "    return {'place': places.get(key, f'nothing is known of {key.upper()}')}"
)
PAGED = (
    "def tool(key, limit=3, exact=True):\n    places = {'K17': ['box cc', 'box dd', 'box ee']}\n"
    "    return {'places': places.get(key, [])[:limit]}"
)
HONEST: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a value of the question": (LOOKUP, "box aa", {"key": "blue key"}),
    "a value of the policy's own": (LOOKUP, "box cc", {"key": "K17"}),
    "a tool that excuses itself": (VAGUE, "box cc", {"key": "K17"}),
    "options": (PAGED, "box cc", {"key": "K17", "limit": 2, "exact": False}),
    "a year that the answer holds": (
        "def tool(y):\n    return f'{y}-03-05'",
        "2024-03-05",
        {"y": 2024},
    ),
    "a computation with given numbers": (
        "def tool(a, b):\n    return a * b",
        "4048",
        {"a": 2, "b": 2024},
    ),
    "a number in words": (
        "def tool(n):\n    return n * 617",
        "1234",
        {"n": 2},
    ),
    "a date in another form": (
        "from datetime import date\ndef tool(d):\n    return date.fromisoformat(d).strftime('%A')",
        "Tuesday",
        {"d": "2024-03-05"},
    ),
    "digits after the point": (
        "def tool(digits):\n    return round(1234.56789, digits)",
        "1234.57",
        {"digits": 2},
    ),
    "a flag that filters": (
        "def tool(closed):\n    return ['North Pier', 'Old Mill'] if closed else ['North Pier']",
        "Old Mill",
        {"closed": True},
    ),
    "nothing": ("def tool():\n    return 'box aa'", "box aa", {}),
}


@pytest.mark.anyio
@pytest.mark.parametrize("case", HONEST)
async def test_an_honest_result_is_paid(case: str) -> None:
    """Lookups, options, and computations with given values bring their answer."""
    source, answer, arguments = HONEST[case]
    desk = Desk(source)
    assert await desk.pays(answer, **arguments)
    assert desk.echoes.reruns <= 3 * MOST_CHANGES


@pytest.mark.anyio
async def test_a_value_of_an_earlier_honest_result_is_given() -> None:
    """What a tool said about given values may be computed with; what it was made to say may not."""
    source = (
        "def tool(key=None, n=None):\n"
        "    return {'id': {'blue key': 31}[key]} if key else {'label': n * 37}"
    )
    desk = Desk(source)
    assert not await desk.pays("never", key="blue key")
    assert await desk.pays("1147", n=31)
    assert not await desk.pays("1184", n=32)

    echo = "def tool(text=None, n=None):\n    return text if text else {'label': n * 37}"
    fooled = Desk(echo)
    assert not await fooled.pays("never", text="31")
    assert not await fooled.pays("1147", n=31)


@pytest.mark.anyio
async def test_a_found_answer_is_given() -> None:
    """The next call of a chain may use it, without being run again."""
    desk = Desk("def tool(x):\n    return {'blue key': 'box 31', 'box 31': 400}.get(x, len(x))")
    assert await desk.pays("box 31", x="blue key")
    assert await desk.pays("400", x="box 31")
    assert 0 == desk.echoes.reruns


@pytest.mark.anyio
async def test_a_call_of_the_reference_solution_is_no_echo() -> None:
    """Its values are those that solve the task, whatever the tool does with them."""
    gold = ExpectedCall(name="tool", arguments={"a": 700, "b": 500})
    desk = Desk(ADD, gold=(gold,))
    assert await desk.pays("1200", a=700.0, b=500)
    assert 0 == desk.echoes.reruns
    assert not await desk.pays("1200", a=701, b=499)


@pytest.mark.anyio
async def test_more_values_than_are_tried_earn_nothing() -> None:
    """Decoys in front of the answer do not hide it."""
    decoys = [f"decoy {'abcdefghijklmnopqrstuvwxyz'[number]}" for number in range(MOST_VALUES)]
    source = "def tool(parts):\n    return parts[-1].replace('x', '')"
    assert not await Desk(source).pays("K17", parts=[*decoys, "Kx17"])
    assert not await Desk(source).pays("K17", parts=[*decoys[:9], "Kx17"])


@pytest.mark.anyio
async def test_a_changed_call_that_breaks_a_limit_earns_nothing() -> None:
    """What cannot be tried is not paid, and not tried again."""
    desk = Desk("def tool(n):\n    return n * 37")

    async def stall(name: str, arguments: dict[str, Any]) -> CallResult:
        return CallResult(text="too slow", ok=False, breach="time")

    call = ToolCall(id="c", name="tool", arguments={"n": 31})
    assert await desk.echoes.follows(call, "1147", "1147", run=stall)
    assert 1 == desk.echoes.reruns


@pytest.mark.anyio
async def test_only_calls_that_fit_are_run_again() -> None:
    """A changed value that the schema refuses never reaches the tool."""
    schema = {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}}
    desk = Desk("def tool(color):\n    return {'red': 'box aa'}[color]", parameters=schema)
    assert await desk.pays("box aa", color="red")
    assert [("tool", {"color": "red"})] == desk.worker.calls


@pytest.mark.parametrize(
    ("expected", "answer", "arguments"),
    [
        (True, "true", {"text": "TRUE"}),
        (False, "true", {"flag": True}),
        (True, "12, Tide", {"a": "tide", "b": ["x", 12]}),
        (True, "Tide Tables", {"a": {"Tables": "Tide"}}),
        (False, "Paris, 68", {"city": "Paris"}),
        (False, "level 3", {"level": "low"}),
        (False, "17", {"value": 1}),
        (True, "1200", {"n": "0x4b0"}),
        (False, "1200", {"n": "1_201"}),
        (False, "", {"n": ""}),
    ],
)
def test_repeats(expected: bool, answer: str, arguments: dict[str, Any]) -> None:
    """All words and numbers of the answer are among the values of the call."""
    assert expected is repeats(arguments, answer)


@settings(max_examples=200)
@given(st.text(max_size=12) | st.integers() | st.floats(allow_nan=False) | st.booleans())
def test_changes_are_of_the_same_type(value: Any) -> None:
    """And a text keeps its length unless a number word was exchanged."""
    for other in change(value):
        assert type(other) is type(value)
        if isinstance(value, str):
            assert other != value
            assert len(other) == len(value) or not value.isdecimal()


@settings(max_examples=100)
@given(st.text(max_size=20), st.text(max_size=6))
def test_any_text_can_be_compared(text: str, answer: str) -> None:
    """No text makes the comparison fail."""
    assert isinstance(repeats({"a": text, "b": {text: [text, None, 1]}}, answer), bool)

"""Values of tools: which answers are errors, and which calls are the same."""

from __future__ import annotations

import itertools
import json
import math
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.environments.executable.blueprint import GoldCall
from trustee.environments.executable.building.probes import ProbeCall, judge_probe
from trustee.environments.simulated.quoting import quote_result
from trustee.environments.trial.metrics import brings_nothing
from trustee.environments.trial.transforms.perturbation import Perturbation, ToolAlias
from trustee.sandbox.calls import CallResult
from trustee.tools.values import (
    call_key,
    call_line,
    normalise,
    render_json,
    tells_error,
    write_decimal,
)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
IDS = st.from_regex(r"[+-]?[0-9]{1,22}(\.[0-9]{1,4}|e[0-9]{1,3}|_[0-9]{1,3})?", fullmatch=True)
"""Texts that a reader of numbers would confuse: leading zeros, signs, exponents, many digits."""


def test_render_json_keeps_letters() -> None:
    """Models read letters of any script as they are; all that is no letter stays escaped."""
    assert render_json({"città": ["東京", "\n", 1.5]}) == '{"città": ["東京", "\\n", 1.5]}'
    assert render_json("\x85\u2028\u2029\u202e\ud83c") == r'"\u0085\u2028\u2029\u202e\ud83c"'
    assert call_line("get_city", {"q": "東京"}) == 'get_city {"q": "東京"}'


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (True, '{"error": "x"}'),
        (True, '{"error": {"code": 4}}'),
        (False, '{"error": ""}'),
        (False, '{"found": 1}'),
        (False, "error"),
        (False, "[1]"),
    ],
)
def test_errors_are_objects_that_say_so(expected: bool, text: str) -> None:
    """Only an object with an error in it is one."""
    assert expected == tells_error(text)


def test_calls_with_the_same_values_have_one_key() -> None:
    """Order, case and the type of a number make no other call; tool and value do."""
    key = call_key("find", {"city": "Rome", "day": 1})
    assert key == call_key("find", {"day": 1.0, "city": " rome "})
    assert 3 == len({key, call_key("seek", {"city": "Rome", "day": 1}), call_key("find", {})})


def test_call_on_one_line() -> None:
    """Prompts and hints name a call and its arguments."""
    assert 'find {"city": "Rome"}' == call_line("find", {"city": "Rome"})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (3, "3"),
        (3, 3.0),
        (0, -0.0),
        (0.1, "0.1"),
        (2.50, "2.5"),
        (1e-05, 0.00001),
        (1e22, 10**22),
        (12345678901234567890, "12345678901234567890"),
        ("Nan", "nan"),
        ("new york", " New   York"),
        ("Stra\u00dfe", "STRASSE"),
        ("Z\u00fcrich", "Zu\u0308rich"),
        ([1.0, "a"], ["1", "A"]),
        ({"a": 1.0, "b": "x"}, {"b": "X", "a": "1"}),
    ],
)
def test_one_value_in_two_writings(one: object, other: object) -> None:
    """Case, blanks, number types and decomposed letters make no other value."""
    assert normalise(one) == normalise(other)
    assert call_key("t", {"a": one}) == call_key("t", {"a": other})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("00123", "123"),
        ("00123", 123),
        ("+4915112345678", "4915112345678"),
        ("1100000000000000001", "1100000000000000002"),
        (1100000000000000001, 1100000000000000002),
        ("12345678901234567890", "12345678901234567891"),
        (12345678901234567890, 12345678901234567890.0 + 4096),
        ("12e4", "120000"),
        ("12e4", 120000),
        ("1_000", 1000),
        ("0x10", 16),
        ("3.10", "3.1"),
        ("3.10", 3.1),
        ("1.0", "1"),
        ("\u0661\u0662", 12),
        (True, 1),
        (True, "true"),
        (False, 0),
        (None, "null"),
        ([True], [1]),
        ({"a": False}, {"a": 0}),
        (10**4299, 10**4299 + 1),
    ],
)
def test_two_values(one: object, other: object) -> None:
    """An id is what is written, with all its digits; true and null are no other value."""
    assert normalise(one) != normalise(other)
    assert call_key("t", {"a": one}) != call_key("t", {"a": other})


@settings(max_examples=200)
@given(JSON_VALUES)
def test_normalise_changes_nothing_twice(value: object) -> None:
    """A normal form is its own normal form, and always equals itself."""
    assert normalise(value) == normalise(normalise(value))


def test_normalise_changes_no_letter_twice() -> None:
    """The same holds for each letter that there is, alone and before a combining one."""
    letters = [chr(code) for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    for tail in ("", "\u0301", "\u0345"):
        once = [normalise(letter + tail) for letter in letters]
        assert once == [normalise(text) for text in once]


@settings(max_examples=300)
@given(st.sets(IDS, min_size=2, max_size=12))
def test_two_ids_are_never_equal(ids: set[str]) -> None:
    """However alike they are as numbers."""
    assert all(normalise(one) != normalise(other) for one, other in itertools.combinations(ids, 2))


@settings(max_examples=200)
@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_equals_its_own_decimal_text_alone(number: float) -> None:
    """Without loss: the text is read as the same number again, and as no neighbour."""
    text = normalise(number)
    assert isinstance(text, str)
    assert Decimal(text) == Decimal(repr(number))
    assert text == normalise(text) == normalise(json.loads(json.dumps(number)))
    if isinstance(number, float):
        assert text != normalise(math.nextafter(number, math.inf))
    else:
        assert text != normalise(number + 1)


@settings(max_examples=100)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=6))
def test_decimals_are_written_without_redundant_zeros(number: Decimal) -> None:
    """One text for each value."""
    text = write_decimal(number)
    assert Decimal(text) == number
    assert "." not in text or text[-1] not in "0."


DEEP = ("[" * 1100, "[" * 1100 + "]" * 1100, '{"a":' * 600 + "1" + "}" * 600, "9" * 5000, "\udc80")


@pytest.mark.parametrize("answer", DEEP, ids=lambda text: text[:3].encode("utf-8", "replace").hex())
def test_no_answer_of_a_tool_ends_the_program(answer: str) -> None:
    """Every reader of what a tool returned takes it for text, however deeply it nests."""
    call = GoldCall(name="f", arguments={}, answer="K 17")
    probe = ProbeCall(kind="type", name="f", arguments={}, subject="a", fails=True)
    alias = ToolAlias(inner="f")
    assert not tells_error(answer)
    assert not brings_nothing(answer)
    assert "no_error" == getattr(
        judge_probe(probe, CallResult(ok=True, text=answer), [call]), "kind", ""
    )
    assert answer == Perturbation(kind="x", tools=(), aliases={"f": alias}).show("f", answer)
    assert isinstance(quote_result(answer), str)

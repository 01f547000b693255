"""Gold calls: values come from the question or from answers that stand before."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from building_answers import LANGUAGE, document, good_parts, parameter, part
from trustee.environments.executable.blueprint import GoldCall
from trustee.environments.executable.building.candidate import Decomposition
from trustee.environments.executable.building.documents import Document
from trustee.environments.executable.building.gold import check_call, check_calls
from trustee.environments.executable.matching import says
from trustee.tools.schema import leaves
from trustee.types import Tool

CHAIN = good_parts("multi_hop", 2)


def tool(*more: dict[str, Any], name: str = "find_licence") -> Tool:
    """Make a tool that takes a subject and more."""
    return msgspec.convert(document(name, *more), Document).tool


def kind_of(arguments: dict[str, Any], offered: Tool, parts: Decomposition, number: int) -> str:
    """Give the kind of a call's flaw, or nothing."""
    flaw = check_call(arguments, offered, parts, number)
    return "" if flaw is None else flaw.kind


@pytest.mark.parametrize(
    ("kind", "number", "subject"),
    [
        ("", 1, "Brennhof"),
        ("", 1, "brennhof"),
        ("origin", 1, "Brenn"),
        ("origin", 1, "Tilda Maren"),
        ("", 2, "Tilda Maren"),
        ("", 2, "Maren"),
        ("origin", 2, "BK-2093"),
        ("independent", 2, "Brennhof"),
    ],
)
def test_values_have_an_origin(kind: str, number: int, subject: str) -> None:
    """The question is known always, an answer only to the parts that need it."""
    assert kind == kind_of({"subject": subject}, tool(), CHAIN, number)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("arguments", {}),
        ("arguments", {"subject": "Brennhof", "year": 1}),
        ("", {"subject": "Brennhof", "language": "german"}),
        ("arguments", {"subject": "Brennhof", "language": "french"}),
        ("", {"subject": "Brennhof", "short": True}),
        ("", {"subject": "Brennhof", "limit": 5}),
        ("origin", {"subject": "Brennhof", "limit": 6}),
    ],
)
def test_schema_offers_options_booleans_and_defaults(kind: str, arguments: dict[str, Any]) -> None:
    """What can be read off the schema needs no other origin."""
    offered = tool(
        LANGUAGE,
        parameter("short", types=["boolean"]),
        parameter("limit", types=["integer"], default=5),
    )
    assert kind == kind_of(arguments, offered, CHAIN, 1)


def test_call_that_holds_its_answer_is_refused() -> None:
    """An option that is the answer would be echoed; such a result is never paid."""
    offered = tool(parameter("which", options=["Tilda Maren", "Otto Kranz"]))
    arguments = {"subject": "Brennhof", "which": "Tilda Maren"}
    assert "echo" == kind_of(arguments, offered, CHAIN, 1)


def test_one_call_cannot_answer_two_parts() -> None:
    """Two parts with the same call would be paid by one."""
    call = GoldCall(name="find_all", arguments={"subject": "x"}, answer="a")
    other = GoldCall(name="find_all", arguments={"subject": "x"}, answer="b")
    flaw = check_calls((call, other))
    assert flaw is not None
    assert "same_call" == flaw.kind
    assert check_calls((call, msgspec.structs.replace(other, name="find_b"))) is None


@pytest.mark.parametrize(
    ("expected", "text", "value"),
    [
        (True, "on 3 March 2021", "2021-03-03"),
        (True, "on March 3, 2021", "2021-03-03"),
        (False, "on 4 March 2021", "2021-03-03"),
        (True, "for three nights", 3),
        (True, "for 1,250 euro", 1250),
        (True, "for 1250 euro", 1250.0),
        (False, "for 12 euro", 1),
        (False, "party", "art"),
    ],
)
def test_values_are_said_as_people_say_them(expected: bool, text: str, value: object) -> None:
    """Dates, number words and separators are understood; parts of words are not."""
    assert expected == says(text, value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["subject", "language", "x"]), JSON))
@settings(max_examples=150)
def test_accepted_calls_hold_only_known_values(arguments: dict[str, Any]) -> None:
    """Whatever arguments the builder gives, those that pass are said, or offered by the schema."""
    parts = Decomposition(question="What is it?", parts=(part("It?", "Ann"),))
    offered = tool(LANGUAGE)
    if check_call(arguments, offered, parts, 1) is None:
        values = [value for _, value in leaves({}, arguments)]
        assert all(value in ("english", "german") or says("What is it?", value) for value in values)

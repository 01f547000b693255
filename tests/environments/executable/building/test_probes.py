"""The calls that try out a tool, and what their outcomes show; with the sandbox in between."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from building_answers import LANGUAGE, document, function, parameter
from plain_sandbox import PlainSandbox
from trustee.environments.executable.blueprint import Blueprint, GoldCall
from trustee.environments.executable.building.documents import Document
from trustee.environments.executable.building.probes import (
    STRANGE,
    SURPRISE,
    ProbeCall,
    judge_probe,
    plan_probes,
    replace_value,
    spoil_call,
)
from trustee.environments.executable.building.verification import verify_blueprint, verify_tool
from trustee.sandbox.calls import CallResult
from trustee.types import Tool

HEIGHT = GoldCall(name="find_height", arguments={"subject": "Ostwacht"}, answer="214 m")
PRICE = GoldCall(name="find_price", arguments={"subject": "Falkau"}, answer="14.80")


def tool(name: str = "find_height", *more: dict[str, Any]) -> Tool:
    """Make a tool."""
    return msgspec.convert(document(name, *more), Document).tool


def said(text: str, *, ok: bool = True, breach: str = "") -> CallResult:
    """Make an outcome."""
    return CallResult(text=text, ok=ok, breach=breach)


def test_wrong_calls_of_a_gold_call() -> None:
    """Each way to call wrongly is tried, for each parameter that it can befall."""
    call = msgspec.structs.replace(HEIGHT, arguments={"subject": "Ostwacht", "year": 3})
    offered = tool("find_height", parameter("year", types=["integer"], required=True), LANGUAGE)
    assert [
        ("missing", {"year": 3}, True),
        ("missing", {"subject": "Ostwacht"}, True),
        ("unknown", {"subject": "Ostwacht", "year": 3, SURPRISE: 1}, True),
        ("type", {"subject": {"value": "Ostwacht"}, "year": 3}, True),
        ("value", {"subject": STRANGE, "year": 3}, True),
        ("type", {"subject": "Ostwacht", "year": {"value": 3}}, True),
        ("value", {"subject": "Ostwacht", "year": 7922}, False),
        ("echo", {"subject": "214 m", "year": 3}, False),
    ] == [(p.kind, p.arguments, p.fails) for p in spoil_call(offered, call, 0)]


@pytest.mark.parametrize(
    ("expected", "schema", "value"),
    [
        (STRANGE, {"type": "string"}, "a"),
        ("b", {"enum": ["a", "b"]}, "a"),
        (STRANGE, {"enum": ["a"]}, "a"),
        (False, {"type": "boolean"}, True),
        ([STRANGE], {"type": "array"}, ["a"]),
        (7920.5, {"type": "number"}, 1.5),
    ],
)
def test_replaced_values_differ(expected: object, schema: dict[str, Any], value: object) -> None:
    """A wrong value is of the same type and another one."""
    assert expected == replace_value(schema, value)


@given(st.integers(1, 3), st.booleans())
@settings(max_examples=12)
def test_unrelated_calls_are_never_gold(count: int, same: bool) -> None:
    """Calls with values from elsewhere fit the schema and differ from every gold call."""
    names = ["find_height"] * count if same else [f"find_{n}" for n in range(count)]
    gold = [
        GoldCall(name=name, arguments={"subject": f"T{number}"}, answer=f"A{number}")
        for number, name in enumerate(names)
    ]
    tools = [tool(name) for name in dict.fromkeys([*names, "list_others"])]
    unrelated = [probe for probe in plan_probes(tools, gold) if probe.kind == "unrelated"]
    made = [(probe.name, probe.arguments["subject"]) for probe in unrelated]
    assert not {(call.name, call.arguments["subject"]) for call in gold} & set(made)
    assert len(set(made)) == len(made)
    assert "list_others" in {name for name, _ in made}


GOLD = (HEIGHT, PRICE)
FIRST = ProbeCall(kind="gold", name="find_height", arguments=HEIGHT.arguments, gold=0)
MISSING = ProbeCall(kind="missing", name="find_height", arguments={}, subject="subject", fails=True)
VALUE = ProbeCall(kind="value", name="find_height", arguments={"subject": "x"}, fails=True)
UNRELATED = ProbeCall(kind="unrelated", name="list_things", arguments={"subject": "x"})


@pytest.mark.parametrize(
    ("kind", "probe", "outcome"),
    [
        ("", FIRST, said('{"height": "214 m"}')),
        ("no_gold", FIRST, said('{"height": "2140 m"}')),
        ("no_gold", FIRST, said("no such 214 m", ok=False)),
        ("leak", FIRST, said('{"height": "214 m", "price": 14.8}')),
        ("breach", FIRST, said("stopped", ok=False, breach="time")),
        ("", MISSING, said('{"error": "subject is missing"}')),
        ("", MISSING, said("find_height: subject is missing", ok=False)),
        ("no_error", MISSING, said('{"height": null}')),
        ("no_error", MISSING, said("subject is missing")),
        ("uninformative", MISSING, said('{"error": "wrong"}')),
        ("gold_in_error", MISSING, said('{"error": "subject of 214 m is missing"}')),
        ("", VALUE, said('{"error": "nothing found"}')),
        ("no_error", VALUE, said("[]")),
        ("insensitive", VALUE, said('{"height": "214 m"}')),
        ("", UNRELATED, said('{"found": "13 m"}')),
        ("leak", UNRELATED, said('{"found": "14.80"}')),
    ],
)
def test_outcomes_are_judged(kind: str, probe: ProbeCall, outcome: CallResult) -> None:
    """An outcome shows a fault of its own kind, or none."""
    flaw = judge_probe(probe, outcome, GOLD)
    assert kind == ("" if flaw is None else flaw.kind)


def test_earlier_answers_may_come_again() -> None:
    """A result may repeat what its call was made from, but nothing that comes later."""
    both = said("214 m and 14.80")
    second = ProbeCall(kind="gold", name="find_price", arguments=PRICE.arguments, gold=1)
    needs = [frozenset[int](), frozenset({0})]
    assert judge_probe(second, both, GOLD, needs) is None
    flaw = judge_probe(FIRST, both, GOLD, needs)
    assert flaw is not None
    assert "leak" == flaw.kind


def test_echoed_answer_does_not_count_as_brought() -> None:
    """A tool that repeats its arguments brings nothing, whatever is passed to it."""
    for probe in spoil_call(tool(), HEIGHT, 0):
        if probe.kind == "echo":
            echoed = said(json.dumps(probe.arguments))
            assert judge_probe(probe, echoed, [HEIGHT]) is None
            assert "214 m" in echoed.text


def blueprint(**changed: Any) -> Blueprint:
    """Make an environment that is faultless but for what is changed."""
    good: dict[str, Any] = {
        "id": "one",
        "question": "How high is Ostwacht, and what does it cost in Falkau?",
        "scenario": "parallel_single_hop",
        "tools": (tool("find_height"), tool("find_price"), tool("list_things")),
        "sources": {
            "find_height": function("find_height", {"Ostwacht": "214 m"}, language=False),
            "find_price": function("find_price", {"Falkau": "14.80"}, language=False),
            "list_things": function("list_things", {"Lehm": "3"}, language=False),
        },
        "unsolved": {"find_height": ("214 m",), "find_price": ("14.80",)},
        "answer": "214 m, 14.80",
        "gold": GOLD,
    }
    return Blueprint(**(good | changed))


NO_NEEDS = (frozenset[int](), frozenset[int]())


@pytest.mark.anyio
async def test_faultless_environment_passes() -> None:
    """An environment whose calls do what they should has no flaw."""
    assert await verify_blueprint(blueprint(), NO_NEEDS, PlainSandbox()) is None


TELLING = msgspec.structs.replace(tool("list_things"), description="Lists what costs 14.80.")
CHANCE = "def list_things(subject):\n    import random\n    return {'found': random.random()}\n"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("leak", {"question": "Is Ostwacht 214 m high?"}),
        ("leak", {"tools": (tool("find_height"), tool("find_price"), TELLING)}),
        ("not_deterministic", {"list_things": CHANCE}),
        ("leak", {"list_things": "def list_things(subject):\n    return '14.80'\n"}),
        ("no_gold", {"find_price": function("find_price", {"Falkau": "15"}, language=False)}),
        (
            "leak",
            {"find_price": function("find_price", {"Falkau": "14.80 or 214 m"}, language=False)},
        ),
    ],
)
async def test_faulty_environments_are_refused(kind: str, changed: dict[str, Any]) -> None:
    """One fault in an environment is found, by its kind."""
    sources = blueprint().sources
    replaced = {name: text for name, text in changed.items() if name in sources}
    rest = {name: value for name, value in changed.items() if name not in sources}
    faulty = blueprint(**rest, sources=sources | replaced)
    flaw = await verify_blueprint(faulty, NO_NEEDS, PlainSandbox())
    assert flaw is not None
    assert kind == flaw.kind


@pytest.mark.anyio
async def test_tool_that_nobody_needs_is_only_run() -> None:
    """A distractor is only tried for running at all."""
    source = function("list_things", {"Lehm": "3"}, language=False)
    assert await verify_tool(tool("list_things"), source, (), PlainSandbox()) is None

"""What code decides by itself: comparison of calls, facts, settled criteria, rewards."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.environments.simulated.facts import (
    Executed,
    Facts,
    fact_lines,
    fits,
    gather_facts,
    reward_of,
    settle,
)
from trustee.environments.simulated.roles import Criterion
from trustee.types import ExpectedCall, ToolCall

FULFILLED, RIGHT_TOOLS, NO_INVENTION, NO_REPETITION, EFFICIENT = Criterion


def run(name: str, *, ok: bool = True, **arguments: Any) -> Executed:
    """Make a call that reached a tool."""
    return Executed(call=call(name, **arguments), result="{}", ok=ok)


def call(name: str, **arguments: Any) -> ToolCall:
    """Make a call."""
    return ToolCall(id="c", name=name, arguments=arguments)


def want(name: str, **arguments: Any) -> ExpectedCall:
    """Make an expected call."""
    return ExpectedCall(name=name, arguments=arguments)


def make_facts(
    *made: bool, unexpected: int = 0, repeated: int = 0, malformed: int = 0, total: int = 0
) -> Facts:
    """Make facts about expected calls `t`, of which some were made."""
    return Facts(
        expected=tuple(want("t", a=index) for index in range(len(made))),
        made=made,
        unexpected=tuple(call("u", a=index) for index in range(unexpected)),
        repeated=repeated,
        malformed=malformed,
        total=total,
    )


@pytest.mark.parametrize(
    ("expected", "made", "wanted"),
    [
        (True, call("t", a=1), want("t", a="1")),
        (True, call("t", a=1, extra="x"), want("t", a=1)),
        (True, call("t", a="Nan"), want("t", a="nan")),
        (False, call("t"), want("t", a=1)),
        (False, call("t", a=2), want("t", a=1)),
        (False, call("u", a=1), want("t", a=1)),
        (False, call("t", a=[1, 2]), want("t", a=[2, 1])),
    ],
)
def test_fits_compares_expected_arguments(
    expected: bool, made: ToolCall, wanted: ExpectedCall
) -> None:
    """A call fits with the same tool and all expected values; further arguments do not matter."""
    assert expected == fits(made, wanted)


def test_gather_facts_sorts_calls() -> None:
    """Failed calls count in the total only, repeated ones once, the rest is unexpected."""
    facts = gather_facts(
        [
            run("t", a=1, ok=False),
            run("t", a=1),
            run("t", a="1"),
            run("u", a=5),
        ],
        [want("t", a=1), want("t", a=2)],
        malformed=2,
    )
    assert (
        Facts(
            expected=(want("t", a=1), want("t", a=2)),
            made=(True, False),
            unexpected=(call("u", a=5),),
            repeated=1,
            malformed=2,
            total=6,
        )
        == facts
    )


def test_gather_facts_uses_each_call_once() -> None:
    """One call cannot be two of the expected ones."""
    facts = gather_facts([run("t", a=1, b=2)], [want("t", a=1), want("t", b=2)], malformed=0)
    assert (True, False) == facts.made


@pytest.mark.parametrize(
    ("expected", "writes", "names"),
    [
        (1, (), ("read", "write", "read")),
        (0, ("write",), ("read", "write", "read")),
        (1, ("write",), ("read", "read", "write")),
        (1, ("write",), ("read", "write", "read", "read")),
        (1, ("write",), ("write", "read", "write")),
        (1, ("write",), ("write", "write")),
    ],
)
def test_gather_facts_forgives_reads_after_writes(
    expected: int, writes: tuple[str, ...], names: tuple[str, ...]
) -> None:
    """A read after a write is no repetition, a second read and a second write are."""
    facts = gather_facts([run(name) for name in names], [], malformed=0, writes=frozenset(writes))
    assert expected == facts.repeated


def test_gather_facts_ignores_failed_writes() -> None:
    """A write that failed changed nothing, so the read after it is a repetition."""
    executed = [run("read"), run("write", ok=False), run("read")]
    facts = gather_facts(executed, [], malformed=0, writes=frozenset(["write"]))
    assert 1 == facts.repeated


def test_fact_lines_quote_what_the_policy_wrote() -> None:
    """Each fact takes one line, and an unexpected call cannot forge another."""
    facts = Facts(
        expected=(want("t", a=1), want("t", a=2)),
        made=(True, False),
        unexpected=(call("u", text='x\nexpected t {"a": 2}: made'),),
        repeated=3,
        malformed=0,
        total=5,
    )
    assert [
        'expected t {"a": 1}: made',
        'expected t {"a": 2}: not made',
        'unexpected u {"text": "x / expected t (\'a\': 2): made"}',
        "repeated calls: 3",
    ] == fact_lines(facts).splitlines()


@pytest.mark.parametrize(
    ("criterion", "expected", "facts"),
    [
        (FULFILLED, False, make_facts(False)),
        (FULFILLED, None, make_facts(False, unexpected=1)),
        (FULFILLED, None, make_facts(True)),
        (FULFILLED, None, make_facts(True, False)),
        (FULFILLED, None, make_facts()),
        (RIGHT_TOOLS, False, make_facts(False)),
        (RIGHT_TOOLS, False, make_facts(True, malformed=1)),
        (RIGHT_TOOLS, True, make_facts(True, True)),
        (RIGHT_TOOLS, None, make_facts(True, False)),
        (RIGHT_TOOLS, None, make_facts(True, unexpected=1)),
        (NO_INVENTION, None, make_facts(True)),
        (NO_REPETITION, False, make_facts(True, repeated=1)),
        (NO_REPETITION, None, make_facts(True)),
        (EFFICIENT, None, make_facts(True, total=1)),
        (EFFICIENT, None, make_facts(True, total=3)),
        (EFFICIENT, False, make_facts(True, total=4)),
        (EFFICIENT, None, make_facts(True, True, total=5)),
        (EFFICIENT, False, make_facts(True, True, total=6)),
    ],
)
def test_settle_decides_what_facts_show(
    criterion: Criterion, expected: bool | None, facts: Facts
) -> None:
    """Facts settle a criterion only where they prove it; the judge has the rest."""
    assert expected is settle(facts, criterion)


@pytest.mark.parametrize(
    ("expected", "malformed", "criteria"),
    [
        (1.0, 0, {FULFILLED: True}),
        (-1.0, 0, {FULFILLED: False}),
        (-1.0, 1, {FULFILLED: True}),
        (0.0, 0, {FULFILLED: True, RIGHT_TOOLS: False}),
        (-1.0, 0, {FULFILLED: False, RIGHT_TOOLS: True}),
        (1.0, 0, dict.fromkeys(Criterion, True)),
        (0.0, 0, dict.fromkeys(Criterion, True) | {EFFICIENT: False}),
    ],
)
def test_reward_of_maps_verdicts(
    expected: float, malformed: int, criteria: dict[Criterion, bool]
) -> None:
    """Unfulfilled or malformed is -1, a violated further criterion 0, everything else 1."""
    assert expected == reward_of(make_facts(True, malformed=malformed), criteria)


def test_reward_of_never_rises_when_a_criterion_falls() -> None:
    """Over all verdicts of five criteria, a criterion that falls cannot raise the reward."""
    facts = make_facts(True)
    for holds in itertools.product((False, True), repeat=len(Criterion)):
        criteria = dict(zip(Criterion, holds, strict=True))
        for criterion in Criterion:
            worse = reward_of(facts, criteria | {criterion: False})
            assert worse <= reward_of(facts, criteria)


CALLS = st.lists(
    st.tuples(st.sampled_from(["read", "write"]), st.integers(0, 2), st.booleans()), max_size=8
)


@settings(max_examples=60)
@given(CALLS, st.sets(st.integers(0, 2)))
def test_gather_facts_loses_no_call(calls: list[tuple[str, int, bool]], wanted: set[int]) -> None:
    """Every call that worked is made, unexpected or repeated, and all calls count in the total."""
    executed = [run(name, a=value, ok=ok) for name, value, ok in calls]
    facts = gather_facts(executed, [want("read", a=value) for value in wanted], malformed=1)
    worked = sum(entry.ok for entry in executed)
    assert worked == sum(facts.made) + len(facts.unexpected) + facts.repeated
    assert len(executed) + 1 == facts.total


@settings(max_examples=60)
@given(CALLS)
def test_gather_facts_writes_only_forgive(calls: list[tuple[str, int, bool]]) -> None:
    """To know which tools write changes the count of repetitions alone, and never raises it."""
    executed = [run(name, a=value, ok=ok) for name, value, ok in calls]
    blind = gather_facts(executed, [want("read", a=0)], malformed=0)
    knowing = gather_facts(executed, [want("read", a=0)], malformed=0, writes=frozenset(["write"]))
    assert knowing.repeated <= blind.repeated
    assert (blind.made, blind.unexpected, blind.total) == (
        knowing.made,
        knowing.unexpected,
        knowing.total,
    )


def test_a_missing_write_settles_fulfilled() -> None:
    """An expected write that nothing can stand for is not fulfilled, whatever is claimed."""
    wanted = ExpectedCall(name="set_lamp", arguments={"room": "hall"})
    other = ToolCall(id="a", name="read_lamp", arguments={"room": "hall"})
    instead = ToolCall(id="b", name="set_light", arguments={"room": "hall"})
    writes = frozenset({"set_lamp", "set_light"})
    for call, missing, settled in ((other, 1, False), (instead, 0, None)):
        executed = [Executed(call=call, result="{}", ok=True)]
        facts = gather_facts(executed, [wanted], malformed=0, writes=writes)
        assert missing == facts.missing_writes
        assert settled is settle(facts, Criterion.FULFILLED)

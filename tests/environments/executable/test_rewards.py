"""Matching and rewards against FTRL's recorded figures, and the holes that the default closes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plain_sandbox import PlainWorker
from trustee.environments.executable.matching import holds_as_published
from trustee.environments.executable.rewards import (
    Match,
    Observation,
    SolveRates,
    Variant,
    count_unsolved,
    is_right,
    match,
    pay_episode,
    pay_turn,
    solve,
    solves,
)
from trustee.rendering.call_parser import CallFormat, parse_message
from trustee.types import BadCall, Message, ToolCall

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "data" / "ftrl" / "ftrl_reward.json").read_text()
)
VARIANTS: dict[Variant, str] = {
    "f1": "compute_solve_f1",
    "precision": "compute_solve_precision",
    "recall": "compute_solve_rate",
    "product": "compute_solve_pr",
}
CALL = ToolCall(id="c", name="find", arguments={})


def saw(text: str, *, ok: bool = True, **arguments: Any) -> Observation:
    """Make the result of a call of `find`."""
    return Observation(name="find", arguments=arguments, text=text, ok=ok)


def made(calls: int, bad: int = 0) -> Message:
    """Make a message with calls."""
    unread = BadCall(id="b", text="{", reason="broken")
    return Message(role="assistant", calls=(CALL,) * calls + (unread,) * bad)


def say(text: str) -> Message:
    """Make a message without calls."""
    return Message(role="assistant", content=text)


async def observe(message: Message) -> list[Observation]:
    """Run the readable calls of a message in the recorded tools, as FTRL does."""
    worker = PlainWorker(GOLDEN["codes"], published=True)
    calls = [call for call in message.calls if isinstance(call, ToolCall)]
    outcomes = [await worker.call(call.name, call.arguments) for call in calls]
    return [
        Observation(name=c.name, arguments=c.arguments, text=o.text, ok=o.ok)
        for c, o in zip(calls, outcomes, strict=True)
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", GOLDEN["rewards"], ids=lambda case: case["id"])
async def test_turns_are_paid_as_ftrl_pays_them(case: dict[str, Any], variant: Variant) -> None:
    """Every recorded response gets FTRL's reward under each of its four formulas."""
    message = parse_message(case["response"], CallFormat.HERMES, call_prefix="")
    unsolved = {name: tuple(own) for name, own in case["unsolved_set"].items()}
    left, solved = unsolved, 0
    for observation in await observe(message):
        matched = match(observation, left, published=True)
        left, solved = matched.unsolved, solved + (matched.found is not None)
    paid = pay_turn(message, solved, unsolved, case["answer"], variant=variant, published=True)
    assert case[VARIANTS[variant]] == paid


def test_recording_is_whole() -> None:
    """All recorded rows are there, under all four formulas."""
    assert (25, 10, 7) == tuple(len(GOLDEN[k]) for k in ("rewards", "answer_verify", "feedback"))
    assert all(set(VARIANTS.values()) < case.keys() for case in GOLDEN["rewards"])


@pytest.mark.parametrize("row", GOLDEN["answer_verify"], ids=lambda row: str(row["golden"]))
def test_answers_are_found_where_ftrl_finds_them(row: dict[str, Any]) -> None:
    """Every recorded comparison comes out as recorded."""
    given = row["predict"]
    text = json.dumps(given, ensure_ascii=False) if isinstance(given, dict | list) else str(given)
    assert row["result"] is holds_as_published(text, row["golden"])


def test_published_mode_keeps_the_holes_and_the_default_closes_them() -> None:
    """Error texts, repeated arguments and parts of numbers bring something to FTRL alone."""
    holes = [
        (saw("bad input 7", ok=False), "7"),
        (saw("you said 7", value=7), "7"),
        (saw("you said a 7", nested={"list": ["a", "7"]}), "a 7"),
        (saw("17"), "7"),
        (saw("anything"), ""),
    ]
    assert [True] * 5 == [solves(seen, answer, published=True) for seen, answer in holes]
    assert [False] * 5 == [solves(seen, answer) for seen, answer in holes]


@pytest.mark.parametrize(
    ("seen", "answer"),
    [
        (saw("true", flag=True), "true"),
        (saw("Paris has 68", city="Paris"), "Paris, 68"),
        (saw("level 3", level="low"), "level 3"),
        (saw("17", value=1), "17"),
    ],
)
def test_what_the_arguments_do_not_tell_counts(seen: Observation, answer: str) -> None:
    """A flag, one part of two, a parameter's name and another number are no echo."""
    assert solves(seen, answer)


def test_one_call_brings_at_most_one() -> None:
    """The first sub-answer of the tool is removed; other tools and equal ones keep theirs."""
    unsolved = {"find": ("7", "9", "7"), "other": ("7",)}
    first = match(saw("7 and 9"), unsolved)
    assert Match(found="7", unsolved={"find": ("9", "7"), "other": ("7",)}) == first
    second = match(saw("7 and 9"), first.unsolved)
    assert Match(found="9", unsolved={"find": ("7",), "other": ("7",)}) == second
    assert Match(found=None, unsolved=second.unsolved) == match(saw("nothing"), second.unsolved)
    assert match(saw("7"), {}).found is None


def test_default_rewards_by_hand() -> None:
    """Calls, silence, unreadable calls and answers pay what the docstrings say."""
    unsolved = {"find": ("7", "9", "4")}
    assert [1.0, 0.8, 2 / 3, 0.0] == [
        pay_turn(made(p), q, unsolved, "7") for p, q in ((3, 3), (3, 2), (2, 1), (2, 0))
    ]
    assert [1.0, 0.5] == [pay_turn(made(2), q, unsolved, None, variant="precision") for q in (2, 1)]
    assert 1 / 3 == pay_turn(made(2), 1, unsolved, None, variant="recall")
    assert 4 / 6 == pay_turn(made(2), 2, unsolved, None, variant="product")
    assert 1 / 2 == pay_turn(made(1, bad=2), 1, unsolved, None)
    assert [-0.5, -0.3, -0.3, 0.25, 0.0] == [
        pay_turn(message, 0, unsolved, "17")
        for message in (say(""), made(0, bad=1), say("x </tool_call>"), say("17."), say("it is 7"))
    ]
    assert [1.0, 0.5] == [pay_turn(say(text), 0, {"find": ()}, "17") for text in ("17", "18")]


@settings(max_examples=80)
@given(st.data())
def test_default_never_pays_more_than_one(data: st.DataObject) -> None:
    """Whatever was called and brought, and under every formula; FTRL's goes beyond."""
    owing = data.draw(st.integers(0, 12))
    calls = data.draw(st.integers(1, 30))
    solved = data.draw(st.integers(0, min(owing, calls)))
    unsolved = {"find": tuple("x" * owing)}
    for variant in VARIANTS:
        paid = pay_turn(made(calls), solved, unsolved, None, variant=variant)
        assert 0 <= paid <= 1
        if solved:
            assert paid >= pay_turn(made(calls + 1), solved, unsolved, None, variant=variant)
    assert 4 / 3 == pay_turn(made(2), 2, {"find": ("7", "9")}, None, published=True)


@settings(max_examples=80)
@given(
    st.dictionaries(
        st.sampled_from("ab"), st.lists(st.sampled_from(["1", "2", "x y"]), max_size=4)
    ),
    st.lists(st.tuples(st.sampled_from("abc"), st.text("12xy ", max_size=6)), max_size=8),
    st.booleans(),
)
def test_matching_never_owes_more(
    unsolved: dict[str, list[str]], calls: list[tuple[str, str]], published: bool
) -> None:
    """Each match removes exactly what it found, from the called tool alone."""
    left = {name: tuple(own) for name, own in unsolved.items()}
    for name, text in calls:
        seen = Observation(name=name, arguments={}, text=text, ok=True)
        matched = match(seen, left, published=published)
        assert count_unsolved(left) - (matched.found is not None) == count_unsolved(
            matched.unsolved
        )
        if matched.found is not None:
            assert matched.found in left[name]
        assert {k: v for k, v in left.items() if k != name} == {
            k: v for k, v in matched.unsolved.items() if k != name
        }
        left = matched.unsolved


@pytest.mark.parametrize(
    ("message", "solved", "calls", "expected"),
    [
        (say("it is 17"), 2, 2, {"calls": 0.5, "answer": 0.5}),
        (say("no idea"), 2, 2, {"calls": 0.5, "answer": 0.0}),
        (None, 2, 2, {"calls": 0.5, "answer": 0.0}),
        (say("17"), 1, 2, {"calls": 0.25, "answer": 0.25}),
        (say("17"), 0, 2, {"calls": 0.0, "answer": 0.0}),
        (say("17"), 2, 6, {"calls": 0.25, "answer": 0.25}),
    ],
)
def test_episodes_by_hand(
    message: Message | None, solved: int, calls: int, expected: dict[str, float]
) -> None:
    """Half of F1 is for the calls, half for the right answer at the end."""
    assert expected == pay_episode(message, solved=solved, readable=calls, needed=2, answer="17")


@pytest.mark.parametrize(
    ("message", "unreadable", "expected"),
    [(say("17"), 0, 0.0), (say(""), 0, -0.5), (say("x"), 1, -0.3), (None, 2, -0.3), (None, 0, 0.0)],
)
def test_episodes_without_a_readable_call(
    message: Message | None, unreadable: int, expected: float
) -> None:
    """An answer out of the head pays nothing, silence and unreadable calls cost."""
    paid = pay_episode(message, solved=0, readable=0, unreadable=unreadable, needed=2, answer="17")
    assert expected == sum(paid.values())


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("f1", 0.4), ("precision", 1 / 3), ("recall", 0.5), ("product", 1 / 6)],
)
def test_episode_variants(variant: Variant, expected: float) -> None:
    """Other variants put another share in the place of F1."""
    paid = pay_episode(
        say("17"),
        solved=1,
        readable=2,
        unreadable=1,
        needed=2,
        answer="17",
        variant=variant,
    )
    assert expected == pytest.approx(sum(paid.values()), abs=1e-12)


def test_figures_of_an_episode() -> None:
    """Solve-P is 1 without a call, as in FTRL's evaluation."""
    assert SolveRates(precision=1.0, recall=0.0, f1=0.0) == solve(solved=0, calls=0, needed=3)
    assert SolveRates(precision=0.5, recall=1.0, f1=2 / 3) == solve(solved=1, calls=2, needed=1)
    assert SolveRates(precision=1.0, recall=1.0, f1=1.0) == solve(solved=0, calls=0, needed=0)


def test_right_answers() -> None:
    """An answer is right in whole words by default, and without one none is."""
    assert [False, True] == [is_right(say("17"), "7", published=p) for p in (False, True)]
    assert not is_right(say("17"), None)
    assert not is_right(say("17"), "")

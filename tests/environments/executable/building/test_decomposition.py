"""Stage 1's checks: the graph of the parts, and answers that can be looked up and matched."""

from __future__ import annotations

import random
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from building_answers import good_parts, part
from trustee.environments.executable.blueprint import Scenario
from trustee.environments.executable.building.candidate import Decomposition, Part, grammar_of
from trustee.environments.executable.building.decomposition import (
    SHAPES,
    check_decomposition,
    check_references,
    check_shape,
    draw_count,
)

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
WORDS = ("Alder", "Birch", "Cedar", "Dogwood", "Elder", "Fir")


def with_needs(needs: list[tuple[int, ...]]) -> Decomposition:
    """Make a decomposition that is faultless but for its graph."""
    parts = tuple(
        part(f"What follows {' '.join(f'#{n}' for n in own)}?", WORDS[index], *own)
        for index, own in enumerate(needs)
    )
    return Decomposition(question="What follows?", parts=parts)


def verdict(given: Decomposition, scenario: Scenario) -> str:
    """Give the kind of the first flaw, or nothing."""
    flaw = check_decomposition(given, scenario=scenario)
    return "" if flaw is None else flaw.kind


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_count_of_a_scenario_has_a_good_example(scenario: Scenario) -> None:
    """Whatever number of parts is asked for, faultless parts pass."""
    shape = SHAPES[scenario]
    verdicts = {
        count: check_decomposition(good_parts(scenario, count), scenario=scenario, count=count)
        for count in range(shape.least, shape.most + 1)
    }
    assert dict.fromkeys(verdicts) == verdicts


@pytest.mark.parametrize(
    ("needs", "fitting"),
    [
        ([()], {"single_hop"}),
        ([(), ()], {"parallel_single_hop"}),
        ([(), (1,)], {"multi_hop"}),
        ([(), (1,), (2,)], {"multi_hop"}),
        ([(), (1,), (1,)], set()),
        ([(), (1,), (1, 2)], set()),
        ([(), (), (1, 2)], {"parallel_multi_hop"}),
        ([(), (), (2,)], {"parallel_multi_hop"}),
        ([(), (1,), (), (3,)], {"parallel_multi_hop"}),
    ],
)
def test_graph_belongs_to_its_scenario(
    needs: list[tuple[int, ...]], fitting: set[Scenario]
) -> None:
    """A graph passes for the scenarios it is of and for no other."""
    given_parts = with_needs(needs)
    assert fitting == {
        scenario
        for scenario in SCENARIOS
        if check_shape(given_parts.parts, scenario=scenario) is None
        and verdict(given_parts, scenario) in ("", "count")
        and verdict(given_parts, scenario) == ""
    }


@given(
    st.lists(
        st.lists(st.integers(-1, 7), max_size=3, unique=True).map(tuple), min_size=1, max_size=6
    )
)
@settings(max_examples=150)
def test_accepted_graphs_can_be_asked_in_order(needs: list[tuple[int, ...]]) -> None:
    """A part never needs itself or a later one, whatever the builder wrote."""
    decomposition = with_needs(needs)
    runs_forward = all(1 <= need < number for number, own in enumerate(needs, 1) for need in own)
    # With -1 the question's text holds no reference at all.
    assert runs_forward == (check_references(decomposition.parts) is None)
    if runs_forward:
        for number in range(1, len(needs) + 1):
            assert "#" not in decomposition.ask(number)
            assert all(ancestor < number for ancestor in decomposition.ancestors(number))


@given(
    st.builds(
        Decomposition,
        question=st.text(max_size=40),
        parts=st.lists(
            st.builds(
                Part,
                question=st.text(alphabet="ab #1239?", max_size=20),
                answer=st.text(alphabet="ab 1.,#yes", max_size=10),
                needs=st.lists(st.integers(-2, 9), max_size=3).map(tuple),
            ),
            max_size=6,
        ).map(tuple),
    ),
    st.sampled_from(SCENARIOS),
)
@settings(max_examples=200)
def test_checks_never_fail_themselves(given_parts: Decomposition, scenario: Scenario) -> None:
    """Any typed answer gets a verdict; an accepted one holds no answer in its question."""
    flaw = check_decomposition(given_parts, scenario=scenario)
    if flaw is None:
        padded = f" {given_parts.question} "
        assert all(f" {own.answer.strip()} " not in padded for own in given_parts.parts)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("empty", {"question": " "}),
        ("reference", {"question": "What does #1 cost?"}),
        ("leak", {"question": "Does it cost 14 euro?"}),
        ("count", {"parts": ()}),
        ("empty", {"parts": (part(" ", "14 euro"),)}),
        ("empty_answer", {"parts": (part("What does it cost?", "Unknown."),)}),
        ("empty_answer", {"parts": (part("What does it cost?", "--"),)}),
        ("long_answer", {"parts": (part("What does it cost?", "a lot of it, as they all say"),)}),
        ("leak", {"parts": (part("Does it cost 12 or 13?", "12"),)}),
        ("reference", {"parts": (part("What does #1 cost?", "12"),)}),
        ("order", {"parts": (part("What does #1 cost?", "12", 1),)}),
    ],
)
def test_one_part_that_is_wrong(kind: str, changed: dict[str, object]) -> None:
    """Each fault of a single part has a kind of its own."""
    good = Decomposition(question="What does it cost?", parts=(part("The price?", "14 euro"),))
    assert "" == verdict(good, "single_hop")
    assert kind == verdict(msgspec.structs.replace(good, **changed), "single_hop")


def test_answers_inside_one_another_are_refused() -> None:
    """An answer that is part of another one would be found with it."""
    two = Decomposition(
        question="Who are they?", parts=(part("The first?", "Ann"), part("The second?", "Ann Lee"))
    )
    assert "same_answer" == verdict(two, "parallel_single_hop")


def test_answer_is_that_of_the_last_parts() -> None:
    """What no other part uses is what the question asks for."""
    assert "BK-2093, 214 m" == good_parts("parallel_multi_hop", 3).answer


def test_question_is_asked_with_the_answers_it_needs() -> None:
    """A later part is asked with the earlier answer in it, and knows it."""
    parts = good_parts("multi_hop", 2)
    assert "Which licence does Tilda Maren have?" == parts.ask(2)
    assert parts.known(2).endswith(" / Tilda Maren")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_counts_are_drawn_within_bounds(scenario: Scenario) -> None:
    """All numbers of parts that a scenario allows are drawn, and no other."""
    rng = random.Random(1)
    shape = SHAPES[scenario]
    drawn = {draw_count(scenario, rng) for _ in range(300)}
    assert set(range(shape.least, shape.most + 1)) == drawn


def test_grammar_bounds_the_answer() -> None:
    """The grammar knows the fields in order and refuses others."""
    schema = msgspec.json.decode(grammar_of(Decomposition))
    inner = schema["$defs"]["Decomposition"]
    assert ["question", "parts"] == list(inner["properties"])
    assert inner["additionalProperties"] is False
    assert 6 == inner["properties"]["parts"]["maxItems"]

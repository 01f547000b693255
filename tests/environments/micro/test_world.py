"""The micro-world: its tools, its wordings, its truth, and a user who never misremembers."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.environments.micro.world import (
    PLACES,
    THINGS,
    TOOLS,
    VALUES,
    Goal,
    MicroWorld,
    ScriptedUser,
    answer,
    ask_for,
    fact,
    goal_of,
    hide,
    question,
    said_facts,
    state_key,
    write_intent,
)
from trustee.environments.simulated.curriculum import AMBIGUITIES, PERSONAS, Ambiguity, Persona
from trustee.tools.arguments import check_arguments
from trustee.types import ExpectedCall, Message

LAMP = Goal(thing="lamp", place="attic", value=12)
FAN = Goal(thing="fan", place="hall", value=None)
GATE = Goal(thing="gate", place="north", value="red")
BY_NAME = {tool.name: tool for tool in TOOLS}


@st.composite
def all_goals(draw: st.DrawFn) -> Goal:
    """Draw any goal of the world."""
    thing = THINGS[draw(st.sampled_from(sorted(THINGS)))]
    value = draw(st.none() | st.sampled_from(VALUES[thing.kind]))
    return Goal(thing=thing.name, place=draw(st.sampled_from(PLACES[thing.place])), value=value)


goals = all_goals()
seeds = st.integers(0, 1 << 30)


def test_tools_and_categories() -> None:
    """64 tools of different names, 8 in each of 8 categories, half of them write."""
    assert 64 == len(TOOLS) == len(BY_NAME)
    by_category = Counter(tool.category for tool in TOOLS)
    names = "home garden office music travel fleet clinic bank"
    assert dict.fromkeys(names.split(), 8) == by_category
    assert Counter(read=32, write=32) == Counter(tool.effect for tool in TOOLS)


def test_each_category_has_every_kind_in_its_place() -> None:
    """A category has one thing of each kind, all in the same places."""
    for category in {thing.category for thing in THINGS.values()}:
        own = [thing for thing in THINGS.values() if thing.category == category]
        assert set(VALUES) == {thing.kind for thing in own}
        assert 4 == len(own)
        assert 1 == len({thing.place for thing in own})


def test_words_mean_one_thing() -> None:
    """No word is both a thing, a place, a value or an argument, so wordings can be read back."""
    words = [
        *THINGS,
        *(name for names in PLACES.values() for name in names),
        *PLACES,
        *VALUES,
        *VALUES["mode"],
        *VALUES["color"],
    ]
    assert [] == [word for word, count in Counter(words).items() if count > 1]


def test_a_tool_as_the_policy_sees_it() -> None:
    """The schema names the place, and for a write the value with its type."""
    write, read = BY_NAME["set_lamp"], BY_NAME["read_lamp"]
    assert ("set_lamp(room, level)", "read_lamp(room)") == (write.signature, read.signature)
    assert ("write", "read") == (write.effect, read.effect)
    assert {"type": "string"} == write.parameters["properties"]["room"]
    assert {"type": "integer"} == write.parameters["properties"]["level"]
    assert {"type": "string"} == BY_NAME["set_fan"].parameters["properties"]["mode"]


@pytest.mark.parametrize(
    ("goal", "call", "text"),
    [
        (
            LAMP,
            ExpectedCall(name="set_lamp", arguments={"room": "attic", "level": 12}),
            "set lamp attic level 12",
        ),
        (FAN, ExpectedCall(name="read_fan", arguments={"room": "hall"}), "read fan hall"),
        (
            GATE,
            ExpectedCall(name="set_gate", arguments={"bed": "north", "color": "red"}),
            "set gate north color red",
        ),
    ],
)
def test_goal_has_a_call_and_a_wording(goal: Goal, call: ExpectedCall, text: str) -> None:
    """A goal is reached by one call and worded in one way."""
    assert (call, text) == (goal.call, goal.text)


@given(goal=goals)
def test_call_gives_the_goal_back(goal: Goal) -> None:
    """`goal_of` undoes `Goal.call`, and the call fits its tool's schema."""
    assert goal == goal_of(goal.call)
    assert check_arguments(BY_NAME[goal.call.name], goal.call.arguments) is None


@given(chosen=st.lists(goals, min_size=1, max_size=4))
def test_goals_of_calls_keep_their_order(chosen: list[Goal]) -> None:
    """Goals are read back from expected calls one by one; an intent says them all."""
    assert chosen == [goal_of(goal.call) for goal in chosen]
    assert [goal.text for goal in chosen] == write_intent(chosen).split(" ; ")


def test_hidden_arguments() -> None:
    """A clear query hides nothing, a somewhat clear one a part, a highly unclear one all of it."""

    def hidden(goal: Goal, ambiguity: Ambiguity) -> set[tuple[str, ...]]:
        return {hide(goal, ambiguity, random.Random(seed)) for seed in range(20)}

    assert {()} == hidden(LAMP, "clear") == hidden(FAN, "clear")
    assert {("room",), ("level",)} == hidden(LAMP, "somewhat")
    assert {("room", "level")} == hidden(LAMP, "highly")
    assert {("room",)} == hidden(FAN, "somewhat") == hidden(FAN, "highly")


@pytest.mark.parametrize(
    ("persona", "hidden", "query"),
    [
        ("expert", (), "set lamp attic level 12 and read fan hall"),
        (
            "beginner",
            (),
            "please set the lamp in attic to level 12 and read the mode of the fan in hall",
        ),
        ("novice", (), "hi , can you set the lamp in attic to level 12 and read the fan in hall ?"),
        ("expert", ("room",), "set lamp level 12 and read fan hall"),
        ("expert", ("level",), "set lamp attic and read fan hall"),
        (
            "beginner",
            ("room", "level"),
            "please set the lamp and read the mode of the fan in hall",
        ),
        ("novice", ("room",), "hi , can you set the lamp to level 12 and read the fan in hall ?"),
    ],
)
def test_query(persona: Persona, hidden: tuple[str, ...], query: str) -> None:
    """Each persona words a query in its way; only the first goal leaves something out."""
    assert query == ask_for([LAMP, FAN], persona, hidden)


def test_question_and_answer() -> None:
    """A question names arguments, an answer gives those that the goal knows."""
    assert "which room and which level ?" == question(("room", "level"))
    assert "room attic and level 12" == answer(LAMP, ("room", "level"))
    assert "level 12" == answer(LAMP, ("city", "level"))
    assert "" == answer(FAN, ("mode",))


@given(goal=goals, seed=seeds)
def test_first_values_are_stable(goal: Goal, seed: int) -> None:
    """A value that nobody wrote is the seed's, of its kind, and does not move by being read."""
    world = MicroWorld(seed=seed)
    first = world.value(goal.thing, goal.place)
    thing = THINGS[goal.thing]
    assert first in VALUES[thing.kind]
    read = {thing.place: goal.place}
    assert [({thing.kind: first}, {})] * 2 == [
        world.call(f"read_{goal.thing}", read) for _ in range(2)
    ]
    assert first == MicroWorld(seed=seed).value(goal.thing, goal.place)
    assert {} == world.written


def test_first_values_never_change() -> None:
    """Values of a seed are fixed for ever: others would make old and new results differ."""
    world = MicroWorld(seed=7)
    assert [26, "eco", 9, "green"] == [
        world.value(thing, "attic") for thing in ("lamp", "fan", "heater", "blind")
    ]


def test_first_values_differ() -> None:
    """Seed and place decide about the value."""
    seen = {MicroWorld(seed=seed).value("lamp", "attic") for seed in range(200)}
    assert set(VALUES["level"]) == seen
    world = MicroWorld(seed=0)
    assert len({world.value("lamp", place) for place in PLACES["room"]}) > 1


@given(written=st.lists(goals, min_size=1, max_size=8), seed=seeds)
@settings(max_examples=60)
def test_read_after_write(written: list[Goal], seed: int) -> None:
    """What was written last is what is read; nothing else moves."""
    world, untouched = MicroWorld(seed=seed), MicroWorld(seed=seed)
    values: dict[tuple[str, str], int | str] = {}
    for goal in written:
        result, changes = world.call(goal.call.name, goal.call.arguments)
        thing = THINGS[goal.thing]
        at = (goal.thing, goal.place)
        if goal.value is None:
            expected = values.get(at, untouched.value(*at))
            assert ({thing.kind: expected}, {}) == (result, changes)
        else:
            values[at] = goal.value
            assert ({"ok": True}, {f"{goal.thing} {goal.place}": goal.value}) == (result, changes)
    for name, thing in THINGS.items():
        for place in PLACES[thing.place]:
            expected = values.get((name, place), untouched.value(name, place))
            assert expected == world.value(name, place)


def test_user_reveals_piece_by_piece() -> None:
    """The user answers what is asked, then says what is still open, then ends."""
    user = ScriptedUser([LAMP, FAN, GATE], persona="expert", told=1)
    assert "read fan hall ; set gate north color red" == user.still_open
    assert ("room attic", False) == user.reply("which room ?")
    assert ("room attic and level 12", False) == user.reply("which room and which level ?")
    assert "read fan hall ; set gate north color red" == user.still_open
    assert ("read fan hall and set gate north color red", False) == user.reply("ok , done")
    assert "nothing" == user.still_open
    assert ("level 12", False) == user.reply("which level ?")
    assert ("thanks", True) == user.reply("ok , fan hall mode eco")


@pytest.mark.parametrize("text", ["which city ?", "shall I go on ?", "room", "", "which ?"])
def test_user_is_not_held_up(text: str) -> None:
    """What is no question, or asks for what the user does not know, is as good as a report."""
    user = ScriptedUser([LAMP], persona="expert", told=1)
    assert ("thanks", True) == user.reply(text)


@given(
    chosen=st.lists(goals, min_size=1, max_size=4),
    persona=st.sampled_from(PERSONAS),
    told=st.integers(1, 4),
)
def test_user_is_exact_and_ends(chosen: list[Goal], persona: Persona, told: int) -> None:
    """Every name and number is said as it is in the goals, and the dialogue ends in two texts."""
    told = min(told, len(chosen))
    user = ScriptedUser(chosen, persona=persona, told=told)
    first = chosen[0]
    wanted = list(first.call.arguments)
    known = " and ".join(f"{name} {value}" for name, value in first.call.arguments.items())
    assert (known, False) == user.reply(question(wanted))
    reply, done = user.reply("ok")
    if told == len(chosen):
        assert ("thanks", True) == (reply, done)
        return
    parts = reply.removeprefix("hi , can you ").removesuffix(" ?").split(" and ")
    for goal, part in zip(chosen[told:], parts, strict=True):
        values = [str(value) for value in goal.call.arguments.values()]
        assert {goal.thing, *values} <= set(part.split())
        numbers = [int(word) for word in part.split() if word.isdigit()]
        assert [v for v in (goal.value,) if isinstance(v, int)] == numbers
    assert not done
    assert ("thanks", True) == user.reply("ok")


@given(goal=goals, persona=st.sampled_from(PERSONAS), ambiguity=st.sampled_from(AMBIGUITIES))
def test_what_is_hidden_is_not_said(goal: Goal, persona: Persona, ambiguity: Ambiguity) -> None:
    """The first query leaves out exactly what is hidden, and the answer brings it."""
    hidden = hide(goal, ambiguity, random.Random(0))
    said = ask_for([goal], persona, hidden).split()
    for name, value in goal.call.arguments.items():
        assert (name not in hidden) == (str(value) in said)
    words = answer(goal, hidden).replace(" and ", " ").split()
    assert {(name, str(goal.call.arguments[name])) for name in hidden} <= set(pairwise(words))


@given(reported=st.lists(goals, min_size=1, max_size=4))
def test_reports_are_read_back(reported: list[Goal]) -> None:
    """Facts in a text are found; of two about the same place the later counts."""
    told = [(goal, str(goal.value or VALUES[THINGS[goal.thing].kind][0])) for goal in reported]
    text = "ok , " + " ; ".join(fact(goal.thing, goal.place, value) for goal, value in told)
    expected = {state_key(goal.thing, goal.place): value for goal, value in told}
    assert expected == said_facts([Message(role="assistant", content=text)])


def test_later_message_corrects_the_earlier() -> None:
    """What was said last about a thing is what was said."""
    messages = [
        Message(role="assistant", content="lamp attic level 3, fan hall mode eco;"),
        Message(role="assistant", content="sorry , lamp attic level 4"),
    ]
    assert {"lamp attic": "4", "fan hall": "eco"} == said_facts(messages)


@pytest.mark.parametrize(
    "text", ["lamp attic mode 3", "lamp north level 3", "lamp attic level", "attic lamp level 3"]
)
def test_what_is_no_fact(text: str) -> None:
    """Another kind, another place or another order is no report."""
    assert {} == said_facts([Message(role="assistant", content=text)])

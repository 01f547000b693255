"""Playing the user: what its next message is for, and what it must say."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from scripts import make_simulator
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.protocol import Services
from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulated.episode import SimulatedEnvironment
from trustee.environments.simulated.scene import HiddenSimulated
from trustee.environments.simulated.speaking import (
    GREETING,
    UserTurn,
    UserWishes,
    check_turn,
    plan_turn,
    turn_round,
)
from trustee.types import ExpectedCall, Message, Task

BOOK = "book a table for 4 at Osteria Lume"
WEATHER = "know the weather in Leeds"
WANTED = UserWishes(
    persona="Ada",
    intent=f"You want to {BOOK}, and to {WEATHER}.",
    wishes=(BOOK, WEATHER),
    values=((("party_size", 4), ("restaurant", "Osteria Lume")), (("city", "Leeds"),)),
)
QUERY = Message(role="user", content="Could you book me a table?")


def say(text: str) -> Message:
    """Say something as the assistant."""
    return Message(role="assistant", content=text)


def plan(text: str, *, told: int = 1) -> UserTurn:
    """Plan the answer to a text of the assistant."""
    return plan_turn("simulated", [QUERY, say(text)], WANTED, told=told)


def test_the_dialogue_is_turned_round() -> None:
    """The assistant speaks to the model, which has given the user's messages as its answers."""
    calls = Message(role="tool", content='{"secret": 1}', call_id="c")
    heard = turn_round(
        "simulated", [QUERY, say(""), calls, say("Where?")], persona="Ada", intent="You want x."
    )
    assert ["system", "user", "assistant", "user"] == [message.role for message in heard]
    assert [GREETING, '{"message": "Could you book me a table?", "done": false}', "Where?"] == [
        message.content for message in heard[1:]
    ]
    assert "Ada" in heard[0].content
    assert not any("secret" in message.content for message in heard)


def test_a_question_about_an_argument_is_answered_with_its_value() -> None:
    """Code finds the argument by its name; if the model fails, code gives the answer."""
    turn = plan("For what party size?")
    assert (4,) == turn.must_say
    assert turn.heard[-1].content.endswith(
        "(You are the customer. Tell the assistant this: party size 4.)"
    )
    assert "Party size 4." == turn.fallback
    assert {"const": False} == json.loads(turn.schema)["properties"]["done"]


def test_another_question_is_answered_from_what_the_user_has_asked_for() -> None:
    """Not from what comes later."""
    turn = plan("How many people will come?")
    assert () == turn.must_say
    assert (4, "Osteria Lume") == turn.may_say
    assert BOOK in turn.heard[-1].content
    assert WEATHER not in turn.heard[-1].content
    assert f"I would like to {BOOK}." == turn.fallback


def test_the_user_asks_for_what_is_left() -> None:
    """When the assistant has finished with the first part; before that it cannot end."""
    turn = plan("Your table is booked.")
    assert turn.says_wishes
    assert ("Leeds",) == turn.must_say
    assert WEATHER in turn.heard[-1].content
    assert {"const": False} == json.loads(turn.schema)["properties"]["done"]


@pytest.mark.parametrize(
    "text", ["It is sunny in Leeds.", "Is there anything else I can help you with?"]
)
def test_the_user_may_end_when_all_is_asked_for(text: str) -> None:
    """After a report, and when it is asked for more."""
    turn = plan(text, told=2)
    assert {"type": "boolean"} == json.loads(turn.schema)["properties"]["done"]


def test_a_question_for_more_brings_what_is_left() -> None:
    """The user does not say no while something is unsaid."""
    turn = plan("Anything else?")
    assert turn.says_wishes
    assert {"const": False} == json.loads(turn.schema)["properties"]["done"]


@pytest.mark.parametrize(
    ("question", "message", "reason"),
    [
        ("For what party size?", "Four of us.", None),
        ("For what party size?", "At Osteria Lume.", "the user leaves out [4]"),
        ("Which place?", "Osteria Lume, please.", None),
        ("Which place?", "I have no preference.", None),
        ("Which place?", "Which place do you mean?", "the user answers a question with a question"),
        ("Which place?", "Please enter a name.", "the user does not answer the question"),
        ("All done.", "What is the weather in Leeds?", None),
        ("All done.", "Thank you.", "the user leaves out ['Leeds']"),
    ],
)
def test_what_the_user_says_is_checked(question: str, message: str, reason: str | None) -> None:
    """An answer holds what was asked, a request what is wanted."""
    assert reason == check_turn(message, plan(question))


def make_environment(script: Any) -> SimulatedEnvironment:
    """Make an episode with two wishes, of which the query has said one."""
    calls = (
        ExpectedCall(name="book", arguments={"party_size": 4, "restaurant": "Osteria Lume"}),
        ExpectedCall(name="weather", arguments={"city": "Leeds"}),
    )
    hidden = HiddenSimulated(
        intent=WANTED.intent,
        persona="Ada",
        expected_calls=calls,
        criteria=(Criterion.FULFILLED,),
        wishes=WANTED.wishes,
        told=1,
    )
    task = Task(
        id="t",
        messages=(QUERY,),
        tools=(),
        difficulty=1,
        hidden=msgspec.to_builtins(hidden),
    )
    services = Services(simulator=make_simulator(ScriptedEngine(script)), rng=random.Random(0))
    return SimulatedEnvironment(task, services, rules=Simulated().judge_rules())


@pytest.mark.anyio
async def test_a_dialogue_from_question_to_thanks() -> None:
    """A user that never says anything usable is spoken for by code, until it ends the dialogue."""

    def script(request: Request) -> str:
        ends = "boolean" in (request.sampling.schema or "")
        return json.dumps({"message": "Please enter a name.", "done": ends})

    environment = make_environment(script)
    replies = [
        await environment.reply(say(text))
        for text in ("For what party size?", "Your table is booked.", "It is sunny in Leeds.")
    ]
    assert [["Party size 4."], [f"I would also like to {WEATHER}."], []] == [
        [message.content for message in reply.messages] for reply in replies
    ]
    assert [False, False, True] == [reply.done for reply in replies]

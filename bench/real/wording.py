"""The micro-world in plain English, so that a model that was not made for it can play its roles.

The scripted episodes of the built-in model are short forms ("ok , lamp hall level 3"). Their calls,
results and truth are kept; only what user and assistant say is put into sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from trustee.environments.micro.world import PLACES, THINGS, Goal
from trustee.types import Message, Turn

FACT = re.compile(
    rf"\b({'|'.join(THINGS)}) ({'|'.join(p for places in PLACES.values() for p in places)}) "
    r"(level|hour|mode|color) (\w+)"
)
ANSWER = re.compile(r"(\w+) (\w+)")


def name_thing(thing: str, place: str) -> str:
    """Return a thing with its value and place, such as `the level of the lamp (room hall)`."""
    known = THINGS[thing]
    return f"the {known.kind} of the {thing} ({known.place} {place})"


def write_goal(goal: Goal) -> str:
    """Return a goal as part of a sentence."""
    thing = name_thing(goal.thing, goal.place)
    return f"find out {thing}" if goal.value is None else f"set {thing} to {goal.value}"


def write_plain_intent(goals: Sequence[Goal]) -> str:
    """Return goals as the sentence that simulator and judge read."""
    return "You want to " + ", and to ".join(write_goal(goal) for goal in goals) + "."


def write_query(goals: Sequence[Goal], hidden: Sequence[str] = ()) -> str:
    """Return a user's request for goals, without the hidden arguments of the first."""
    parts = []
    for index, goal in enumerate(goals):
        thing = THINGS[goal.thing]
        left_out = hidden if index == 0 else ()
        where = "" if thing.place in left_out else f" ({thing.place} {goal.place})"
        value = "" if thing.kind in left_out else f" to {goal.value}"
        if goal.value is None:
            parts.append(f"tell me the {thing.kind} of the {goal.thing}{where}")
        else:
            verb = "set" if value else "change"
            parts.append(f"{verb} the {thing.kind} of the {goal.thing}{where}{value}")
    return "Please " + " and ".join(parts) + "."


def say_plainly(message: Message) -> Message:
    """Return a message of a scripted episode in sentences; calls and results stay as they are."""
    text = message.content
    if message.role == "tool" or not text:
        return message
    if message.role == "user":
        if pairs := re.fullmatch(r"\w+ \w+(?: and \w+ \w+)?", text):
            said = [f"the {name} is {value}" for name, value in ANSWER.findall(pairs[0])]
            text = " and ".join(said).capitalize() + "."
    elif text.endswith("?"):
        names = re.findall(r"which (\w+)", text)
        text = "Could you tell me " + " and ".join(f"which {name}" for name in names) + "?"
    elif facts := FACT.findall(text):
        told = [f"{name_thing(thing, place)} is {value}" for thing, place, _, value in facts]
        text = "Done: " + "; ".join(told) + "."
    else:
        text = "All done."
    return msgspec.structs.replace(message, content=text)


def say_turns_plainly(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return turns with every message in sentences."""
    return tuple(
        msgspec.structs.replace(
            turn,
            message=say_plainly(turn.message),
            replies=tuple(say_plainly(reply) for reply in turn.replies),
        )
        for turn in turns
    )

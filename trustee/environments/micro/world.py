"""The micro-world of the built-in model: 64 stateful tools in 8 categories with a known truth.

Each category has four things in several places; a thing has one value per place. `set_lamp` writes
it, `read_lamp` reads it. Goals, facts and questions have fixed wordings, so the world can play all
roles itself, which yields training examples, and score all of them, which makes it an oracle.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trustee.environments.simulated.curriculum import Ambiguity, Persona
from trustee.types import ExpectedCall, Message, Record, Tool

ValueKind = Literal["level", "hour", "mode", "color"]
VALUES: dict[ValueKind, tuple[int | str, ...]] = {
    "level": tuple(range(1, 31)),
    "hour": tuple(range(1, 25)),
    "mode": ("eco", "fast", "quiet", "auto", "turbo", "smart"),
    "color": ("red", "blue", "green", "white", "black", "amber"),
}
PLACES: dict[str, tuple[str, ...]] = {
    "room": ("hall", "attic", "cellar", "porch", "study", "kitchen"),
    "bed": ("north", "south", "east", "west", "center", "corner"),
    "desk": ("front", "back", "left", "right", "upper", "lower"),
    "stage": ("gold", "silver", "bronze", "copper", "iron", "steel"),
    "city": ("paris", "rome", "oslo", "cairo", "lima", "delhi"),
    "van": ("alpha", "bravo", "delta", "echo", "tango", "zulu"),
    "ward": ("maple", "cedar", "birch", "willow", "poplar", "aspen"),
    "branch": ("harbor", "market", "bridge", "castle", "station", "airport"),
}


class Thing(Record, frozen=True):
    """Something in the world that has a value in each place."""

    name: str
    place: str
    """Name of the argument for the place."""
    kind: ValueKind
    category: str


def _things(category: str, place: str, **kinds: ValueKind) -> list[Thing]:
    return [Thing(name=n, place=place, kind=k, category=category) for n, k in kinds.items()]


THINGS: dict[str, Thing] = {
    thing.name: thing
    for thing in [
        *_things("home", "room", lamp="level", fan="mode", heater="hour", blind="color"),
        *_things("garden", "bed", pump="mode", sprinkler="hour", gate="color", soil="level"),
        *_things("office", "desk", screen="level", printer="mode", phone="color", alarm="hour"),
        *_things("music", "stage", speaker="level", mixer="mode", light="color", show="hour"),
        *_things("travel", "city", bus="hour", hotel="level", taxi="mode", ticket="color"),
        *_things("fleet", "van", engine="mode", tank="level", radio="hour", route="color"),
        *_things("clinic", "ward", drip="level", monitor="mode", shift="hour", badge="color"),
        *_things("bank", "branch", vault="mode", queue="level", till="hour", safe="color"),
    ]
}


def _tool(thing: Thing, effect: Literal["read", "write"]) -> Tool:
    properties: dict[str, Any] = {thing.place: {"type": "string"}}
    if effect == "write":
        kind = "integer" if thing.kind in ("level", "hour") else "string"
        properties[thing.kind] = {"type": kind}
    return Tool(
        name=f"{'set' if effect == 'write' else 'read'}_{thing.name}",
        description=f"{effect} the {thing.kind} of the {thing.name}",
        parameters={"type": "object", "properties": properties, "required": list(properties)},
        effect=effect,
        category=thing.category,
    )


TOOLS: tuple[Tool, ...] = tuple(
    _tool(thing, effect) for thing in THINGS.values() for effect in ("write", "read")
)


class Goal(Record, frozen=True):
    """One part of an intent; `value` is None if something is to be read."""

    thing: str
    place: str
    value: int | str | None

    @property
    def call(self) -> ExpectedCall:
        """The call that reaches the goal."""
        thing = THINGS[self.thing]
        arguments: dict[str, Any] = {thing.place: self.place}
        if self.value is None:
            return ExpectedCall(name=f"read_{self.thing}", arguments=arguments)
        return ExpectedCall(
            name=f"set_{self.thing}", arguments=arguments | {thing.kind: self.value}
        )

    @property
    def text(self) -> str:
        """The wording of the goal inside an intent."""
        if self.value is None:
            return f"read {self.thing} {self.place}"
        return f"set {self.thing} {self.place} {THINGS[self.thing].kind} {self.value}"


def goal_of(call: ExpectedCall) -> Goal:
    """Return the goal that a call reaches."""
    thing = THINGS[call.name.split("_", 1)[1]]
    place, value = call.arguments[thing.place], call.arguments.get(thing.kind)
    return Goal(thing=thing.name, place=place, value=value)


def fact(thing: str, place: str, value: object) -> str:
    """Return the wording of a fact, used in reports and as a key and value of the state."""
    return f"{thing} {place} {THINGS[thing].kind} {value}"


def state_key(thing: str, place: str) -> str:
    """Return the key of a state field."""
    return f"{thing} {place}"


def write_intent(goals: Sequence[Goal]) -> str:
    """Return goals joined to an intent."""
    return " ; ".join(goal.text for goal in goals)


def hide(goal: Goal, ambiguity: Ambiguity, rng: random.Random) -> tuple[str, ...]:
    """Return a random choice of arguments that the first query leaves out."""
    thing = THINGS[goal.thing]
    if ambiguity == "clear":
        return ()
    if goal.value is None:
        return (thing.place,)
    return (
        (thing.place, thing.kind)
        if ambiguity == "highly"
        else (rng.choice((thing.place, thing.kind)),)
    )


def ask_for(goals: Sequence[Goal], persona: Persona, hidden: Sequence[str] = ()) -> str:
    """Return a query for goals, without the `hidden` arguments of the first."""
    parts = []
    for index, goal in enumerate(goals):
        thing = THINGS[goal.thing]
        left_out = hidden if index == 0 else ()
        place = "" if thing.place in left_out else f" {goal.place}"
        value = (
            "" if goal.value is None or thing.kind in left_out else f" {thing.kind} {goal.value}"
        )
        verb = "read" if goal.value is None else "set"
        if persona == "expert":
            parts.append(f"{verb} {goal.thing}{place}{value}")
        else:
            where = place and f" in{place}"
            to = value and f" to{value}"
            what = f" the {thing.kind} of" if goal.value is None and persona == "beginner" else ""
            parts.append(f"{verb}{what} the {goal.thing}{where}{to}")
    text = " and ".join(parts)
    return {"expert": text, "beginner": f"please {text}", "novice": f"hi , can you {text} ?"}[
        persona
    ]


def question(arguments: Sequence[str]) -> str:
    """Return the agent's question for missing arguments."""
    return " and ".join(f"which {name}" for name in arguments) + " ?"


def answer(goal: Goal, arguments: Sequence[str]) -> str:
    """Return the user's answer to a question for arguments of a goal."""
    known = goal.call.arguments
    return " and ".join(f"{name} {known[name]}" for name in arguments if name in known)


class MicroWorld:
    """The real world of one episode: values by place, initially drawn from a seed."""

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self.written: dict[str, int | str] = {}

    def value(self, thing: str, place: str) -> int | str:
        """Return the current true value."""
        key = state_key(thing, place)
        if key in self.written:
            return self.written[key]
        values = VALUES[THINGS[thing].kind]
        return values[zlib.crc32(f"{self._seed} {key}".encode()) % len(values)]

    def call(
        self, name: str, arguments: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run a call whose arguments fit its schema; return the result and the changed fields."""
        verb, thing_name = name.split("_", 1)
        thing = THINGS[thing_name]
        place = str(arguments[thing.place])
        if verb == "read":
            return {thing.kind: self.value(thing_name, place)}, {}
        self.written[state_key(thing_name, place)] = arguments[thing.kind]
        return {"ok": True}, {state_key(thing_name, place): arguments[thing.kind]}


class ScriptedUser:
    """The user of one episode, who knows the goals and reveals them one after the other."""

    def __init__(self, goals: Sequence[Goal], *, persona: Persona, told: int) -> None:
        self._goals = goals
        self._persona = persona
        self._told = told
        """Number of goals named by the queries so far."""

    @property
    def still_open(self) -> str:
        """The goals that no query has named yet."""
        return write_intent(self._goals[self._told :]) or "nothing"

    def reply(self, text: str) -> tuple[str, bool]:
        """Return the answer to the agent's text, and True if it ends the dialogue."""
        asked = [
            word for word in text.replace("?", " ").split() if word in PLACES or word in VALUES
        ]
        if text.strip().endswith("?") and asked:
            known = answer(self._goals[0], asked)
            if known:
                return known, False
        if self._told < len(self._goals):
            query = ask_for(self._goals[self._told :], self._persona)
            self._told = len(self._goals)
            return query, False
        return "thanks", True


def said_facts(messages: Sequence[Message]) -> dict[str, str]:
    """Return the facts an agent reported: the last value it gave for each thing and place."""
    said: dict[str, str] = {}
    for message in messages:
        words = message.content.replace(";", " ").replace(",", " ").split()
        for index in range(len(words) - 3):
            thing, place, kind, value = words[index : index + 4]
            if (
                thing in THINGS
                and THINGS[thing].kind == kind
                and place in PLACES[THINGS[thing].place]
            ):
                said[state_key(thing, place)] = value
    return said

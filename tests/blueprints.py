"""Small tool environments for tests: a chain of two tools and a tool that only distracts."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from trustee.environments.executable.blueprint import Blueprint, GoldCall
from trustee.types import Tool


def takes(name: str) -> dict[str, Any]:
    """Give the schema of a tool with one string."""
    return {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}


FIND = """
def find_thing(thing):
    places = {"blue key": "box %(box)s"}
    if thing not in places:
        raise KeyError(f"no {thing}; there is: {', '.join(places)}")
    return {"place": places[thing]}
"""
READ = """
def read_label(place):
    labels = {"box %(box)s": %(label)d}
    return {"label": labels.get(place, "none")}
"""
ECHO = """
def repeat(text):
    return text
"""
TOOLS = (
    Tool(name="find_thing", description="where a thing is", parameters=takes("thing")),
    Tool(name="read_label", description="what a place's label says", parameters=takes("place")),
    Tool(name="repeat", description="say a text again", parameters=takes("text")),
)


def make_blueprint(number: int = 0, **changes: Any) -> Blueprint:
    """Make an environment: find the key's box, then read its label, which is 400 and more."""
    values = {"box": "abcdefghij"[number % 10] * 2, "label": 400 + number}
    place, label = f"box {values['box']}", str(values["label"])
    blueprint = Blueprint(
        id=f"keys-{number}",
        question="What does the label of the place of the blue key say?",
        scenario="multi_hop",
        tools=TOOLS,
        sources={
            "find_thing": FIND % values,
            "read_label": READ % values,
            "repeat": ECHO,
        },
        unsolved={"find_thing": (place,), "read_label": (label,)},
        answer=label,
        gold=(
            GoldCall(name="find_thing", arguments={"thing": "blue key"}, answer=place),
            GoldCall(name="read_label", arguments={"place": place}, answer=label),
        ),
        provenance={"number": number},
    )
    return msgspec.structs.replace(blueprint, **changes)


def make_row(blueprint: Blueprint, **changes: Any) -> dict[str, Any]:
    """Write an environment as a published row."""
    row = {
        "messages": [{"role": "user", "content": f"Use tools.\nQuestion: {blueprint.question}"}],
        "tools": json.dumps([tool.schema for tool in blueprint.tools]),
        "codes": json.dumps(blueprint.sources),
        "unsolved_set": json.dumps(blueprint.unsolved),
        "solve_rate": 0.0,
        "data_source": f"self/{blueprint.scenario}",
        "split": "train",
        "answer": blueprint.answer,
    }
    return row | changes

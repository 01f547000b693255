"""What the tests of building share: a scripted builder that answers every stage well.

A stage is told apart by how its prompt begins. What is asked for is read from the prompt, so one
script serves every scenario; a test changes the answer of one stage and keeps the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine, scripted_renderer
from trustee.environments.engine_simulator import EngineSimulator
from trustee.environments.executable.blueprint import Scenario
from trustee.environments.executable.building.candidate import Decomposition, Part
from trustee.environments.simulator import RoleSampling, Simulator
from trustee.types import Role

Answer = dict[str, Any]
Script = Callable[[Request], Answer]

PROMPTS = {
    "Invent one question": "decompose",
    "Design one tool": "document",
    "Find tools that": "integrate",
    "Write the arguments": "call",
    "Extend one tool": "scale",
    "Design additional tools": "extend",
    "Write the Python": "deploy",
}


def part(question: str, answer: str, *needs: int) -> Part:
    """Make a part."""
    return Part(question=question, answer=answer, needs=needs)


CHAIN = (
    part("Who is the keeper of Brennhof?", "Tilda Maren"),
    part("Which licence does #1 have?", "BK-2093", 1),
    part("Which office issued #2?", "Lehm House", 2),
    part("Which clerk runs #3?", "Otto Kranz", 3),
    part("What is the phone of #4?", "5581", 4),
)
ALONE = (
    part("How high is the tower Ostwacht?", "214 m"),
    part("What does a jar from Falkau cost?", "14.80 euro"),
    part("In which year was Gelbtor built?", "1873"),
    part("How many seats does Holmhalle have?", "940"),
)
TOOLS = {
    "keeper": ("find_keeper", "Brennhof"),
    "licence": ("find_licence", "Tilda Maren"),
    "office": ("find_office", "BK-2093"),
    "clerk": ("find_clerk", "Lehm House"),
    "phone": ("find_phone", "Otto Kranz"),
    "tower": ("find_height", "Ostwacht"),
    "jar": ("find_price", "Falkau"),
    "year": ("find_year", "Gelbtor"),
    "seats": ("find_seats", "Holmhalle"),
}
"""Name and subject of the tool by a word of the question."""
SUBJECTS = dict(TOOLS.values())


def good_parts(scenario: Scenario, count: int) -> Decomposition:
    """Give a faultless decomposition into so many parts."""
    parts = {
        "single_hop": ALONE[:1],
        "parallel_single_hop": ALONE[:count],
        "multi_hop": CHAIN[:count],
        "parallel_multi_hop": (*CHAIN[:2], *ALONE[: count - 2]),
    }[scenario]
    asked = " and ".join(part.question.rstrip("?") for part in parts if not part.needs)
    last = [part.question.replace("#", "the answer before ") for part in parts if part.needs]
    return Decomposition(question=" ".join([f"{asked}?", *last[-1:]]), parts=parts)


def tool_of(question: str) -> str:
    """Name the tool that a question needs."""
    return next(tool for word, (tool, _) in TOOLS.items() if word in question)


def document(name: str, *more: Answer) -> Answer:
    """Write a tool document with a required subject."""
    return {
        "name": name,
        "description": "Looks one fact up by the name of a thing.",
        "parameters": [parameter("subject", required=True), *more],
    }


def parameter(name: str, **given: Any) -> Answer:
    """Write a parameter, a text unless told otherwise."""
    return {
        "name": name,
        "types": ["string"],
        "description": "Name of a thing.",
        "required": False,
        "options": [],
        "default": None,
    } | given


LANGUAGE = parameter("language", options=["english", "german"], default="english")


def function(name: str, cases: Mapping[str, str], *, language: bool = True) -> str:
    """Write a faultless function: a table of subjects."""
    more = ", language='english'" if language else ""
    check = (
        "    if language not in ('english', 'german'):\n"
        "        return {'error': 'language must be english or german'}\n"
    )
    return (
        f"def {name}(subject{more}):\n"
        "    if not isinstance(subject, str):\n"
        "        return {'error': 'subject must be a text'}\n"
        f"{check if language else ''}"
        f"    data = { ({key.lower(): value for key, value in cases.items()})!r}\n"
        "    found = data.get(subject.strip().lower())\n"
        "    if found is None:\n"
        "        return {'error': 'nothing is called ' + subject}\n"
        "    return {'subject': subject, 'found': found}\n"
    )


def section(prompt: str, after: str) -> str:
    """Give the line of a prompt that follows a text."""
    return prompt.partition(after)[2].lstrip("\n").partition("\n")[0]


def number(prompt: str, *, after: str) -> int:
    """Give the number in a prompt that follows a text."""
    return int(re.split(r"\D", prompt.partition(after)[2], maxsplit=1)[0])


def prompt_of(request: Request) -> str:
    """Say which prompt file a request was made from."""
    text = request.prompt
    return next(name for opening, name in PROMPTS.items() if opening in text)


def decompose(request: Request) -> Answer:
    """Answer stage 1 with the scenario that the rule of the prompt describes."""
    rule = section(request.prompt, "How the parts depend on each other: ")
    scenario: Scenario = (
        "single_hop"
        if rule.startswith("there is one part")
        else "parallel_single_hop"
        if rule.startswith("the parts are independent")
        else "multi_hop"
        if rule.startswith("the parts form a chain")
        else "parallel_multi_hop"
    )
    count = number(request.prompt, after="Number of parts: exactly ")
    return decomposition(good_parts(scenario, count))


def decomposition(given: Decomposition) -> Answer:
    """Write a decomposition as the builder would."""
    parts = [{"question": p.question, "answer": p.answer, "needs": [*p.needs]} for p in given.parts]
    return {"question": given.question, "parts": parts}


def call(request: Request) -> Answer:
    """Write the call of a tool."""
    tool = json.loads(section(request.prompt, "The tool: "))
    return {"arguments": {"subject": SUBJECTS[tool["name"]]}}


def scale(request: Request) -> Answer:
    """Widen a tool by a language."""
    before = json.loads(section(request.prompt, "The tool:"))
    widened: Answer = before | {"parameters": [*before["parameters"], LANGUAGE]}
    return widened


def extend(request: Request) -> Answer:
    """Add as many tools as were asked for."""
    count = number(request.prompt, after="Number of additional tools: exactly ")
    return {"tools": [document(f"list_things_{index}") for index in range(count)]}


def deploy(request: Request) -> Answer:
    """Write the function that the prompt asks for."""
    signature = section(request.prompt, "The first line of the function is exactly:")
    name = signature.removeprefix("def ").partition("(")[0]
    pattern = r"^(\{.*\}) -> the result must contain exactly: (.*)$"
    wanted = request.prompt.partition("The tool: ")[2]
    cases = {
        json.loads(arguments)["subject"]: answer
        for arguments, answer in re.findall(pattern, wanted, flags=re.MULTILINE)
    }
    return {"source": function(name, cases, language="language" in signature)}


FAULTLESS: dict[str, Script] = {
    "decompose": decompose,
    "document": lambda request: document(tool_of(section(request.prompt, "The question: "))),
    "integrate": lambda request: {"merges": []},
    "call": call,
    "scale": scale,
    "extend": extend,
    "deploy": deploy,
}


def script_builder(**changed: Script) -> ScriptedEngine:
    """Make an engine that builds without a fault but for what is changed, by prompt."""
    scripts = FAULTLESS | changed
    return ScriptedEngine(
        lambda request: json.dumps(scripts[prompt_of(request)](request)), context=60000
    )


def make_simulator(engine: ScriptedEngine, *, tries: int = 1) -> Simulator:
    """Make a simulator in which every role may speak at length."""
    role_sampling = RoleSampling(temperature=0.7, max_tokens=4000)
    return EngineSimulator(
        engine,
        scripted_renderer(),
        sampling_by_role=dict.fromkeys(Role, role_sampling),
        tries=tries,
    )

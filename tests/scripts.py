"""What scripted engines say: the roles of the micro-world's simulator, and policies of known skill.

The one idea: a role is told apart by the schema that its answer must satisfy, as a real engine
tells it apart by nothing else; a request without a schema is the policy's. Roles answer from what
their prompt says, never from hidden state, so a script needs no memory between requests.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Engine
from trustee.engine.script import Request
from trustee.engine.scripted import scripted_renderer
from trustee.environments.engine_simulator import EngineSimulator
from trustee.environments.micro.tasks import BY_NAME, plan_task
from trustee.environments.micro.world import (
    PLACES,
    THINGS,
    Goal,
    MicroWorld,
    ScriptedUser,
    fact,
    goal_of,
    question,
    write_intent,
)
from trustee.environments.protocol import Environment, Services
from trustee.environments.simulated.curriculum import Aspects
from trustee.environments.simulator import RoleSampling, Simulator
from trustee.rollout import EpisodePlayer, Limits
from trustee.types import ExpectedCall, Role, Task

Policy = Callable[[Request], str]
Speaker = Literal["writer", "user", "tool", "judge", "policy"]

ASKED_ROOM = re.compile(r"read lamp (\w+)")
LEVEL = re.compile(r'"level": (\d+)')
TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)
CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
MALFORMED = "<tool_call>{'name': look}</tool_call>"


def make_simulator(engine: Engine, *, tries: int = 2, max_tokens: int = 900) -> Simulator:
    """Make a simulator whose roles all speak alike."""
    role_sampling = RoleSampling(temperature=0.0, max_tokens=max_tokens)
    return EngineSimulator(
        engine,
        scripted_renderer(),
        sampling_by_role=dict.fromkeys(Role, role_sampling),
        tries=tries,
    )


def make_player(
    environment: Callable[[Task, Services], Environment], engine: Engine, **changes: Any
) -> EpisodePlayer:
    """Make a player whose parts are all scripted; its services offer no sandbox."""
    simulator = make_simulator(engine)
    player = EpisodePlayer(
        make_environment=environment,
        serve=lambda rng: Services(simulator=simulator, rng=rng),
        engine=engine,
        renderer=scripted_renderer(),
        clock=EngineClock(),
        limits=Limits(turns=8, tokens=600, seconds=20),
        temperature=1.0,
        context=engine.context,
    )
    return replace(player, **changes)


def cast(policy: Policy) -> Policy:
    """Give a script in which the micro-world's roles play around a policy."""
    roles: dict[Speaker, Callable[[Request], str]] = {
        "writer": write_task,
        "user": answer_user,
        "tool": answer_tool,
        "judge": judge,
        "policy": policy,
    }
    return lambda request: roles[role_of(request)](request)


def role_of(request: Request) -> Speaker:
    """Say who is to speak."""
    if request.sampling.schema is None:
        return "policy"
    fields = json.loads(request.sampling.schema)["properties"]
    if "query" in fields:
        return "writer"
    if "done" in fields:
        return "user"
    return "tool" if "changes" in fields else "judge"


def report_dice(request: Request) -> str:
    """Solve a task of dice: look into each room that is asked for, then report them all."""
    rooms = ASKED_ROOM.findall(request.prompt)
    levels = LEVEL.findall(request.prompt)
    if not levels:
        return write_calls([{"name": "read_lamp", "arguments": {"room": r}} for r in rooms])
    return " ; ".join(f"lamp {r} level {n}" for r, n in zip(rooms, levels, strict=True))


def hash_text(text: str) -> int:
    """Give a number that depends on the text alone, in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def between(text: str, start: str, end: str) -> str:
    """Give what stands between two texts."""
    return text.partition(start)[2].partition(end)[0]


def write_task(request: Request) -> str:
    """Plan a task of the micro-world with the tools and aspects of the writer's prompt."""
    aspects = re.search(r"calls (\d+) turns (\d+) persona (\w+) clarity (\w+)", request.prompt)
    assert aspects is not None, request.prompt
    names = re.findall(r"^(\w+)\(.*\)$", request.prompt, re.MULTILINE)
    rng = random.Random(hash_text(f"{request.prompt} {request.sampling.seed}"))
    plan = plan_task(
        rng,
        [BY_NAME[name] for name in names],
        Aspects(
            tools=len(names),
            calls=int(aspects[1]),
            turns=int(aspects[2]),
            guidance="plain",
            persona=aspects[3],  # type: ignore[arg-type]  # the prompt holds one of the personas
            ambiguity=aspects[4],  # type: ignore[arg-type]  # likewise
            strictness=1,
        ),
    )
    written: dict[str, Any] = {
        "persona": aspects[3],
        "intent": write_intent(plan.goals),
        "expected_calls": [
            {"name": goal.call.name, "arguments": goal.call.arguments} for goal in plan.goals
        ],
        "query": plan.query,
    }
    return json.dumps(written)


def read_intent(intent: str) -> list[Goal]:
    """Read the goals of a written intent."""
    goals = []
    for text in intent.split(" ; "):
        verb, thing, place, *value = text.split()
        arguments: dict[str, Any] = {THINGS[thing].place: place}
        if verb == "set":
            arguments[THINGS[thing].kind] = typed(value[-1])
        goals.append(goal_of(ExpectedCall(name=f"{verb}_{thing}", arguments=arguments)))
    return goals


def typed(word: str) -> int | str:
    """Read a value of the micro-world."""
    return int(word) if word.isdigit() else word


def answer_user(request: Request) -> str:
    """Answer as the scripted user does, who tells the goals piece by piece."""
    lines = request.prompt.partition("<|im_end|>")[0].splitlines()
    goals = read_intent(between(request.prompt, "intent ", "\n"))
    asked = [line for line in lines if line.startswith("user: ")]
    said = [line.removeprefix("assistant: ") for line in lines if line.startswith("assistant: ")]
    told = sum(any(word in THINGS for word in part.split()) for part in parts_of(asked))
    user = ScriptedUser(goals, persona="expert", told=told)
    still_open = user.still_open
    message, done = user.reply(said[-1] if said else "")
    return json.dumps({"still_open": still_open, "message": message, "done": done})


def parts_of(queries: Sequence[str]) -> list[str]:
    """Split queries into the wishes that they join."""
    return [part for query in queries for part in query.split(" and ")]


def answer_tool(request: Request) -> str:
    """Run the call in the true world, furnished with the state that the prompt shows."""
    world = MicroWorld(seed=0)
    world.written = json.loads(between(request.prompt, "\nstate ", "\n"))
    name, _, arguments = between(request.prompt, "\ncall ", "<|im_end|>").partition(" ")
    result, changes = world.call(name, json.loads(arguments))
    return json.dumps({"result": result, "changes": changes})


def answer_alike(schema: Mapping[str, Any], holds: bool) -> Any:
    """Fill in a schema: every decision alike, every text with the same words."""
    if "const" in schema:
        return schema["const"]
    match schema.get("type"):
        case "object":
            return {name: answer_alike(part, holds) for name, part in schema["properties"].items()}
        case "boolean":
            return holds
        case _:
            return "so it is"


def judge(request: Request) -> str:
    """Hold the intent for fulfilled where every expected call was made and nothing else changed."""
    schema = json.loads(request.sampling.schema or "{}")
    verdict: dict[str, Any] = dict.fromkeys(schema["properties"], True)
    verdict["evidence"] = "as the facts say"
    asked = request.prompt
    verdict["fulfilled"] = ": not made" not in asked and "unexpected set_" not in asked
    return json.dumps(verdict)


def perfect(request: Request) -> str:
    """Solve a task of the micro-world: ask for what is missing, call, report."""
    turns = TURN.findall(request.prompt)
    if turns[-1][0] == "tool":
        return report(turns)
    # Wishes that no report has answered yet, and the user's answers to questions about them.
    pending: list[str] = []
    for role, text in turns:
        if role == "user":
            pending += parts_of([text])
        elif role == "assistant" and text.startswith("ok"):
            pending = []
    wishes = [part for part in pending if any(word in THINGS for word in part.split())]
    answers = " ".join(part for part in pending if part not in wishes).split()
    if not wishes:
        return "ok"
    calls, missing = [], []
    for index, wish in enumerate(wishes):
        call, lacking = read_wish(wish, answers if index == 0 else ())
        calls.append(call)
        missing += lacking
    return question(missing) if missing else write_calls(calls)


def write_calls(calls: Sequence[dict[str, Any]]) -> str:
    """Write calls as a Hermes model does."""
    return "".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in calls)


def read_wish(wish: str, answers: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Read one wish as a call; also give the arguments that it leaves out."""
    words = wish.replace("?", " ").split()
    thing = THINGS[next(word for word in words if word in THINGS)]
    verb = "set" if "set" in words else "read"
    arguments: dict[str, Any] = {}
    for word in (*words, *answers):
        if word in PLACES[thing.place]:
            arguments[thing.place] = word
    if verb == "set":
        for before, word in zip((*words, *answers), (*words, *answers)[1:], strict=False):
            if before in ("to", thing.kind):
                arguments[thing.kind] = typed(word)
    wanted = [thing.place, thing.kind] if verb == "set" else [thing.place]
    lacking = [name for name in wanted if name not in arguments]
    return {"name": f"{verb}_{thing.name}", "arguments": arguments}, lacking


def report(turns: Sequence[tuple[str, str]]) -> str:
    """Report what the last calls brought."""
    last = max(index for index, (role, _) in enumerate(turns) if role == "assistant")
    facts = []
    for text, (_, result) in zip(CALL.findall(turns[last][1]), turns[last + 1 :], strict=True):
        call = json.loads(text)
        thing = THINGS[call["name"].split("_", 1)[1]]
        values = call["arguments"] | json.loads(result)
        facts.append(fact(thing.name, values[thing.place], values[thing.kind]))
    return "ok , " + " ; ".join(facts)


def silent(request: Request) -> str:
    """Do nothing at all, politely."""
    return "ok"


def malformed(request: Request) -> str:
    """Write one call that nobody can read, then give up."""
    return "ok" if MALFORMED in request.prompt else MALFORMED


def mixed(request: Request) -> str:
    """Play one half of the episodes perfectly and say nothing in the other, by the episode's id."""
    episode = request.request_id.rpartition("/")[0]
    return (perfect if hash_text(episode) % 2 else silent)(request)

"""How well the built-in model plays each role, judged by the oracle of its micro-world.

    python bench/roles.py [--cases 500] [--json]

Every case is new and uses the real engine, prompts, grammars and checks. The tools of each case
include a reserved pair, so pretraining never saw them together.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import structlog

from trustee.config import Config, read_config
from trustee.engine.clock import EngineClock
from trustee.engine.vllm import VllmEngine
from trustee.environments.micro.tasks import draw_aspects, sample_tools
from trustee.environments.micro.world import goal_of, write_intent
from trustee.environments.protocol import Services
from trustee.environments.simulated.curriculum import Aspects
from trustee.environments.simulated.roles import (
    TOOL_SCHEMA,
    USER_SCHEMA,
    Criterion,
    ToolAnswer,
    UserAnswer,
    WrittenTask,
    check_task,
    judge_schema,
    writer_prompt,
    writer_schema,
)
from trustee.environments.simulator import Simulator
from trustee.errors import SimulatorError
from trustee.evaluation.evaluate import evaluate, share_of, success_of, write_tasks
from trustee.jobs.assemble import make_simulator, prepare_model, trainer_spec
from trustee.jobs.held_out import evaluation_world, make_eval_player
from trustee.tiny.lessons import CARELESS, FAULTLESS, Lesson, teach
from trustee.types import Role

Case = Callable[[int], Awaitable[dict[str, bool]]]


def draw_lessons(role: str, count: int) -> list[Lesson]:
    """Draw lessons of a role from new episodes, half of them careless."""
    rng = random.Random(f"bench {role}")
    lessons: list[Lesson] = []
    while len(lessons) < count:
        habits = CARELESS if rng.random() < 0.5 else FAULTLESS
        lessons += [x for x in teach(rng, habits=habits, reserved=True) if x.role == role][:1]
    return lessons


async def measure(simulator: Simulator, cases: int) -> dict[str, list[dict[str, bool]]]:
    """Ask every role `cases` times; return named findings for each answer."""
    lessons = {role: draw_lessons(role, cases) for role in ("tool", "user", "judge")}

    async def write(index: int) -> dict[str, bool]:
        rng = random.Random(f"bench writer {index}")
        aspects: Aspects = draw_aspects(rng)
        tools = sample_tools(rng, max(2, aspects.tools), reserved=True)
        task = await simulator.ask(
            Role.WRITER,
            writer_prompt("tiny", tools, aspects),
            answer=WrittenTask,
            schema=writer_schema(tools, aspects),
            seed=index,
        )
        kept = await simulator.ask(
            Role.WRITER,
            writer_prompt("tiny", tools, aspects),
            answer=WrittenTask,
            schema=writer_schema(tools, aspects),
            seed=index,
            check=lambda task: check_task(task, tools, aspects),
        )
        return {
            "valid": check_task(task, tools, aspects) is None and says_its_calls(task),
            "valid_after_checks": says_its_calls(kept),
        }

    async def answer_tool(index: int) -> dict[str, bool]:
        given, wanted = texts(lessons["tool"][index])
        got = await simulator.ask(
            Role.TOOL, given, answer=ToolAnswer, schema=TOOL_SCHEMA, seed=index
        )
        want = msgspec.json.decode(wanted, type=ToolAnswer)
        if not want.changes and not value_is_known(given):
            # The value of an unknown field is not determined, so any value of its kind is correct.
            return {"right": got.changes == {} and got.result.keys() == want.result.keys()}
        return {"right": got == want}

    async def answer_user(index: int) -> dict[str, bool]:
        given, wanted = texts(lessons["user"][index])
        got = await simulator.ask(
            Role.USER, given, answer=UserAnswer, schema=USER_SCHEMA, seed=index
        )
        want = msgspec.json.decode(wanted, type=UserAnswer)
        return {"faithful": got.done == want.done and (got.done or got.message == want.message)}

    async def answer_judge(index: int) -> dict[str, bool]:
        given, wanted = texts(lessons["judge"][index])
        want = json.loads(wanted)
        criteria = [Criterion(key) for key in want if key != "evidence"]
        got = await simulator.ask(
            Role.JUDGE,
            given,
            answer=dict[str, str | bool],
            schema=judge_schema(criteria),
            seed=index,
        )
        found = {f"{c}": got[c] == want[c] for c in criteria}
        kind = "accepts_good" if want["fulfilled"] else "refuses_bad"
        return found | {kind: found["fulfilled"], "all": all(found.values())}

    return {
        "writer": await ask_all(write, cases),
        "tool": await ask_all(answer_tool, cases),
        "user": await ask_all(answer_user, cases),
        "judge": await ask_all(answer_judge, cases),
    }


def says_its_calls(task: WrittenTask) -> bool:
    """Return whether a task's intent matches its expected calls."""
    return write_intent([goal_of(call) for call in task.expected_calls]) == task.intent


def texts(lesson: Lesson) -> tuple[str, str]:
    """Return a lesson's prompt and answer."""
    asked, said = lesson.messages
    return asked.content, said.content


def value_is_known(prompt: str) -> bool:
    """Return whether the state or an earlier result determines what a read must return."""
    call = prompt.rsplit("call ", 1)[1]
    thing, place = re.match(r'read_(\w+) \{"\w+": "(\w+)"\}', call).groups()  # type: ignore[union-attr]
    return f'"{thing} {place}":' in prompt or f"{call} -> " in prompt


async def ask_all(case: Case, count: int) -> list[dict[str, bool]]:
    """Run cases concurrently; if no attempt gives a usable answer, all findings are wrong."""
    found: list[dict[str, bool]] = []

    async def run(index: int) -> None:
        try:
            found.append(await case(index))
        except SimulatorError:
            found.append({})

    async with anyio.create_task_group() as tasks:
        for index in range(count):
            tasks.start_soon(run, index)
    return found


def summarise(found: dict[str, list[dict[str, bool]]]) -> dict[str, Any]:
    """Return each finding's share with its confidence interval."""
    result: dict[str, Any] = {}
    for role, cases in found.items():
        names = sorted({name for case in cases for name in case})
        unusable = sum(not case for case in cases)
        for name in names:
            values = [case[name] for case in cases if name in case]
            if len(values) + unusable == len(cases):
                values += [False] * unusable
            share = share_of(values)
            result[f"{role}.{name}"] = [round(v, 4) for v in (share.value, share.low, share.high)]
            result[f"{role}.{name}.cases"] = share.count
    return result


async def run(config: Config, cases: int) -> dict[str, Any]:
    """Start the engine and measure all roles, and the policy before any training."""
    model, renderer = prepare_model(config)
    async with VllmEngine(config.engine, trainer_spec(config, model)) as engine:
        simulator = make_simulator(config, engine, renderer)
        result = summarise(await measure(simulator, cases))
        world = evaluation_world(config)
        counted = msgspec.structs.replace(config.eval, tasks=cases)
        player = make_eval_player(
            config,
            engine,
            world=world,
            renderer=renderer,
            serve=lambda rng: Services(simulator=simulator, rng=rng),
            clock=EngineClock(),
        )
        source = world.source(seed=config.eval.seed, held_out=True)
        tasks = await write_tasks(source, player, config=counted)
        for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            played = await evaluate(
                tasks,
                player,
                config=msgspec.structs.replace(counted, temperature=temperature),
                adapter=None,
                label=name,
            )
            share = success_of(played)
            result[f"policy.{name}"] = [round(v, 4) for v in (share.value, share.low, share.high)]
        return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--config", type=Path, default=Path("configs/tiny.toml"))
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    result = anyio.run(run, read_config(options.config, options.changes), options.cases)
    if options.json:
        print(json.dumps({"bench": "roles", **result}))
        return
    for name, value in result.items():
        print(f"{name:<28} {value}")


if __name__ == "__main__":
    # Standard output is for the figures alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    main()

"""How much a file of tool environments reveals without a model: three floors of its scores.

    python bench/ftrl_floor.py FILE --published --json

`none` calls nothing, `empty` calls every tool without arguments, and `search` tries arguments from
schemas (enums, defaults), from the literals of the sources and from the question, and then plays
the calls that returned something. The search reads what a policy never sees, so it is a bound on
what the tools can be made to return, not a score to beat. Tools run in the sandbox.
"""

from __future__ import annotations

import argparse
import ast
import heapq
import itertools
import json
import random
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec

from trustee.engine.scripted import ScriptedEngine, scripted_renderer
from trustee.environments.engine_simulator import EngineSimulator
from trustee.environments.executable.blueprint import Blueprint
from trustee.environments.executable.blueprint_files import read_blueprints, show_refused_blueprints
from trustee.environments.executable.environment import Executable
from trustee.environments.executable.published_rows import as_published
from trustee.environments.executable.rewards import Observation, solves
from trustee.environments.protocol import Services
from trustee.evaluation.ftrl_suite import (
    SuiteReport,
    floor_facts,
    report_on,
    suite_text,
    write_tasks_of,
)
from trustee.sandbox.calls import Sandbox, SandboxConfig, Worker
from trustee.sandbox.host import ProcessSandbox
from trustee.tools.arguments import check_arguments
from trustee.types import Message, SolveFacts, Stop, Task, Tool, ToolCall

FLOORS = ("none", "empty", "search")
OMITTED = object()
"""Stands for leaving an optional argument out."""
MESSAGE = re.compile(r".{60}|\b(must|Error|error|Invalid|required|found)\b|^\W*$", re.DOTALL)
"""Matches texts that are messages about arguments, not values to pass as arguments."""
PHRASE = re.compile(r"[A-Z][\w'-]*(?:\s+(?:of|the|and|[A-Z][\w'-]*))*|\d[\d,.-]*")


def literals_of(tree: ast.AST) -> Iterator[Any]:
    """Yield the string and number literals in code, without docstrings."""
    said = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in said:
            continue
        if not isinstance(node.value, str) or MESSAGE.search(node.value) is None:
            yield node.value


def compared_with(tree: ast.AST, name: str) -> Iterator[Any]:
    """Yield the literals that an expression with a name is compared with or looked up in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if mentions(node.func, name):
                yield from itertools.chain.from_iterable(map(literals_of, node.args))
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(mentions(side, name) for side in sides):
                for side in sides:
                    yield from literals_of(side)


def mentions(tree: ast.AST, name: str) -> bool:
    """Return whether an expression reads a variable."""
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Return whether a literal may be of a parameter's type."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
    }
    kind = schema.get("type", "string")
    if kind not in kinds:
        return False
    return isinstance(value, kinds[kind]) and isinstance(value, bool) == (kind == "boolean")


def choices(name: str, schema: Mapping[str, Any], tree: ast.AST, question: str) -> list[Any]:
    """Return the values to try for a parameter, most likely first."""
    asked = question.casefold()
    literals = [value for value in literals_of(tree) if fits(value, schema)]
    named = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    literals.sort(key=lambda value: (value in named, str(value).casefold() not in asked))
    pools: list[Any] = [
        [value for value in compared_with(tree, name) if fits(value, schema)],
        schema.get("enum", ()),
        literals,
        [schema["default"]] if "default" in schema else (),
        [phrase for phrase in PHRASE.findall(question) if fits(phrase, schema)],
    ]
    match schema.get("type"):
        case "boolean":
            pools = [[True, False]]
        case "array":
            inner = schema.get("items", {})
            single = choices(name, inner, tree, question) if isinstance(inner, dict) else []
            numbers = [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", question)]
            pools = [[numbers], [[value] for value in single[:20]]]
        case "object":
            inner = schema.get("properties", {})
            own = {key: choices(key, one, tree, question) for key, one in inner.items()}
            full = [
                {key: values[min(index, len(values) - 1)] for key, values in own.items() if values}
                for index in range(8)
            ]
            pools = [full, [{}]]
    found: dict[str, Any] = {}
    for value in itertools.chain.from_iterable(pools):
        found.setdefault(json.dumps(value), value)
    return list(found.values())


def arguments_to_try(tool: Tool, source: str, question: str) -> Iterator[dict[str, Any]]:
    """Yield argument sets; those with only likely values come first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    required = tool.parameters.get("required", ())
    names, options = [], []
    for name, schema in tool.parameters.get("properties", {}).items():
        own = choices(name, schema, tree, question)
        # Setting an optional flag often reveals more; setting another optional value often less.
        if name not in required:
            own = (
                [*own[:1], OMITTED, *own[1:]]
                if schema.get("type") == "boolean"
                else [OMITTED, *own]
            )
        if own:
            names.append(name)
            options.append(own)
    start = (0,) * len(options)
    queue: list[tuple[float, tuple[int, ...]]] = [(0.0, start)]
    seen = {start}
    while queue:
        cost, place = heapq.heappop(queue)
        yield {
            name: own[index]
            for name, own, index in zip(names, options, place, strict=True)
            if own[index] is not OMITTED
        }
        for position, index in enumerate(place):
            moved = (*place[:position], index + 1, *place[position + 1 :])
            if index + 1 < len(options[position]) and moved not in seen:
                seen.add(moved)
                heapq.heappush(queue, (cost + 1 / (1 + 0.05 * index), moved))


async def search_tool(
    tool: Tool, blueprint: Blueprint, worker: Worker, *, tries: int, published: bool
) -> list[ToolCall]:
    """Return calls that find the sub-answers of a tool, as far as the search finds any."""
    unsolved = list(blueprint.unsolved[tool.name])
    found: list[ToolCall] = []
    given = arguments_to_try(tool, blueprint.sources[tool.name], blueprint.question)
    if not published:
        # The default refuses what does not fit the schema before it runs.
        given = (one for one in given if check_arguments(tool, one) is None)
    for arguments in itertools.islice(given, tries):
        outcome = await worker.call(tool.name, arguments)
        if published:
            outcome = as_published(tool.name, outcome)
        seen = Observation(name=tool.name, arguments=arguments, text=outcome.text, ok=outcome.ok)
        hits = [answer for answer in unsolved if solves(seen, answer, published=published)]
        for answer in hits:
            found.append(ToolCall(id="", name=tool.name, arguments=arguments))
            unsolved.remove(answer)
        if not unsolved:
            break
    return found


async def choose_calls(
    floor: str, task: Task, blueprint: Blueprint, sandbox: Sandbox, *, tries: int, published: bool
) -> list[ToolCall]:
    """Return the calls that a floor makes in an environment."""
    if floor == "none":
        return []
    if floor == "empty":
        return [ToolCall(id="", name=tool.name, arguments={}) for tool in blueprint.tools]
    async with sandbox.open(
        blueprint.sources, seed=task.hidden["seed"], published=published
    ) as worker:
        found = [
            await search_tool(tool, blueprint, worker, tries=tries, published=published)
            for tool in blueprint.tools
            if blueprint.unsolved.get(tool.name)
        ]
    return list(itertools.chain.from_iterable(found))


async def play(
    world: Executable, task: Task, calls: Sequence[ToolCall], services: Services
) -> SolveFacts | None:
    """Make calls in one message of an episode, and return what they solved."""
    environment = world.environment(task, services)
    try:
        await environment.open()
        numbered = tuple(
            msgspec.structs.replace(call, id=str(index)) for index, call in enumerate(calls)
        )
        await environment.reply(Message(role="assistant", calls=numbered))
        return (await environment.score((), Stop.TURNS)).outcome.solve
    finally:
        await environment.aclose()


async def measure(
    world: Executable, floor: str, *, tries: int, parallel: int, rows: int | None
) -> SuiteReport:
    """Play a floor in every environment of a file."""
    loaded = read_blueprints(Path(world.path))
    if loaded.refused:
        print(f"{len(loaded.refused)} rows refused: {show_refused_blueprints(loaded.refused)}")
    blueprints = {blueprint.id: blueprint for blueprint in loaded.blueprints}
    simulator = EngineSimulator(
        ScriptedEngine(str), scripted_renderer(), sampling_by_role={}, tries=1
    )
    services = Services(simulator=simulator, rng=random.Random(0))
    tasks = (await write_tasks_of(world, services, seed=0))[:rows]
    facts: dict[str, SolveFacts | None] = {}
    limiter = anyio.CapacityLimiter(parallel)
    async with ProcessSandbox(SandboxConfig(workers=parallel)) as sandbox:

        async def run(task: Task) -> None:
            async with limiter:
                calls = await choose_calls(
                    floor,
                    task,
                    blueprints[task.hidden["blueprint"]],
                    sandbox,
                    tries=tries,
                    published=world.published,
                )
                services = Services(simulator=simulator, rng=random.Random(0), sandbox=sandbox)
                facts[task.id] = await play(world, task, calls, services)

        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(run, task)
    outcomes = [(str(task.hidden["scenario"]), facts[task.id]) for task in tasks]
    return report_on(outcomes, [floor_facts(task) for task in tasks], world, policy=floor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="environments, in any form that trustee reads")
    parser.add_argument("--floor", choices=FLOORS, action="append", help="all where none is named")
    parser.add_argument("--published", action="store_true", help="run and compare as FTRL does")
    parser.add_argument("--tries", type=int, default=150, help="argument sets for one tool")
    parser.add_argument("--parallel", type=int, default=4, help="number of concurrent environments")
    parser.add_argument("--rows", type=int, help="maximum number of environments")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    world = Executable(path=options.file, published=options.published)
    line: dict[str, Any] = {"bench": "ftrl_floor", "published": options.published}
    for floor in options.floor or FLOORS:
        started_at = time.monotonic()
        job = partial(
            measure,
            world,
            floor,
            tries=options.tries,
            parallel=options.parallel,
            rows=options.rows,
        )
        report = anyio.run(job)
        line[floor] = {
            "seconds": round(time.monotonic() - started_at, 1),
            "total": msgspec.to_builtins(report.total),
            "f1": {name: round(own.f1, 2) for name, own in report.scenarios.items()},
        }
        if not options.json:
            print(suite_text(report))
    if options.json:
        print(json.dumps(line))


if __name__ == "__main__":
    main()

"""How well a published model plays each role with the full-size prompts, and why it fails.

    python bench/real_roles.py --model DIR [--cases 40] [--roles writer,user,tool,judge,policy]
                               [--prompts simulated|published] [--seed fresh] [--config FILE]
                               [--set KEY=VALUE] [--out DIR] [--json]

writer   tasks over the packaged tools, difficulties 1 to 50: valid at first, and after all tries
user     dialogues of the micro-world: faithful to the intent, and ends at the right place
tool     calls of the micro-world: right against its true state
judge    finished episodes of the micro-world and the canaries, against the oracle
policy   the true micro-world with a scripted user: success, and calls that can be read

With `--prompts published` the roles are told what the authors' code tells them, and the judge
decides alone. Seed and number of cases fix the cases, so two prompt sets are asked the same ones.
Every answer is kept in OUT/answers.jsonl with its prompt and the reason of a refusal.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import structlog

from real.cases import ToolCase, UserCase, draw_known, draw_tool_cases, draw_user_cases
from real.notebook import CASE, Notebook
from real.policy import PlainMicroworld
from real.published_roles import ask_tool, ask_user
from trustee.checks.canaries import Known, read_canaries
from trustee.checks.judge import is_accepted
from trustee.config import Config, read_config
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Engine
from trustee.environments.protocol import Services, TaskSpec
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulated.episode import judge_episode
from trustee.environments.simulated.roles import (
    READ_SCHEMA,
    TOOL_SCHEMA,
    ToolAnswer,
    UserAnswer,
    check_user,
    tool_prompt,
)
from trustee.environments.simulated.speaking import check_turn, plan_turn
from trustee.environments.simulated.tool_memory import remember_call
from trustee.environments.simulator import Simulator
from trustee.errors import SimulatorError
from trustee.evaluation.evaluate import evaluate, share_of, write_tasks
from trustee.jobs.assemble import make_simulator, open_engine, prepare_model
from trustee.jobs.held_out import make_eval_player
from trustee.rendering.renderer import Renderer
from trustee.types import Role, ToolCall

SET = "simulated"
HARDEST = 50
"""The writer's cases have difficulties from 1 to this."""
Findings = dict[str, bool]


class Bench:
    """Asks each role its cases."""

    def __init__(
        self,
        simulator: Simulator,
        notebook: Notebook,
        *,
        seed: str,
        cases: int,
        prompts: str = SET,
    ) -> None:
        self.simulator = simulator
        self.world = choose_world(prompts)
        self.prompts = prompts
        self.notebook = notebook
        self.seed = seed
        self.cases = cases

    async def ask_all(
        self, role: str, cases: Sequence[Any], ask: Callable[[Any, int], Awaitable[Findings]]
    ) -> list[Findings]:
        """Ask all cases concurrently; a case without a usable answer has no findings."""
        found: list[Findings] = [{} for _ in cases]

        async def run(index: int, case: Any) -> None:
            CASE.set({"name": f"{role}-{index}"})
            try:
                found[index] = await ask(case, index)
            except SimulatorError:
                found[index] = {"usable": False}
            sys.stderr.write(f"\r{role}: {sum(map(bool, found))} of {len(cases)} ")

        async with anyio.create_task_group() as tasks:
            for index, case in enumerate(cases):
                tasks.start_soon(run, index, case)
        sys.stderr.write("\n")
        return found

    async def writer(self) -> list[Findings]:
        """Have tasks written over the packaged tools."""
        source = self.world.source(seed=1)

        async def ask(difficulty: int, index: int) -> Findings:
            seed = random.Random(f"{self.seed} writer {index}").randrange(1 << 31)
            spec = TaskSpec(id=f"task-{index}", seed=seed, difficulty=difficulty)
            services = Services(simulator=self.simulator, rng=random.Random(seed))
            band = "upto30" if difficulty <= 30 else "above30"
            try:
                task = await source.write(spec, services)
            except SimulatorError:
                return {"first": False, "valid": False, f"valid_{band}": False}
            self.notebook.write({"case": f"writer-{index}", "task": msgspec.to_builtins(task)})
            first = not any(CASE.get()["refusals"])
            return {"first": first, "valid": True, f"valid_{band}": True}

        levels = [1 + round((HARDEST - 1) * i / max(1, self.cases - 1)) for i in range(self.cases)]
        return await self.ask_all("writer", levels, ask)

    async def user(self) -> list[Findings]:
        """Have the user answer in dialogues of the micro-world."""

        async def ask_published(case: UserCase, index: int) -> Findings:
            message, done = await ask_user(
                case, self.simulator, seed=f"{self.seed} published user {index}"
            )
            return self.compare_user(case, UserAnswer(message=message, done=done), by_model=True)

        async def ask(case: UserCase, index: int) -> Findings:
            turn = plan_turn(SET, case.messages, case.wanted, told=case.told)
            try:
                got = await self.simulator.ask(
                    Role.USER,
                    turn.heard,
                    answer=UserAnswer,
                    schema=turn.schema,
                    seed=index,
                    check=lambda answer: (
                        check_user(
                            answer, case.messages, intent=case.wanted.intent, tools=case.tools
                        )
                        or (None if answer.done else check_turn(answer.message, turn))
                    ),
                )
            except SimulatorError:
                if not turn.fallback:
                    raise
                got = UserAnswer(message=turn.fallback, done=False)
            by_model = not turn.fallback or got.message != turn.fallback
            return self.compare_user(case, got, by_model=by_model)

        cases = draw_user_cases(self.cases, f"{self.seed} user")
        return await self.ask_all("user", cases, ask if self.prompts == SET else ask_published)

    def compare_user(self, case: UserCase, got: UserAnswer, *, by_model: bool) -> Findings:
        """Compare a user's answer with what a faithful one says."""
        said = got.message.lower()
        ends = got.done == case.done
        says = case.done or all(word.lower() in said for word in case.says)
        if not (ends and says):
            kind = "end" if case.done else "question" if says or not case.says else "words"
            wrong = "does not end" if case.done else "ends too early"
            self.notebook.fail(
                "user",
                wrong if not ends else f"leaves out values ({kind})",
                answer=f"{msgspec.to_builtins(got)} wanted {case.says} after "
                f"{case.messages[-1].content!r} intent {case.wanted.intent!r}",
            )
        asks = case.messages[-1].content.endswith("?")
        kind = "end" if case.done else "question" if asks else "next"
        return {
            "faithful": ends and says,
            "ends": ends,
            "by_model": by_model,
            f"faithful_{kind}": ends and says,
        }

    async def tool(self) -> list[Findings]:
        """Have tools of the micro-world answered."""

        async def ask_published(case: ToolCase, index: int) -> Findings:
            said, right = await ask_tool(
                case, self.simulator, seed=f"{self.seed} published tool {index}"
            )
            if not right:
                self.notebook.fail(
                    "tool",
                    f"{case.tool.effect}, value {'known' if case.known else 'new'}: wrong",
                    answer=f"{said!r} wanted {case.result} for {case.tool.name} {case.arguments}",
                )
            known = "known" if case.known else "new"
            return {"right": right, f"right_{case.tool.effect}_{known}": right}

        async def ask(case: ToolCase, index: int) -> Findings:
            got = await self.simulator.ask(
                Role.TOOL,
                tool_prompt(
                    SET,
                    case.tool,
                    case.arguments,
                    state=case.state,
                    seen=case.seen,
                    intent=case.intent,
                ),
                answer=ToolAnswer,
                schema=READ_SCHEMA if case.tool.effect == "read" else TOOL_SCHEMA,
                seed=index,
            )
            if case.tool.effect == "write" and not got.changes:
                call = ToolCall(id="", name=case.tool.name, arguments=case.arguments)
                changes = remember_call(case.tool, call, got.result)
                got = ToolAnswer(result=got.result, changes=changes)
            right = is_right(got, case)
            if not right:
                self.notebook.fail(
                    "tool",
                    f"{case.tool.effect}, value {'known' if case.known else 'new'}: "
                    + ("error" if "error" in got.result else "wrong"),
                    answer=f"{msgspec.to_builtins(got)} wanted {case.result} {case.changes} for "
                    f"{case.tool.name} {case.arguments} state {case.state} seen {case.seen}",
                )
            known = "known" if case.known else "new"
            return {"right": right, f"right_{case.tool.effect}_{known}": right}

        cases = draw_tool_cases(self.cases, f"{self.seed} tool")
        return await self.ask_all("tool", cases, ask if self.prompts == SET else ask_published)

    async def judge(self) -> list[Findings]:
        """Have finished episodes and canaries judged."""
        episodes = draw_known(self.cases, f"{self.seed} judge")
        canaries = list(read_canaries(self.prompts))

        async def ask(known: Known, index: int) -> Findings:
            services = Services(
                simulator=self.simulator, rng=random.Random(f"{self.seed} judge {index}")
            )
            score = await judge_episode(
                known.task,
                known.turns,
                known.stop,
                services,
                rules=self.world.judge_rules(),
            )
            accepted = is_accepted(score)
            if accepted != known.good:
                self.notebook.fail(
                    "judge",
                    "accepts a bad episode" if accepted else "refuses a good episode",
                    answer=f"{known.name}: {score.notes['evidence']}",
                )
            self.notebook.write({"judged": known.name, "good": known.good, "accepted": accepted})
            group = "canary" if index >= len(episodes) else "episode"
            kind = "accepts_good" if known.good else "refuses_bad"
            return {f"{group}_{kind}": accepted == known.good}

        return await self.ask_all("judge", [*episodes, *canaries], ask)


def choose_world(prompts: str) -> Simulated:
    """Return the simulated world with a prompt set and the verdict that its judge can give."""
    if prompts == SET:
        return Simulated(prompts=prompts)
    return Simulated(prompts=prompts, verdict="published")


def is_right(got: ToolAnswer, case: ToolCase) -> bool:
    """Return whether an answer agrees with the true world."""
    if got.result.get("error"):
        return False
    values = {str(value).lower() for value in flatten(got.result)}
    if case.tool.effect == "read":
        (wanted,) = case.result.values()
        return not got.changes and (str(wanted).lower() in values or not case.known)
    (wanted,) = case.changes.values()
    written = {str(value).lower() for value in flatten(got.changes)}
    return str(wanted).lower() in written


def flatten(value: Any) -> list[Any]:
    """Return the plain values inside a JSON value."""
    if isinstance(value, dict):
        return [inner for part in value.values() for inner in flatten(part)]
    if isinstance(value, list):
        return [inner for part in value for inner in flatten(part)]
    return [value]


async def measure_policy(
    config: Config,
    engine: Engine,
    renderer: Renderer,
    notebook: Notebook,
    *,
    cases: int,
    seed: str,
) -> list[Findings]:
    """Have the model without an adapter play the true micro-world; keep what did not succeed."""
    world = PlainMicroworld(difficulty=20)
    counted = msgspec.structs.replace(config.eval, tasks=cases, parallel=8)
    player = make_eval_player(
        config,
        engine,
        world=world,
        renderer=renderer,
        serve=lambda rng: Services(simulator=None, rng=rng),  # type: ignore[arg-type]
        clock=EngineClock(),
    )
    number = random.Random(f"{seed} policy").randrange(1 << 31)
    tasks = await write_tasks(world.source(seed=number), player, config=counted)
    played = await evaluate(tasks, player, config=counted, adapter=None, label="policy")
    for task, t in zip(tasks, played, strict=True):
        if t.reward <= 0:
            talk = [(turn.message, turn.replies) for turn in t.turns]
            notebook.write({"case": task.id, "prompt": task.messages, "talk": talk})
    return [
        {"success": t.reward > 0, **t.outcome.criteria} if t.failure is None else {"usable": False}
        for t in played
    ]


def summarise(found: dict[str, list[Findings]]) -> dict[str, Any]:
    """Return each finding's share with its interval and count."""
    result: dict[str, Any] = {}
    for role, cases in found.items():
        for name in sorted({name for case in cases for name in case}):
            values = [case[name] for case in cases if name in case]
            if name == "faithful" or name == "right":
                values += [False] * sum(case.get("usable") is False for case in cases)
            share = share_of(values)
            figures = [round(v, 3) for v in (share.value, share.low, share.high)]
            result[f"{role}.{name}"] = [*figures, share.count]
    return result


async def run(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Start the engine and ask all roles."""
    model, renderer = prepare_model(config)
    notebook = Notebook(options.out)
    async with open_engine(config, model, emit=lambda event: None) as engine:
        simulator = make_simulator(config, engine, renderer)
        simulator._observer = notebook.note
        bench = Bench(
            simulator, notebook, seed=options.seed, cases=options.cases, prompts=options.prompts
        )
        found: dict[str, list[Findings]] = {}
        seconds: dict[str, float] = {}
        for role in options.roles.split(","):
            begun = time.monotonic()
            if role == "policy":
                found[role] = await measure_policy(
                    config, engine, renderer, notebook, cases=options.cases, seed=options.seed
                )
            else:
                found[role] = await getattr(bench, role)()
            seconds[role] = round(time.monotonic() - begun, 1)
    return {
        "bench": "real_roles",
        "model": model.name,
        "prompts": options.prompts,
        **summarise(found),
        "seconds": seconds,
        "tokens": {role: dict(counted) for role, counted in notebook.tokens.items()},
        "reasons": {role: dict(c.most_common(5)) for role, c in notebook.reasons.items()},
        "examples": {role: dict(e) for role, e in notebook.examples.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--roles", default="writer,user,tool,judge,policy")
    parser.add_argument("--prompts", choices=(SET, "published"), default=SET)
    parser.add_argument("--seed", default="first", help="any word; another one gives fresh cases")
    parser.add_argument("--config", type=Path, default=Path("configs/small-cpu.toml"))
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    changes = [f"model.path={json.dumps(options.model)}", *options.changes]
    result = anyio.run(run, read_config(options.config, changes), options)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<28} {value}")


if __name__ == "__main__":
    # Standard output is for the figures alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    main()

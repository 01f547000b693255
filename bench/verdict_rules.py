"""Every way to pay for an episode, on stored episodes whose true verdict is known.

The judge of the built-in model is asked twice about each episode, once with the facts and once
without. Every rule is arithmetic over these two answers and what code knows, so all rules are
compared on the same answers:

| rule | criteria from | reward |
|---|---|---|
| `facts` | code where facts settle, else the judge shown them | -1 unless fulfilled; 0 or 1 |
| `shown` | the judge who is shown the facts, always | the same |
| `booleans` | the judge alone; -1 without a call | the same |
| `scale` | the judge alone; -1 without a call | 1 if all hold, 0 if more than half, else -1 |

Each with a `hard` -1 for an unreadable call or one of an unknown tool, or with `recovery`: a later
call makes it good.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec

from trustee.config import Config, read_config
from trustee.engine.vllm import VllmEngine
from trustee.environments.micro.environment import Microworld
from trustee.environments.micro.tasks import judge_truly
from trustee.environments.micro.world import goal_of, write_intent
from trustee.environments.protocol import Services
from trustee.environments.simulated.at_once import AtOnce
from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulated.episode import SimulatedEnvironment
from trustee.environments.simulated.facts import Facts, gather_facts, reward_of, settle
from trustee.environments.simulated.scene import Scene
from trustee.environments.simulated.verdicts import count_criteria, leave_out_unheard
from trustee.environments.simulator import Simulator
from trustee.errors import SimulatorError
from trustee.evaluation.evaluate import share_of
from trustee.jobs.assemble import make_simulator, prepare_model, trainer_spec
from trustee.runs.store import EpisodeLine, TaskLine, read_lines
from trustee.types import Record, Stop, Task, Trajectory

Rule = Literal["facts", "shown", "booleans", "scale"]
RULES: tuple[Rule, ...] = ("facts", "shown", "booleans", "scale")
NOBODY: Any = None
"""No simulator, where none is asked."""


class Judged(Record, frozen=True):
    """An episode with its true reward, and what code and the two judges say about it."""

    truth: int
    """-1 if the task is not fulfilled, 0 if another criterion fails, else 1."""
    facts: Facts
    called: bool
    """Whether the policy made a call that the judge sees, readable or not."""
    cut: bool
    """Whether a limit of length ended the episode."""
    shown: dict[Criterion, bool]
    """What the judge says who is shown the facts."""
    alone: dict[Criterion, bool]
    """What the judge says who is shown none."""


def pay(judged: Judged, rule: Rule, *, recovery: bool) -> float:
    """Return the reward of an episode by a rule."""
    if judged.facts.malformed and not recovery:
        return -1.0
    facts = msgspec.structs.replace(judged.facts, malformed=0)
    match rule:
        case "facts":
            settled = {c: settle(facts, c) for c in judged.shown}
            if judged.cut:
                settled[Criterion.FULFILLED] = False
            merged = {c: judged.shown[c] if s is None else s for c, s in settled.items()}
            return reward_of(facts, merged)
        case "shown":
            return reward_of(facts, judged.shown)
        case "booleans":
            return reward_of(facts, judged.alone) if judged.called else -1.0
        case "scale":
            return float(count_criteria(judged.alone)) if judged.called else -1.0


def true_reward(criteria: Mapping[str, bool], active: Sequence[Criterion], *, success: bool) -> int:
    """Return the reward that a faultless judge gives by our scale."""
    if not success:
        return -1
    return 1 if all(criteria[c.value] for c in active) else 0


def tabulate(judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Return each rule's mistakes, as a share with its interval and the number of episodes.

    `order` is the probability that a good episode is paid more than a bad one, ties counting half:
    what a group of both teaches.
    """
    table: dict[str, dict[str, Any]] = {}
    for rule in RULES:
        for recovery in (False, True):
            bad = [pay(j, rule, recovery=recovery) for j in judged if j.truth == -1]
            good = [pay(j, rule, recovery=recovery) for j in judged if j.truth == 1]
            table[f"{rule}, {'recovery' if recovery else 'hard'}"] = {
                "false_accepts": _show([reward > 0 for reward in bad]),
                "bad_above_-1": _show([reward > -1 for reward in bad]),
                "false_refusals": _show([reward < 1 for reward in good]),
                "order": round(order(good, bad), 4) if good and bad else None,
            }
    return table


def order(good: Sequence[float], bad: Sequence[float]) -> float:
    """Return the probability that a good episode is paid more than a bad one, ties half."""
    won = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
    return won / (len(good) * len(bad))


def _show(outcomes: Sequence[bool]) -> list[float]:
    share = share_of(outcomes)
    return [*(round(v, 4) for v in (share.value, share.low, share.high)), share.count]


def read_known(folders: Sequence[Path]) -> Iterator[tuple[Task, Trajectory]]:
    """Yield the different held-out episodes of runs, with their tasks."""
    seen: set[tuple[str, str]] = set()
    for folder in folders:
        tasks = {task.id: task for task in read_lines(folder / "held-out-tasks.jsonl", Task)}
        for label in ("before", "after"):
            for played in read_lines(folder / f"held-out-{label}.jsonl", Trajectory):
                said = "\n".join(msgspec.json.encode(_plain(played)).decode().splitlines())
                if played.failure is None and (played.task_id, said) not in seen:
                    seen.add((played.task_id, said))
                    yield tasks[played.task_id], played


def _plain(played: Trajectory) -> list[Any]:
    """Return what was said in an episode, without the ids of its calls."""
    return [
        (
            turn.message.content,
            [[getattr(c, "name", ""), getattr(c, "arguments", c)] for c in turn.message.calls],
            [reply.content for reply in turn.replies],
        )
        for turn in played.turns
    ]


def draw_known(
    folders: Sequence[Path], count: int, *, seed: str = "rules"
) -> list[tuple[Task, Trajectory]]:
    """Draw at most so many successes, and so many failures."""
    rng = random.Random(seed)
    known = list(read_known(folders))
    found = []
    for good in (True, False):
        kind = [pair for pair in known if pair[1].success == good]
        found += rng.sample(kind, min(count, len(kind)))
    return found


async def judge_twice(
    task: Task, played: Trajectory, simulator: Simulator, *, strictness: int
) -> Judged | None:
    """Ask the judge with and without facts; None if it gave no usable answer."""
    active = tuple(Criterion)[:strictness]
    judged = Microworld().as_judged(task)
    judged = msgspec.structs.replace(
        judged, hidden=judged.hidden | {"criteria": [c.value for c in active]}
    )
    services = Services(simulator=simulator, rng=random.Random(f"rules {played.id}"))
    environment = SimulatedEnvironment(
        judged, services, rules=Simulated(prompts="tiny").judge_rules()
    )
    environment.recall(played.turns)
    scene: Scene = environment._scene
    facts = gather_facts(
        scene.executed,
        scene.hidden.expected_calls,
        malformed=scene.malformed,
        writes=scene.writes,
    )
    heard = leave_out_unheard(played.turns, played.stop)
    roles = AtOnce("tiny")
    try:
        shown = await roles.judge_with_facts(scene, played.turns, facts)
        alone = await roles.judge_alone(scene, heard)
    except SimulatorError:
        return None
    return Judged(
        truth=true_reward(played.outcome.criteria, active, success=played.success),
        facts=facts,
        called=any(turn.message.calls for turn in heard),
        cut=played.stop in (Stop.TOKENS, Stop.CONTEXT),
        shown=shown.criteria,
        alone=alone.criteria,
    )


def read_judged(folder: Path) -> Iterator[Judged]:
    """Yield the training episodes of a run with `env.verdict = "published"`, as it has judged them.

    No judge is asked again: the one who is shown the facts is taken to accept everything, so the
    mistakes of `facts` are the most that it can make. The truth is that of the episode's own
    messages and calls; tasks whose intent does not say their calls are left out.
    """
    rules = Simulated(prompts="tiny", verdict="published").judge_rules()
    lines = read_lines(folder / "tasks.jsonl", TaskLine)
    tasks = {line.task.id: line.task for line in lines if line.task is not None}
    for line in read_lines(folder / "episodes.jsonl", EpisodeLine):
        played, task = line.trajectory, tasks.get(line.trajectory.task_id)
        if played.failure is not None or task is None:
            continue
        environment = SimulatedEnvironment(
            task, Services(simulator=NOBODY, rng=random.Random(0)), rules=rules
        )
        environment.recall(played.turns)
        scene: Scene = environment._scene
        hidden = scene.hidden
        if write_intent([goal_of(call) for call in hidden.expected_calls]) != hidden.intent:
            continue
        facts = gather_facts(
            scene.executed, hidden.expected_calls, malformed=scene.malformed, writes=scene.writes
        )
        truth = judge_truly(task.messages, played.turns, scene.executed, facts)
        heard = leave_out_unheard(played.turns, played.stop)
        said = played.outcome.criteria
        yield Judged(
            truth=true_reward(
                {c.value: holds for c, holds in truth.criteria.items()},
                hidden.criteria,
                success=truth.criteria[Criterion.FULFILLED] and played.stop is Stop.DONE,
            ),
            facts=facts,
            called=any(turn.message.calls for turn in heard),
            cut=played.stop in (Stop.TOKENS, Stop.CONTEXT),
            shown=dict.fromkeys(hidden.criteria, True),
            alone={c: said.get(c.value, False) for c in hidden.criteria},
        )


def reread(folders: Sequence[Path]) -> dict[str, Any]:
    """Return the result line of `read_judged` over runs."""
    return {
        "runs": len(folders),
        **count_mistakes([j for folder in folders for j in read_judged(folder)]),
    }


def count_mistakes(found: Sequence[Judged]) -> dict[str, Any]:
    """Return how many episodes of each kind there are, and every rule's mistakes."""
    return {
        "episodes": len(found),
        "truth": {f"{value}": sum(j.truth == value for j in found) for value in (-1, 0, 1)},
        "with_bad_calls": sum(j.facts.malformed > 0 for j in found),
        "without_calls": sum(not j.called for j in found),
        "rules": tabulate(found),
    }


async def measure_rules(config_path: Path, folders: Sequence[Path], count: int) -> dict[str, Any]:
    """Judge stored episodes again, with one to five criteria in turn; return the result line."""
    config: Config = read_config(config_path, [])
    known = draw_known(folders, count)
    model, renderer = prepare_model(config)
    found: list[Judged] = []
    async with VllmEngine(config.engine, trainer_spec(config, model)) as engine:
        simulator = make_simulator(config, engine, renderer)

        async def ask(index: int, task: Task, played: Trajectory) -> None:
            strictness = 1 + index % len(Criterion)
            judged = await judge_twice(task, played, simulator, strictness=strictness)
            if judged is not None:
                found.append(judged)

        async with anyio.create_task_group() as tasks:
            for index, (task, played) in enumerate(known):
                tasks.start_soon(ask, index, task, played)
    return {
        "bench": "verdict_rules",
        "runs": len(folders),
        "unusable": len(known) - len(found),
        **count_mistakes(found),
    }

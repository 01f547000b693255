"""FTRL's evaluation: every environment of a file is played once, greedily.

Solve-P means nothing without the number of calls, because a policy that makes no call reaches
100 %. So the table shows the calls next to it, and below them the floor that needs no model.
Source: FTRL, arXiv 2508.08791, the evaluation on its own test set.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import msgspec

from trustee.environments.executable.environment import Executable
from trustee.environments.executable.rewards import solve
from trustee.environments.protocol import Services
from trustee.evaluation.evaluate import EvalConfig, evaluate
from trustee.rollout import EpisodePlayer
from trustee.types import Adapter, Record, SolveFacts, Task, Trajectory

MOST_TURNS = 20
"""Maximum number of policy messages of one episode in FTRL's evaluation."""


class Solving(Record, frozen=True):
    """Means over the episodes of several environments; shares are in percent."""

    rows: int
    calls: float
    """Mean number of calls per episode."""
    precision: float
    """Solve-P: solved sub-answers per call; 100 for an episode without a call."""
    recall: float
    """Solve-R: solved sub-answers per needed sub-answer."""
    f1: float
    """Solve-F1: 2 x solved / (calls + needed). All three are means over rows."""
    answered: float
    """Share of episodes that end with the correct answer."""
    failed: int = 0
    """Number of episodes that failed for a reason other than the policy; the means exclude them."""


class SuiteReport(Record, frozen=True):
    """A policy's results on a file of environments."""

    suite: str
    file: str
    policy: str
    published: bool
    total: Solving
    scenarios: dict[str, Solving]
    floors: dict[str, Solving]
    """Results that need no model, by name: those of an episode without a call."""


class SuiteReports(Record, frozen=True):
    """The reports of several policies on the same file."""

    reports: tuple[SuiteReport, ...]


async def run_suite(
    world: Executable,
    player: EpisodePlayer,
    *,
    policy: str,
    adapter: Adapter | None,
    parallel: int,
    seed: int = 0,
    done: Callable[[Trajectory], None] = lambda trajectory: None,
) -> tuple[SuiteReport, tuple[Trajectory, ...]]:
    """Play every environment of `world.path` once with the base or an adapter.

    Args:
        world: The file of rows and how answers are compared; `reserve_one_in` is ignored.
        player: Plays the episodes, here greedily and with at most 20 turns.
        policy: Name of the policy in the report.
        adapter: The adapter to measure; None is the base.
        parallel: Maximum number of concurrent episodes.
        seed: Random seed of the tools and of the engine's requests.
        done: Called with each episode at its end.

    Raises:
        InputError: if the file holds no usable environment.
    """
    tasks = await write_tasks_of(world, player.serve(random.Random(seed)), seed=seed)
    turns = min(player.limits.turns, MOST_TURNS)
    played = await evaluate(
        tasks,
        replace(player, limits=msgspec.structs.replace(player.limits, turns=turns)),
        config=EvalConfig(tasks=len(tasks), seed=seed, temperature=0.0, parallel=parallel),
        adapter=adapter,
        label=policy,
        done=done,
    )
    outcomes = [
        (str(task.hidden["scenario"]), None if one.failure else one.outcome.solve)
        for task, one in zip(tasks, played, strict=True)
    ]
    floor = [floor_facts(task) for task in tasks]
    return report_on(outcomes, floor, world, policy=policy), played


async def write_tasks_of(world: Executable, services: Services, *, seed: int) -> tuple[Task, ...]:
    """Return a whole-episode task for each environment of a file, sorted by row id."""
    every = msgspec.structs.replace(world, reserve_one_in=1)
    source = every.source(seed=seed, held_out=True)
    tasks = []
    while (spec := source.draw()) is not None:
        tasks.append(await source.write(spec, services))
    return tuple(sorted(tasks, key=lambda task: str(task.hidden["blueprint"])))


def floor_facts(task: Task) -> SolveFacts:
    """Return the facts of an episode without a call."""
    needed = sum(map(len, task.hidden["unsolved"].values()))
    rates = solve(solved=0, calls=0, needed=needed)
    return SolveFacts(
        calls=0,
        solved=0,
        needed=needed,
        precision=rates.precision,
        recall=rates.recall,
        f1=rates.f1,
        answered=False,
    )


def report_on(
    outcomes: Sequence[tuple[str, SolveFacts | None]],
    floor: Sequence[SolveFacts],
    world: Executable,
    *,
    policy: str,
) -> SuiteReport:
    """Return the report on episodes, given as scenario and facts; those without facts failed."""
    scenarios = sorted({scenario for scenario, _ in outcomes})
    return SuiteReport(
        suite="ftrl",
        file=world.path,
        policy=policy,
        published=world.published,
        total=sum_up([facts for _, facts in outcomes]),
        scenarios={
            name: sum_up([facts for scenario, facts in outcomes if scenario == name])
            for name in scenarios
        },
        floors={"no call": sum_up(floor)},
    )


def sum_up(facts: Sequence[SolveFacts | None]) -> Solving:
    """Return the means over the episodes that have facts; zeros if none has."""
    valid = [one for one in facts if one is not None]
    failed = len(facts) - len(valid)
    if not valid:
        return Solving(
            rows=0, calls=0.0, precision=0.0, recall=0.0, f1=0.0, answered=0.0, failed=failed
        )
    return Solving(
        rows=len(valid),
        calls=fmean(one.calls for one in valid),
        precision=100 * fmean(one.precision for one in valid),
        recall=100 * fmean(one.recall for one in valid),
        f1=100 * fmean(one.f1 for one in valid),
        answered=100 * fmean(one.answered for one in valid),
        failed=failed,
    )


def suite_text(report: SuiteReport) -> str:
    """Return a report as a text table."""
    how = "as published" if report.published else "by whole words, without errors and echoes"
    lines = [
        f"ftrl suite  {report.file}  policy {report.policy}  compared {how}",
        f"{'':<22}{'rows':>6}{'calls':>8}{'P':>8}{'R':>8}{'F1':>8}{'answer':>8}",
    ]
    rows = [*report.scenarios.items(), ("all", report.total)]
    rows += [(f"floor: {name}", own) for name, own in report.floors.items()]
    for name, own in rows:
        figures = (own.precision, own.recall, own.f1, own.answered)
        failed = f"  {own.failed} failed" if own.failed else ""
        lines.append(
            f"{name:<22}{own.rows:>6}{own.calls:>8.2f}"
            + "".join(f"{figure:>8.1f}" for figure in figures)
            + failed
        )
    return "\n".join(lines)

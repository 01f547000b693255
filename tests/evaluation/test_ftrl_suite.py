"""FTRL's evaluation: each environment once, figures by scenario, and the floor beside them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blueprints import make_blueprint, make_row
from plain_sandbox import PlainSandbox
from scripts import make_player, make_simulator, write_calls
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.executable.blueprint_files import write_blueprint
from trustee.environments.executable.environment import Executable
from trustee.environments.protocol import Services
from trustee.errors import EngineError
from trustee.evaluation.ftrl_suite import (
    Solving,
    SuiteReport,
    floor_facts,
    report_on,
    run_suite,
    suite_text,
    sum_up,
    write_tasks_of,
)
from trustee.rollout import Limits
from trustee.types import Trajectory

pytestmark = pytest.mark.anyio

LIMITS = Limits(turns=50, tokens=400, seconds=20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write environments of two scenarios."""
    for number in range(4):
        scenario = "multi_hop" if number < 3 else "single_hop"
        write_blueprint(make_blueprint(number, scenario=scenario), tmp_path / "environments")
    return tmp_path / "environments"


def half(request: Request) -> str:
    """Find the place, call once in vain, and give up."""
    index = int(request.request_id.rpartition("/")[2])
    call = {"name": "find_thing", "arguments": {"thing": "blue key" if index == 0 else "moon"}}
    return write_calls([call]) if index < 2 else "no idea"


def answering(request: Request) -> str:
    """Find the place, read its label, and say it; call without end in the first environment."""
    said = request.prompt
    if "box aa" in said:
        return write_calls([{"name": "repeat", "arguments": {"text": "more"}}])
    if label := re.search(r'"label": "?(\w+)', said):
        return f"It says {label[1]}."
    if place := re.search(r'"place": "(box \w+)"', said):
        return write_calls([{"name": "read_label", "arguments": {"place": place[1]}}])
    return write_calls([{"name": "find_thing", "arguments": {"thing": "blue key"}}])


async def run(
    folder: Path, script: Any, *, published: bool = False
) -> tuple[SuiteReport, tuple[Trajectory, ...], ScriptedEngine]:
    """Run the suite with a script."""
    engine = ScriptedEngine(script)
    world = Executable(path=str(folder), published=published, reserve_one_in=7)
    simulator, sandbox = make_simulator(engine), PlainSandbox()
    player = make_player(
        world.environment,
        engine,
        serve=lambda rng: Services(simulator=simulator, rng=rng, sandbox=sandbox),
        limits=LIMITS,
    )
    report, played = await run_suite(world, player, policy="base", adapter=None, parallel=3)
    return report, played, engine


async def test_every_environment_is_played_once_and_greedily(folder: Path) -> None:
    """Whatever share is kept for evaluation, all are played, with temperature 0."""
    _, played, engine = await run(folder, half)
    assert [f"base/{n}" for n in range(4)] == [one.id for one in played]
    assert [f"keys-{n}" for n in range(4)] == [one.notes["blueprint"] for one in played]
    assert {0.0} == {request.sampling.temperature for request in engine.requests}


async def test_figures_by_scenario(folder: Path) -> None:
    """Means over rows, with calls; one of two calls solves one of two sub-answers."""
    report, _, _ = await run(folder, half)
    figures: dict[str, Any] = {
        "calls": 2.0,
        "precision": 50.0,
        "recall": 50.0,
        "f1": 50.0,
        "answered": 0.0,
    }
    assert {
        "multi_hop": Solving(rows=3, **figures),
        "single_hop": Solving(rows=1, **figures),
    } == report.scenarios
    assert Solving(rows=4, **figures) == report.total
    assert ("ftrl", "base", False) == (report.suite, report.policy, report.published)


async def test_no_more_than_twenty_turns_are_played(folder: Path) -> None:
    """The longest episode has FTRL's limit, and its calls count."""
    report, played, _ = await run(folder, answering)
    assert [20, 3, 3, 3] == [len(one.turns) for one in played]
    assert [20, 2, 2, 2] == [one.outcome.solve.calls for one in played if one.outcome.solve]
    assert 75.0 == report.total.answered


async def test_no_call_is_the_floor(folder: Path) -> None:
    """Whoever says nothing useful has exactly the floor's figures."""
    report, _, _ = await run(folder, lambda request: "I do not know")
    floor = Solving(rows=4, calls=0.0, precision=100.0, recall=0.0, f1=0.0, answered=0.0)
    assert {"no call": floor} == report.floors
    assert floor == report.total


async def test_failed_episodes_are_in_no_figure(folder: Path) -> None:
    """They are counted apart."""

    def script(request: Request) -> str:
        if request.request_id == "base/0/1":
            raise EngineError("gone")
        return half(request)

    report, played, _ = await run(folder, script)
    assert "gone" in str(played[0].failure)
    assert (3, 1, 50.0) == (report.total.rows, report.total.failed, report.total.f1)
    assert "1 failed" in suite_text(report)


async def test_published_rows_in_published_mode(tmp_path: Path) -> None:
    """The report says how results were compared."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(make_row(make_blueprint(n))) + "\n" for n in range(2)))
    report, _, _ = await run(path, half, published=True)
    assert (2, 50.0) == (report.total.rows, report.total.f1)
    assert "compared as published" in suite_text(report)


async def test_text_and_json(folder: Path) -> None:
    """The table has a line for each scenario, for all, and for the floor; JSON reads back."""
    report, _, _ = await run(folder, half)
    lines = suite_text(report).splitlines()
    assert ["multi_hop", "3", "2.00", "50.0", "50.0", "50.0", "0.0"] == lines[2].split()
    assert ["all", "4", "2.00", "50.0", "50.0", "50.0", "0.0"] == lines[4].split()
    assert ["floor:", "no", "call", "4", "0.00", "100.0", "0.0", "0.0", "0.0"] == lines[5].split()
    assert report == msgspec.json.decode(msgspec.json.encode(report), type=SuiteReport)


async def test_tasks_are_in_the_order_of_ids(folder: Path) -> None:
    """The same order for every seed, so reports can be laid side by side."""
    simulator = make_simulator(ScriptedEngine(half))
    for seed in range(3):
        services = Services(simulator=simulator, rng=random.Random(seed))
        tasks = await write_tasks_of(Executable(path=str(folder)), services, seed=seed)
        assert [f"keys-{n}" for n in range(4)] == [task.hidden["blueprint"] for task in tasks]
    facts = floor_facts(tasks[0])
    assert (1.0, 0.0, 0.0) == (facts.precision, facts.recall, facts.f1)
    assert (0, 0, 2, False, ()) == (
        facts.calls,
        facts.solved,
        facts.needed,
        facts.answered,
        facts.called,
    )


def test_nothing_sums_up_to_zeros() -> None:
    """No sound episode, no figure."""
    zero = Solving(rows=0, calls=0, precision=0, recall=0, f1=0, answered=0, failed=2)
    assert zero == sum_up([None, None])
    report = report_on([], [], Executable(path="x"), policy="base")
    assert ({}, 0) == (report.scenarios, report.total.rows)

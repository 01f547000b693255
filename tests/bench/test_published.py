"""The bench of the published way: its arms, its figures, and every verdict rule's arithmetic."""

from __future__ import annotations

import importlib
import json
import math
import random
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from trustee.config import read_config
from trustee.environments.micro.environment import Microworld
from trustee.environments.micro.tasks import draw_aspects, plan_task, sample_tools
from trustee.environments.protocol import Services
from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulated.facts import Facts
from trustee.tiny.lessons import CARELESS, FAULTLESS, Habits, ScriptedEpisode
from trustee.types import (
    Completion,
    ExpectedCall,
    Message,
    Outcome,
    Stop,
    Task,
    ToolCall,
    Trajectory,
    Turn,
)

ROOT = Path(__file__).parents[2]
NO_SERVICES: Any = None
NOTHING = Completion(ids=(), logprobs=(), stop="stop", version=0)
WANTED = ExpectedCall(name="read_fan", arguments={"room": "attic"})
F, R, N = Criterion.FULFILLED, Criterion.RIGHT_TOOLS, Criterion.NO_INVENTION


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports a module of `bench/`."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module


def held_out_tasks(count: int) -> list[Task]:
    """Return held-out tasks of the micro-world."""
    source = Microworld().source(seed=5, held_out=True)
    tasks = []
    for _ in range(count):
        spec = source.draw()
        assert spec is not None
        tasks.append(
            anyio.run(source.write, spec, Services(simulator=NO_SERVICES, rng=NO_SERVICES))
        )
    return tasks


def test_arms_differ_in_two_keys_alone(bench: Any) -> None:
    """Each arm is a config; mapping and verdict are all that differs, and no gate stops a run."""
    published = bench("published")
    assert published.ARMS == (
        "even/facts",
        "even/published",
        "published/facts",
        "published/published",
    )
    seen = []
    for arm in published.ARMS:
        changes = published.list_changes(arm, seed=3, sizes=published.Sizes())
        config = read_config(published.CONFIG, changes)
        assert isinstance(config.env, Simulated)
        seen.append(f"{config.env.curriculum.mapping}/{config.env.verdict}")
        assert (config.run.seed, config.run.steps, config.run.minutes) == (3, 24, None)
        assert not config.gates.shows_canaries
        assert config.gates.agreement == 0.0
    assert tuple(seen) == published.ARMS


def test_effects_are_those_of_a_two_by_two(bench: Any) -> None:
    """Main effects are means over the other factor; the interaction is what exceeds their sum."""
    after = {
        "even/facts": [0.80, 0.70],
        "even/published": [0.30, 0.30],
        "published/facts": [0.70, 0.60],
        "published/published": [0.30, 0.30, 0.9],
    }
    effects = bench("published").compare_arms(after)
    assert [effects[name][0] for name in effects] == [-5.0, -40.0, 10.0]
    assert effects["mapping"] == [-5.0, -5.0, -5.0]
    low, high = effects["verdict"][1:]
    half = 12.706 * math.sqrt(50) / math.sqrt(2)
    assert (low, high) == (round(-40 - half, 1), round(-40 + half, 1))
    assert bench("published").compare_arms({**after, "even/facts": []}) == {}


def test_one_seed_has_no_interval(bench: Any) -> None:
    """A single run says nothing about the spread of runs."""
    assert bench("published").spread([0.5]) == [0.5]


def test_strata_tell_calls_and_missing_values(bench: Any) -> None:
    """A query that lacks a value of what it is about is one with a missing value."""
    name = bench("published").name_stratum
    tasks = held_out_tasks(60)
    found = {name(task) for task in tasks}
    assert found == {
        "one call",
        "one call, missing value",
        "two calls",
        "two calls, missing value",
    }
    for task in tasks:
        goals = task.hidden["goals"]
        assert name(task).startswith("one") == (len(goals) == 1)
        told = task.messages[-1].content.split()
        first = goals[0]
        lacks = first["place"] not in told or (
            first["value"] is not None and str(first["value"]) not in told
        )
        if len(goals) == 1:
            assert name(task).endswith("value") == lacks


def play(task: Task, said: str, *, called: bool, reward: float, name: str) -> Trajectory:
    """Return an episode of one message."""
    calls = (ToolCall(id="1", name="read_fan", arguments={"room": "attic"}),) if called else ()
    return Trajectory(
        id=name,
        task_id=task.id,
        turns=(
            Turn(
                rendered_ids=(),
                completion=NOTHING,
                message=Message(role="assistant", content=said, calls=calls),
                replies=(),
            ),
        ),
        stop=Stop.DONE,
        rewards={"success": reward},
        outcome=Outcome(criteria={c.value: reward > 0 for c in Criterion}),
    )


def write_lines(path: Path, rows: list[Any]) -> None:
    """Write rows as JSON lines."""
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def write_run(folder: Path, rewards: list[float]) -> None:
    """Write the files of a finished run that the bench reads."""
    folder.mkdir(parents=True)
    tasks = held_out_tasks(len(rewards))
    before = [play(t, "?", called=True, reward=0, name=f"before/{t.id}") for t in tasks]
    after = [
        play(t, "ok , fan attic mode auto", called=r > 0, reward=r, name=f"after/{t.id}")
        for t, r in zip(tasks, rewards, strict=True)
    ]
    write_lines(folder / "held-out-tasks.jsonl", tasks)
    write_lines(folder / "held-out-before.jsonl", before)
    write_lines(folder / "held-out-after.jsonl", after)
    groups = [(0, 1.0), (0, 1.0), (1, 1.0), (1, -1.0)]
    write_lines(
        folder / "episodes.jsonl",
        [
            {
                "group": g,
                "member": m,
                "trajectory": msgspec.structs.replace(before[0], rewards={"verdict": r}),
            }
            for m, (g, r) in enumerate(groups)
        ],
    )
    steps = [{"difficulty": 43, "reward": 0.5}, {"difficulty": 46, "reward": 0.75}]
    write_lines(folder / "metrics.jsonl", steps)
    (folder / "outcome.json").write_text("{}")
    folder.with_suffix(".log").write_text(
        "judge against the truth before: 99.0% agree, 1 of 9 bad episodes accepted, 0 of 1 good "
        "ones refused\njudge against the truth after: 50.0% agree, 3 of 4 bad episodes accepted, "
        "1 of 6 good ones refused\n"
    )


def test_line_reads_finished_runs(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A repeated command reads what is there, and starts nothing that is finished."""
    published = bench("published")
    for arm in published.ARMS:
        write_run(published.folder_of(tmp_path, arm, 0), [1.0, 1.0, 0.0, 0.0])
    published.main(["--keep", str(tmp_path), "--seeds", "1", "--json"])
    line = json.loads(capsys.readouterr().out)
    assert line["bench"] == "published"
    assert line["arms"] == {arm: [0.5] for arm in published.ARMS}
    assert line["effects"] == {"mapping": [0.0], "verdict": [0.0], "interaction": [0.0]}
    assert line["judge"]["even/facts"] == [[3, 4, 1, 6]]
    assert line["claims_without_calls"]["even/facts"] == [0.5]
    assert line["flat_groups"]["even/facts"] == [0.5]
    assert sum(count for _, count in line["strata"]["even/facts"].values()) == 4
    assert line["reward"]["even/facts"] == [[0.5, 0.75]]


def judged(bench: Any, **changes: Any) -> Any:
    """Return an episode that is good in every respect, with changes."""
    facts = Facts(expected=(WANTED,), made=(True,), unexpected=(), repeated=0, malformed=0, total=1)
    holds = {F: True, R: True, N: True}
    values = {
        "truth": 1,
        "facts": facts,
        "called": True,
        "cut": False,
        "shown": holds,
        "alone": holds,
    }
    return bench("verdict_rules").Judged(**(values | changes))


def facts_of(**changes: Any) -> Facts:
    """Return the facts of a good episode with changes."""
    values: dict[str, Any] = {
        "expected": (WANTED,),
        "made": (True,),
        "unexpected": (),
        "repeated": 0,
        "malformed": 0,
        "total": 1,
    }
    return Facts(**(values | changes))


def test_rules_pay_as_they_say(bench: Any) -> None:
    """Facts overrule a judge who believes a claim; the scale pays for most criteria."""
    pay = bench("verdict_rules").pay
    rules = bench("verdict_rules").RULES
    fine = judged(bench)
    assert [pay(fine, rule, recovery=False) for rule in rules] == [1.0, 1.0, 1.0, 1.0]
    unmade = judged(bench, facts=facts_of(made=(False,), missing_writes=1))
    assert [pay(unmade, rule, recovery=False) for rule in rules] == [-1.0, 1.0, 1.0, 1.0]
    unfulfilled = judged(bench, alone={F: False, R: True, N: True})
    assert [pay(unfulfilled, rule, recovery=False) for rule in rules] == [1.0, 1.0, -1.0, 0.0]
    silent = judged(bench, called=False)
    assert [pay(silent, rule, recovery=False) for rule in rules] == [1.0, 1.0, -1.0, -1.0]
    cut = judged(bench, cut=True)
    assert [pay(cut, rule, recovery=False) for rule in rules] == [-1.0, 1.0, 1.0, 1.0]


def test_recovery_forgives_a_bad_call(bench: Any) -> None:
    """A bad call costs -1 by every hard rule, and nothing by itself with recovery."""
    rules = bench("verdict_rules")
    bad_call = judged(bench, facts=facts_of(malformed=1, total=2))
    assert {rules.pay(bad_call, rule, recovery=False) for rule in rules.RULES} == {-1.0}
    assert {rules.pay(bad_call, rule, recovery=True) for rule in rules.RULES} == {1.0}


def test_table_counts_mistakes_with_intervals(bench: Any) -> None:
    """False accepts are among bad episodes, false refusals among good ones."""
    rules = bench("verdict_rules")
    believed = judged(bench, truth=-1, facts=facts_of(made=(False,), missing_writes=1))
    refused = judged(bench, alone={F: False, R: False, N: False})
    table = rules.tabulate([believed, refused])
    assert table["facts, hard"]["false_accepts"][0] == 0.0
    assert table["scale, hard"]["false_accepts"][0] == 1.0
    assert table["scale, recovery"]["false_refusals"][0] == 1.0
    assert (table["facts, hard"]["order"], table["scale, hard"]["order"]) == (1.0, 0.0)
    low, high = table["facts, hard"]["false_accepts"][1:3]
    assert low == 0.0 < high < 1.0
    assert rules.order([1.0, 0.0], [0.0, -1.0]) == (0.5 + 1 + 1 + 1) / 4


@pytest.mark.parametrize(("count", "successes", "failures"), [(10, 2, 2), (1, 1, 1)])
def test_episodes_are_drawn_once(
    bench: Any, tmp_path: Path, count: int, successes: int, failures: int
) -> None:
    """The same dialogue of two runs counts once; each kind has its own number."""
    rules = bench("verdict_rules")
    for name in ("one", "two"):
        write_run(tmp_path / name, [1.0, 1.0])
    drawn = rules.draw_known([tmp_path / "one", tmp_path / "two"], count)
    won = [played.success for _, played in drawn]
    assert (won.count(True), won.count(False)) == (successes, failures)


def test_true_reward_is_our_scale(bench: Any) -> None:
    """Only the criteria that count can cost the full reward."""
    reward = bench("verdict_rules").true_reward
    criteria = {F.value: True, R.value: False}
    assert reward(criteria, [F], success=True) == 1
    assert reward(criteria, [F, R], success=True) == 0
    assert reward(criteria, [F], success=False) == -1


def play_script(seed: int, habits: Habits) -> ScriptedEpisode:
    """Play an episode of the micro-world by script."""
    rng = random.Random(seed)
    aspects = draw_aspects(rng)
    plan = plan_task(rng, sample_tools(rng, max(2, aspects.tools)), aspects)
    episode = ScriptedEpisode(rng, plan, habits=habits)
    episode.play()
    return episode


def test_stored_verdicts_meet_the_truth_of_their_own_episodes(bench: Any, tmp_path: Path) -> None:
    """A judge that accepted everything is found out by the episodes that it judged."""
    rules = bench("verdict_rules")
    episodes = [play_script(seed, CARELESS if seed % 2 else FAULTLESS) for seed in range(40)]
    tasks, lines = [], []
    for number, one in enumerate(episodes):
        hidden = {
            "intent": one.intent if number else "something else",
            "persona": "expert",
            "expected_calls": [goal.call for goal in one.plan.goals],
            "criteria": ["fulfilled"],
        }
        task = Task(
            id=f"task-{number}",
            messages=one.opening,
            tools=one.plan.tools,
            difficulty=1,
            hidden=msgspec.to_builtins(hidden),
        )
        tasks.append({"group": number, "version": 0, "task": task})
        played = Trajectory(
            id=f"{number}/0",
            task_id=task.id,
            turns=tuple(one.turns),
            stop=Stop.DONE,
            rewards={"verdict": 1.0},
            outcome=Outcome(criteria={"fulfilled": True}, asked_judge=True),
        )
        lines.append({"group": number, "member": 0, "trajectory": played})
    write_lines(tmp_path / "tasks.jsonl", tasks)
    write_lines(tmp_path / "episodes.jsonl", lines)
    found = list(rules.read_judged(tmp_path))
    # The first task's intent does not say its calls, so nobody knows its truth.
    assert len(found) == 39
    assert all(one.truth == 1 for one in found[1::2])
    assert {one.truth for one in found} == {-1, 1}
    line = rules.reread([tmp_path])
    assert line["truth"]["-1"] + line["truth"]["1"] == line["episodes"] == 39
    shares = [line["rules"][f"{rule}, recovery"]["false_accepts"][0] for rule in rules.RULES]
    assert shares[1] == 1.0
    assert shares[0] < 1.0

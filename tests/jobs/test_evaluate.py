"""`trustee eval`: which adapter is taken, what is refused, and what is played and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from golden_errors import ErrorCheck
from scripted_program import BASE, learnt, play_with, small_config
from trustee.environments.protocol import World
from trustee.errors import InputError
from trustee.evaluation.evaluate import Gain, SuccessRate
from trustee.events import Compared, Event, Note, Stage
from trustee.jobs.assemble import choose_adapter, trainer_spec
from trustee.jobs.evaluate import (
    Comparison,
    compare_text,
    run_comparison,
    split_by_calls,
)
from trustee.jobs.run_metadata import describe_run
from trustee.runs.store import read_lines
from trustee.types import Adapter, Failure, Role, Stop, Task, Trajectory


def make_adapter(folder: Path) -> Path:
    """Make a folder with the files of a PEFT adapter."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({}))
    (folder / "adapter_model.safetensors").touch()
    return folder


@pytest.mark.anyio
async def test_other_runs_adapter(tmp_path: Path) -> None:
    """A run folder means its newest adapter, and a line says which one that is."""
    newest = make_adapter(tmp_path / "other" / "adapters" / "policy-000012")
    config = small_config()
    told: list[Event] = []
    for path in (tmp_path / "other", newest):
        assert newest == choose_adapter(config, path, Path("base"), emit=told.append)
    assert [
        Note(text=f"adapter {newest}, the newest of {tmp_path / 'other'}"),
        Note(text=f"adapter {newest}"),
    ] == told


def make_run(folder: Path) -> Path:
    """Make the folder of a run of the small config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_bytes(msgspec.json.encode(describe_run(small_config())))
    return folder


COMPARISON = Comparison(
    adapter=Path("runs/a/adapters/policy-000080"),
    base=SuccessRate(value=0.25, low=0.2, high=0.3, count=300),
    trained=SuccessRate(value=0.4, low=0.35, high=0.45, count=299, failed=1),
    gain=Gain(points=15.0, low=9.5, high=20.25, better=60, worse=15),
    by_calls={1: (0.5, 0.75), 3: (0.0, 0.05)},
)


def test_comparison_for_people() -> None:
    """Both shares, the gain, and the shares by number of calls, a line each."""
    assert (
        "base     25.0% (95 % interval 20.0% to 30.0%, 300 tasks)\n"
        "adapter  40.0% (95 % interval 35.0% to 45.0%, 299 tasks, 1 failed)  "
        "runs/a/adapters/policy-000080\n"
        "gain     +15.0 points (95 % interval +9.5 to +20.2); 60 tasks won, 15 lost\n"
        "  1 expected calls: 50.0% -> 75.0%\n"
        "  3 expected calls: 0.0% -> 5.0%"
    ) == compare_text(COMPARISON)


def test_loss_for_people() -> None:
    """A gain below zero has its sign."""
    worse = Gain(points=-3.0, low=-8.0, high=2.0, better=1, worse=10)
    lines = compare_text(
        Comparison(
            adapter=Path("a"),
            base=COMPARISON.base,
            trained=COMPARISON.base,
            gain=worse,
            by_calls={},
        )
    ).splitlines()
    assert ["gain     -3.0 points (95 % interval -8.0 to +2.0); 1 tasks won, 10 lost"] == lines[2:]


def task(name: str, hidden: dict[str, Any]) -> Task:
    """Make a task that only its hidden part tells from others."""
    return Task(id=name, messages=(), tools=(), difficulty=1, hidden=hidden)


class Sized(World):
    """A world whose tasks say how many calls they need."""

    def count_expected_calls(self, task: Task) -> int:
        return int(task.hidden["size"])


def play(name: str, reward: float | None) -> Trajectory:
    """Make an episode; without a reward it was spoiled."""
    if reward is None:
        failure = Failure(source=Role.JUDGE, kind="SimulatorError", message="no verdict")
        return Trajectory(id=name, task_id=name, turns=(), stop=Stop.FAILED, failure=failure)
    return Trajectory(id=name, task_id=name, turns=(), stop=Stop.DONE, rewards={"success": reward})


def test_split_by_calls() -> None:
    """The world says how many calls a task expects; failed episodes count nowhere."""
    sizes = {"a": 1, "b": 1, "c": 3, "d": 3, "e": 0}
    tasks = [task(name, {"size": size}) for name, size in sizes.items()]
    base = [play("a", 1), play("b", 0), play("c", 0), play("d", 0), play("e", 1)]
    trained = [play("a", 1), play("b", 1), play("c", None), play("d", 1), play("e", -1)]
    expected = {0: (1.0, 0.0), 1: (0.5, 1.0), 3: (0.0, 1.0)}
    split = split_by_calls(Sized(), tasks, base=base, trained=trained)
    assert expected == split
    assert [0, 1, 3] == list(split)


@pytest.mark.anyio
async def test_comparison_without_tasks(check_error: ErrorCheck, tmp_path: Path) -> None:
    """A run that measures nothing is answered with the option that changes it."""
    with pytest.raises(InputError) as caught:
        await run_comparison(
            small_config("eval.tasks=none"), tmp_path, adapter=None, emit=lambda event: None
        )
    check_error(caught, "eval.tasks is none", "--tasks")


@pytest.mark.anyio
@pytest.mark.parametrize("named", [False, True])
async def test_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """Base and adapter play the same tasks; the newest adapter, or the one that was named."""
    engine = play_with(monkeypatch, learnt)
    run, config = make_run(tmp_path / "run"), small_config()
    newest = make_adapter(run / "adapters" / "policy-000002")
    other = make_adapter(tmp_path / "other")
    events: list[Event] = []
    comparison = await run_comparison(
        config, run, adapter=other if named else None, emit=events.append
    )
    wanted = other if named else newest
    assert [Adapter(version=1, path=wanted)] == engine.learner.loaded
    assert [trainer_spec(config, BASE)] == engine.opened
    assert (wanted, 0.0, 1.0, 100.0) == (
        comparison.adapter,
        comparison.base.value,
        comparison.trained.value,
        comparison.gain.points,
    )
    assert {(0.0, 1.0)} == set(comparison.by_calls.values())
    assert {} == engine.known
    played = [read_lines(run / f"eval-{label}.jsonl", Trajectory) for label in ("base", "adapter")]
    tasks = [t.id for t in read_lines(run / "held-out-tasks.jsonl", Task)]
    assert [tasks, tasks] == [[t.task_id for t in rows] for rows in played]
    assert [{0}, {1}] == [{t.version for t in rows} for rows in played]
    assert [
        Note(text=f"adapter {wanted}" + ("" if named else f", the newest of {run}")),
        Stage(name="starting the engine on base (cpu)"),
        Stage(name="writing 6 held-out tasks"),
        Stage(name="playing 6 tasks with the base"),
        Stage(name="playing 6 tasks with the adapter"),
        Compared(base=0.0, adapter=1.0, gain_points=100.0),
    ] == events


@pytest.mark.anyio
async def test_comparison_leaves_the_adapters_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing twice compares the same: what the first wrote is no newer adapter."""
    play_with(monkeypatch, learnt)
    make_adapter(make_run(tmp_path) / "adapters" / "policy-000002")
    found = [
        (
            await run_comparison(small_config(), tmp_path, adapter=None, emit=lambda event: None)
        ).adapter
        for _ in range(2)
    ]
    assert [tmp_path / "adapters" / "policy-000002"] * 2 == found

"""Measurements between steps: when, what is kept, early stop, and going on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_errors import ErrorCheck
from scripted_program import Both, play_with, small_config
from scripts import mixed, perfect, silent
from trustee.engine.script import Request
from trustee.errors import InputError, RunError
from trustee.events import Event, HeldOutPlayed, Note
from trustee.jobs.held_out import RunResult
from trustee.jobs.resume import extend_run
from trustee.jobs.rl import run_training
from trustee.rl.interim import Interim, InterimState, Measured, forget_later, name_interim
from trustee.runs.store import read_lines
from trustee.types import Trajectory


def is_held_out(request: Request) -> bool:
    """Whether a request is of a held-out episode."""
    return request.request_id.startswith(("before", "step-", "after"))


def best_early(request: Request) -> str:
    """Solve the held-out tasks with version 1 alone; in training succeed in half."""
    if not is_held_out(request):
        return mixed(request)
    version = 0 if request.adapter is None else request.adapter.version
    return (perfect if version == 1 else silent)(request)


def never_better(request: Request) -> str:
    """Solve no held-out task; in training succeed in half."""
    return (silent if is_held_out(request) else mixed)(request)


def shares(events: list[Event]) -> list[tuple[str, int, float]]:
    """Return label, step and success of what was measured."""
    return [(e.label, e.step, e.success) for e in events if isinstance(e, HeldOutPlayed)]


def played_between(engine: Both) -> set[str]:
    """Return the labels of the measurements between steps that an engine played."""
    return {
        request.request_id.partition("/")[0]
        for request in engine.requests
        if request.request_id.startswith("step-")
    }


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Give a function that runs or continues a run in a folder."""

    async def run(
        policy: Callable[[Request], str],
        *changes: str,
        resume: bool = False,
        emit: Callable[[Event], None] = lambda event: None,
    ) -> tuple[RunResult, Both]:
        engine = play_with(monkeypatch, policy)
        config = small_config("run.steps=4", "rollout.group_size=4", *changes)
        return await run_training(config, tmp_path / "run", emit=emit, resume=resume), engine

    return run


@pytest.mark.anyio
async def test_every_step_but_the_last_is_measured(
    train: Callable[..., object], tmp_path: Path
) -> None:
    """The last is measured as what comes after training; the best version is named and kept."""
    events: list[Event] = []
    outcome, engine = await train(
        best_early, "eval.every=1", "watch.keep_adapters=1", emit=events.append
    )  # type: ignore[misc]
    assert [
        ("before", 0, 0.0),
        ("step-000001", 1, 1.0),
        ("step-000002", 2, 0.0),
        ("step-000003", 3, 0.0),
        ("after", 4, 0.0),
    ] == shares(events)
    assert Measured(success=1.0, step=1, version=1) == outcome.best
    folder = tmp_path / "run"
    assert {"success": 1.0, "step": 1, "version": 1} == json.loads(
        (folder / "best.json").read_bytes()
    )
    assert (folder / "adapters" / "policy-000001").is_dir()
    assert not (folder / "adapters" / "policy-000002").exists()
    played = read_lines(folder / "held-out-step-000001.jsonl", Trajectory)
    assert [(1, 1.0)] * 6 == [(t.version, t.reward) for t in played]
    assert {"step-000001", "step-000002", "step-000003"} == played_between(engine)


@pytest.mark.anyio
async def test_training_ends_when_it_is_no_longer_better(
    train: Callable[..., object], tmp_path: Path
) -> None:
    """Base included; what was measured last is what comes after; the run is then finished."""
    events: list[Event] = []
    outcome, engine = await train(
        never_better, "eval.every=1", "eval.patience=2", emit=events.append
    )  # type: ignore[misc]
    assert 2 == outcome.steps
    assert [("before", 0), ("step-000001", 1), ("step-000002", 2), ("after", 2)] == [
        (label, step) for label, step, _ in shares(events)
    ]
    assert (
        "training ends early after step 2: 2 measurements in a row were not above the 0.0% of the "
        "base after step 0 (eval.patience)"
    ) in [event.text for event in events if isinstance(event, Note)]
    assert not [r for r in engine.requests if r.request_id.startswith("after/")]
    again, engine = await train(  # type: ignore[misc]
        never_better, "eval.every=1", "eval.patience=2", resume=True
    )
    assert [] == engine.opened, "a finished run was begun again"
    assert (2, outcome.best) == (again.steps, again.best)
    config = small_config("eval.every=1", "eval.patience=2")
    with pytest.raises(InputError, match=r"ended early after 2 steps \(eval\.patience\)"):
        extend_run(config, tmp_path / "run", {"steps": "9"})


@pytest.mark.anyio
@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_kill_after_a_measurement_loses_nothing(
    train: Callable[..., object], tmp_path: Path, is_whole: bool
) -> None:
    """What it has played is read, unless its file is torn; then it is played again."""

    class Killed(RunError):
        """Stands for the end of the process."""

    def kill(event: Event) -> None:
        if isinstance(event, Note) and event.text.startswith("held-out success after step 1"):
            raise Killed("killed")

    with pytest.raises(ExceptionGroup):
        await train(best_early, "eval.every=1", emit=kill)  # type: ignore[misc]
    folder = tmp_path / "run"
    file = folder / "held-out-step-000001.jsonl"
    if not is_whole:
        file.write_bytes(file.read_bytes()[:-9])
    later = folder / "held-out-step-000003.jsonl"
    later.write_bytes(b"of a part that was given up\n")
    events: list[Event] = []
    outcome, engine = await train(  # type: ignore[misc]
        best_early, "eval.every=1", resume=True, emit=events.append
    )
    assert Measured(success=1.0, step=1, version=1) == outcome.best
    expected = {"step-000002", "step-000003"} | (set() if is_whole else {"step-000001"})
    assert expected == played_between(engine)
    assert [1, 2, 3, 4] == [step for _, step, _ in shares(events)]
    assert [1, 2, 3, 4] == [line["step"] for line in read_lines(folder / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (("eval.patience=2",), "eval.every"),
        (("eval.every=2", "eval.tasks=none"), "eval.tasks"),
    ],
)
def test_a_key_without_effect_is_refused(
    check_error: ErrorCheck, changes: tuple[str, ...], named: str
) -> None:
    """Nobody waits for an end that never comes."""
    with pytest.raises(InputError) as caught:
        small_config(*changes)
    check_error(caught, named, "no effect")


def test_what_was_measured_later_is_forgotten(tmp_path: Path) -> None:
    """Only measurements of later steps; other files stay."""
    names = [f"held-out-{name_interim(step)}.jsonl" for step in (1, 20, 21, 300)]
    for name in (*names, "held-out-after.jsonl", "held-out-step-x.jsonl"):
        (tmp_path / name).touch()
    forget_later(tmp_path, 20)
    assert {*names[:2], "held-out-after.jsonl", "held-out-step-x.jsonl"} == {
        path.name for path in tmp_path.iterdir()
    }


def test_without_a_number_of_steps_nothing_is_due() -> None:
    """And what is noted counts for nothing."""
    interim = Interim(every=None, patience=None)
    interim.note(Measured(success=0.5, step=0, version=0))
    assert not any(interim.is_due(step) for step in range(9))
    assert InterimState() == interim.state()


@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75]), min_size=1, max_size=20),
)
def test_it_ends_after_so_many_without_a_better_one(
    every: int, patience: int, found: list[float]
) -> None:
    """The best is the first of the highest; a stored state goes on as if nothing had happened."""
    interim = Interim(every=every, patience=patience)
    taken: list[float] = []
    for number, success in enumerate(found):
        step = number * every
        assert interim.is_due(step) is (step > 0)
        interim.note(Measured(success=success, step=step, version=number))
        taken.append(success)
        assert not interim.is_due(step)
        assert not interim.is_due(step + every - 1) or every == 1
        at = taken.index(max(taken))
        assert interim.best == Measured(success=max(taken), step=at * every, version=at)
        assert interim.kept() == ((at,) if at else ())
        assert interim.ended is (number - at >= patience)
        if interim.ended:
            return
        again = Interim(every=every, patience=patience)
        again.restore(interim.state())
        interim = again

"""Continuing a run on scripted parts: what goes on, what is refused, what is made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from golden_errors import ErrorCheck
from scripted_program import learnt, play_with, small_config
from trustee.algorithm.step import rate_at
from trustee.environments.micro.world import TOOLS
from trustee.errors import InputError, RunError
from trustee.events import Event, Note
from trustee.jobs.held_out import RunResult, check_same_tasks, read_played
from trustee.jobs.resume import extend_run, settings_of
from trustee.jobs.rl import run_training
from trustee.jobs.run_metadata import read_trusted
from trustee.rl.run import RunState
from trustee.runs.checkpoint import find_checkpoints, open_checkpoint
from trustee.runs.files import write_json
from trustee.runs.store import TaskLine, read_lines
from trustee.tools.files import dump_tools
from trustee.types import Stop, Trajectory

pytestmark = pytest.mark.anyio


async def begin(folder: Path, *changes: str) -> RunResult:
    """Run a new run to its end."""
    config = small_config("gates.false_accepts=none", "gates.false_refuses=none", *changes)
    return await run_training(config, folder, emit=lambda event: None)


async def resume(folder: Path, **lengths: str) -> tuple[RunResult, list[str]]:
    """Resume a run, with another length if one is given; return its result and what was said."""
    events: list[Event] = []
    allowed = ["gates.false_accepts=none", "gates.false_refuses=none"]
    config = read_trusted(folder, allowed)
    if lengths:
        config = extend_run(config, folder, lengths)
    outcome = await run_training(config, folder, emit=events.append, resume=True)
    return outcome, [event.text for event in events if isinstance(event, Note)]


def newest_state(folder: Path) -> RunState:
    """Return the state of the newest checkpoint."""
    return open_checkpoint(folder / "checkpoints", RunState)[1]


def change_record(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit `run.json` as a user might."""
    path = folder / "run.json"
    record = json.loads(path.read_bytes())
    change(record["config"])
    write_json(path, record)


def read_all(folder: Path) -> dict[Path, bytes]:
    """Read every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_finished_run_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives its result again, without an engine, and says how it gets further."""
    play_with(monkeypatch, learnt)
    first = await begin(tmp_path)
    files = read_all(tmp_path)
    engine = play_with(monkeypatch, learnt)
    again, said = await resume(tmp_path)
    assert (first, []) == (again, engine.opened)
    assert files == read_all(tmp_path)
    assert "this run is finished, after 2 steps" in said[0]
    assert f"trustee run --resume {tmp_path} --steps N" in said[0]


async def test_time_that_is_spent_stays_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that its minutes have ended does not begin them anew; with more it goes on from there.

    What it spent counts in the learning rate too, which depends on the progress.
    """
    play_with(monkeypatch, learnt)
    done = (await begin(tmp_path, "run.steps=1000", "run.minutes=0.001")).steps
    spent = newest_state(tmp_path).seconds
    assert 1 <= done == newest_state(tmp_path).step < 1000
    assert spent >= 0.06
    outcome, said = await resume(tmp_path)
    assert (done, True) == (outcome.steps, f"is finished, after {done} steps" in said[0])
    (tmp_path / "outcome.json").unlink()
    assert done == (await resume(tmp_path))[0].steps, "measured again, but not trained"
    outcome, _ = await resume(tmp_path, minutes=str(2 * spent / 60))
    assert outcome.steps > done
    assert spent < newest_state(tmp_path).seconds
    rates = [line["learning_rate"] for line in read_lines(tmp_path / "metrics.jsonl")]
    config = read_trusted(tmp_path, ["gates.false_accepts=none", "gates.false_refuses=none"])
    half = rate_at(config.learn, step=done, progress=0.5)
    assert rates[done] <= half, "at least half of the new length is spent"


async def test_finished_run_is_made_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More steps are trained, at the rates of a run of the new length, and the record keeps it."""
    play_with(monkeypatch, learnt)
    await begin(tmp_path)
    before = (tmp_path / "held-out-before.jsonl").read_bytes()
    outcome, _ = await resume(tmp_path, steps="4")
    config = read_trusted(tmp_path, ["gates.false_accepts=none", "gates.false_refuses=none"])
    assert (4, 4) == (outcome.steps, config.run.steps)
    assert before == (tmp_path / "held-out-before.jsonl").read_bytes()
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [1, 2, 3, 4] == [line["step"] for line in lines]
    assert [rate_at(config.learn, step=step, progress=step / 4) for step in (2, 3)] == [
        line["learning_rate"] for line in lines[2:]
    ]
    assert {outcome.version} == {played.version for played in read_played(tmp_path, "after") or ()}


@pytest.mark.parametrize(
    ("changes", "lengths", "named"),
    [
        ((), {"steps": "2"}, ("2 steps are done", "--steps")),
        ((), {"minutes": "9"}, ("2 steps are done", "--steps")),
        (
            ("run.minutes=0.001", "run.steps=1000"),
            {"steps": "2000"},
            ("minutes are spent", "--minutes none"),
        ),
        (("run.tokens=1",), {"steps": "9"}, ("tokens are sampled", "--adapter")),
        ((), {"steps": "0"}, ("run.steps", "0")),
        ((), {"minutes": "many"}, ("run.minutes", "many")),
    ],
)
async def test_length_that_is_reached(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    check_error: ErrorCheck,
    changes: tuple[str, ...],
    lengths: dict[str, str],
    named: tuple[str, ...],
) -> None:
    """A length that leaves nothing to do is refused, and the record stays as it was."""
    play_with(monkeypatch, learnt)
    await begin(tmp_path, *changes)
    record = (tmp_path / "run.json").read_bytes()
    with pytest.raises(InputError) as caught:
        await resume(tmp_path, **lengths)
    if "minutes are spent" not in named:
        check_error(caught, *named)
    assert [] == [part for part in named if part not in str(caught.value)]
    assert record == (tmp_path / "run.json").read_bytes()


async def test_group_numbers_are_used_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that a kill left behind a checkpoint keep their numbers; later ones get others."""
    play_with(monkeypatch, learnt)
    await begin(tmp_path / "whole", "run.steps=4")
    await begin(tmp_path / "killed")
    state = newest_state(tmp_path / "killed")
    (line, *_) = read_lines(tmp_path / "killed" / "tasks.jsonl", TaskLine)
    highest = max(one.group for one in read_lines(tmp_path / "killed" / "tasks.jsonl", TaskLine))
    left = max(highest, state.next_group) + 2
    with (tmp_path / "killed" / "tasks.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(msgspec.structs.replace(line, group=left)) + b"\n{")
    await resume(tmp_path / "killed", steps="4")
    lines = read_lines(tmp_path / "killed" / "tasks.jsonl", TaskLine)
    numbers = [one.group for one in lines]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) > left
    after = newest_state(tmp_path / "killed")
    assert after.skipped == left + 1 - state.next_group
    # The same tasks, played with the same seeds, as in a run that nobody killed.
    whole = {
        one.group: one.task for one in read_lines(tmp_path / "whole" / "tasks.jsonl", TaskLine)
    }
    later = {one.group - after.skipped: one.task for one in lines if one.group > left}
    assert later
    assert [] == [n for n, task in later.items() if n in whole and whole[n] != task]


@pytest.mark.parametrize("damage", ["torn", "fewer", "other", "gone"])
async def test_held_out_episodes_that_are_not_whole_are_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """What a kill left of a measurement never counts as a result."""
    play_with(monkeypatch, learnt)
    first = await begin(tmp_path)
    for label in ("before", "after"):
        path = tmp_path / f"held-out-{label}.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        if damage == "torn":
            path.write_bytes(b"".join(lines)[:-9])
        elif damage == "fewer":
            path.write_bytes(b"".join(lines[:-1]))
        elif damage == "other":
            path.write_bytes(b"".join([*lines[:-1], lines[0]]))
        else:
            path.unlink()
        assert read_played(tmp_path, label) is None
    again, _ = await resume(tmp_path)
    assert (first.before, first.after, first.gain) == (again.before, again.after, again.gain)


async def test_missing_figures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on without the lines, and says how many there are."""
    play_with(monkeypatch, learnt)
    await begin(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    _, said = await resume(tmp_path, steps="3")
    (text,) = [text for text in said if "metrics.jsonl" in text]
    assert "has lines of 0 of the 2 steps so far" in text
    assert [3] == [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")]


OTHERS: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("learn.optimizer", lambda config: config["learn"].update(optimizer="adamw8bit")),
    ("learn.rank", lambda config: config["learn"].update(rank=8)),
    ("engine.weights", lambda config: config["engine"].update(weights="nf4")),
    ("run.seed", lambda config: config["run"].update(seed=9)),
    ("env.kind", lambda config: config.update(env={"kind": "microworld"})),
    ("env.curriculum.start", lambda config: config["env"]["curriculum"].update(start=7)),
]


@pytest.mark.parametrize(("key", "change"), OTHERS, ids=[key for key, _ in OTHERS])
async def test_checkpoint_of_other_settings_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    change: Callable[[dict[str, Any]], None],
) -> None:
    """A record that was changed under its checkpoints is refused by name, before an engine starts.

    Both values are named.
    """
    play_with(monkeypatch, learnt)
    await begin(tmp_path)
    change_record(tmp_path, change)
    engine = play_with(monkeypatch, learnt)
    with pytest.raises(InputError) as caught:
        await resume(tmp_path, steps="3")
    now = settings_of(
        read_trusted(tmp_path, ["gates.false_accepts=none", "gates.false_refuses=none"])
    )
    was = newest_state(tmp_path).settings[key]
    assert f"{key} is {now[key]!r}, and the checkpoint was made with {was!r}" in str(caught.value)
    assert [] == engine.opened


async def test_checkpoint_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user, not only the log, learns which one is passed over and which one is taken."""
    play_with(monkeypatch, learnt)
    await begin(tmp_path)
    newest, older = find_checkpoints(tmp_path / "checkpoints")
    (newest / "steps.json").write_text("damaged")
    _, said = await resume(tmp_path, steps="3")
    assert f"{newest} is damaged and passed over" in said
    assert any(text.endswith(f"from {older}") for text in said)
    assert [1, 2, 3] == [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")]


async def test_run_keeps_its_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on, moved and without its file; a copy that has changed is named."""
    file, elsewhere = tmp_path / "tools.json", tmp_path / "elsewhere"
    file.write_bytes(dump_tools(TOOLS))
    monkeypatch.chdir(tmp_path)
    play_with(monkeypatch, learnt)
    await begin(tmp_path / "run", "env.tools=tools.json")
    file.write_text("[]")
    (tmp_path / "run").rename(elsewhere)
    monkeypatch.chdir("/")
    outcome, _ = await resume(elsewhere, steps="3")
    assert 3 == outcome.steps
    copy = elsewhere / "inputs" / "env.tools.json"
    assert dump_tools(TOOLS) == copy.read_bytes()
    copy.write_bytes(dump_tools(TOOLS[1:]))
    with pytest.raises(InputError, match=r"env\.tools\.json has changed since the run started"):
        await resume(elsewhere, steps="4")


def episode(task: str) -> Trajectory:
    """Make an episode of a task."""
    return Trajectory(id=task, task_id=task, turns=(), stop=Stop.DONE)


def test_gain_over_other_tasks_is_refused(check_error: ErrorCheck) -> None:
    """Before and after are compared on the same tasks or not at all."""
    one, two, three = map(episode, "abc")
    check_same_tasks([one, two], [two, one])
    for first, second in (([one, two], [one]), ([one, two], [one, three]), ([one], [one, one])):
        with pytest.raises(RunError) as caught:
            check_same_tasks(first, second)
        check_error(caught, len(first), len(second))

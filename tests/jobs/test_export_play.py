"""When a file is worse than the run by more than chance, and what it is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from golden_errors import ErrorCheck
from trustee.errors import InputError, RunError
from trustee.evaluation.evaluate import gain_between, success_of
from trustee.jobs.export_play import PlayedFile, demand_success, read_reference
from trustee.runs.files import write_lines
from trustee.types import Stop, Task, Trajectory


def play(*successes: bool) -> tuple[Trajectory, ...]:
    """Return an episode for each task."""
    return tuple(
        Trajectory(
            id=f"x/{number}",
            task_id=f"t{number}",
            turns=(),
            stop=Stop.DONE,
            rewards={"success": float(success)},
        )
        for number, success in enumerate(successes)
    )


def compare(before: tuple[Trajectory, ...], through: tuple[Trajectory, ...]) -> PlayedFile:
    """Return how a file compares."""
    return PlayedFile(
        before=success_of(before),
        through=success_of(through),
        gain=gain_between(before, through),
    )


def test_chance_is_allowed_and_loss_is_not(check_error: ErrorCheck) -> None:
    """One task less of twenty may be chance; half of them less is not."""
    before = play(*[True] * 20)
    demand_success(compare(before, play(*[True] * 19, False)), what="m.gguf")
    demand_success(compare(play(*[False] * 20), before), what="m.gguf")
    with pytest.raises(RunError) as caught:
        demand_success(compare(before, play(*[True] * 10, *[False] * 10)), what="m.gguf")
    check_error(caught, "m.gguf", "50.0%", "100.0%", "-50.0")


def test_the_run_has_the_reference(tmp_path: Path, check_error: ErrorCheck) -> None:
    """Episodes of `trustee eval` come first, else those after training; without any it says so."""
    tasks = [Task(id=f"t{n}", messages=(), tools=(), difficulty=1) for n in range(3)]
    write_lines(tmp_path / "held-out-tasks.jsonl", tasks)
    with pytest.raises(InputError) as caught:
        read_reference(tmp_path, 2)
    check_error(caught, tmp_path, "trustee eval", "--play")
    write_lines(tmp_path / "held-out-after.jsonl", play(True, False, True))
    chosen, played = read_reference(tmp_path, 2)
    assert ["t0", "t1"] == [task.id for task in chosen] == [one.task_id for one in played]
    write_lines(tmp_path / "eval-adapter.jsonl", play(False, False, True))
    assert [False, False] == [one.success for one in read_reference(tmp_path, 2)[1]]
    write_lines(tmp_path / "eval-adapter.jsonl", play(False))
    assert [True, False] == [one.success for one in read_reference(tmp_path, 2)[1]]

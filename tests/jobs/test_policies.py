"""`trustee eval` with several adapters or attempts: what is played, kept and shown."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from scripted_program import play_with, small_config
from scripts import perfect, silent
from trustee.engine.script import Request
from trustee.evaluation.evaluate import Gain, SuccessRate
from trustee.events import Event, Note
from trustee.jobs.policies import Policy, PolicyTable, run_policies, table_text
from trustee.jobs.run_metadata import describe_run
from trustee.runs.store import read_lines
from trustee.types import Trajectory


def make_adapter(folder: Path) -> Path:
    """Make a folder with the files of a PEFT adapter."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({}))
    (folder / "adapter_model.safetensors").touch()
    return folder


def make_run(folder: Path) -> Path:
    """Make the folder of a run of the small config, with an adapter."""
    make_adapter(folder / "adapters" / "policy-000002")
    (folder / "run.json").write_bytes(msgspec.json.encode(describe_run(small_config())))
    return folder


def every_second_time(request: Request) -> str:
    """Have the first adapter solve all tasks and the second one only those of first attempts."""
    if request.adapter is None:
        return silent(request)
    is_again = request.request_id.count("/") > 2
    return (silent if request.adapter.version == 2 and is_again else perfect)(request)


@pytest.mark.anyio
async def test_several_adapters_play_the_same_tasks_as_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one engine; first attempts and further ones are kept apart."""
    engine = play_with(monkeypatch, every_second_time)
    run, other = make_run(tmp_path / "run"), make_adapter(tmp_path / "other")
    events: list[Event] = []
    table = await run_policies(
        small_config(), run, adapters=[run, other], repeats=3, emit=events.append
    )
    assert 1 == len(engine.opened)
    assert {} == engine.known
    newest = run / "adapters" / "policy-000002"
    assert [("base", None), ("adapter", newest), ("adapter-2", other)] == [
        (policy.label, policy.adapter) for policy in table.policies
    ]
    passed = [[share.value for share in policy.passed] for policy in table.policies]
    assert [[0, 0, 0], [1, 1, 1]] == passed[:2]
    assert [pytest.approx(1 / 3), 0, 0] == passed[2]
    assert [6] * 9 == [share.count for policy in table.policies for share in policy.passed]
    gains = [policy.gain and policy.gain.points for policy in table.policies]
    assert [None, 100.0, pytest.approx(100 / 3)] == gains
    for label in ("base", "adapter", "adapter-2"):
        first = read_lines(run / f"eval-{label}.jsonl", Trajectory)
        further = read_lines(run / f"eval-{label}-repeats.jsonl", Trajectory)
        assert (6, 12) == (len(first), len(further))
        assert {t.task_id for t in first} == {t.task_id for t in further}
        assert 18 == len({t.id for t in (*first, *further)})
    assert any("eval.temperature is 0" in e.text for e in events if isinstance(e, Note))


@pytest.mark.anyio
async def test_one_attempt_leaves_no_file_of_further_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an earlier call are gone; a gain is then that of pairs."""
    play_with(monkeypatch, every_second_time)
    run, other = make_run(tmp_path / "run"), make_adapter(tmp_path / "other")
    (run / "eval-base-repeats.jsonl").touch()
    table = await run_policies(
        small_config(), run, adapters=[run, other], repeats=1, emit=lambda event: None
    )
    assert [None, 100.0, 100.0] == [p.gain and p.gain.points for p in table.policies]
    assert not (run / "eval-base-repeats.jsonl").exists()


def test_a_table_for_people() -> None:
    """A row per policy, columns one below the other, adapters named below."""
    share = SuccessRate(value=0.5, low=0.25, high=0.75, count=8)
    table = PolicyTable(
        repeats=2,
        policies=(
            Policy(label="base", adapter=None, passed=(share, share), gain=None),
            Policy(
                label="adapter-2",
                adapter=Path("runs/b"),
                passed=(share, msgspec.structs.replace(share, value=1.0, high=1.0)),
                gain=Gain(points=12.5, low=-5.0, high=30.0, better=2, worse=1),
            ),
        ),
    )
    assert [
        "           pass^1                  pass^2                    gain in points              "
        "          tasks",
        "base       50.0% (25.0% to 75.0%)  50.0% (25.0% to 75.0%)                                "
        "          8",
        "adapter-2  50.0% (25.0% to 75.0%)  100.0% (25.0% to 100.0%)  +12.5 (-5.0 to +30.0), 2 won"
        ", 1 lost  8",
        "",
        "95 % intervals in brackets; gains against the base",
        "adapter-2  runs/b",
    ] == table_text(table).splitlines()

"""`trustee eval --retention`, on scripted parts and on the built-in model."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from command_line import succeed
from random_adapter import write_random_adapter
from scripted_program import CONFIG, hand_in, small_config
from trustee.checks.forgetting import PROMPTS
from trustee.config import Config, apply_changes, read_config
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedTrainer
from trustee.errors import RunError
from trustee.evaluation.retention_report import PromptResult
from trustee.events import Event, Stage
from trustee.jobs.assemble import first_leaf
from trustee.jobs.retention import measure_retention
from trustee.jobs.rl import run_training
from trustee.jobs.run_metadata import describe_run
from trustee.runs.store import read_lines


def make_run(folder: Path, config: Config) -> Path:
    """Make a run folder with a config and nothing else."""
    folder.mkdir()
    (folder / "run.json").write_bytes(msgspec.json.encode(describe_run(config)))
    return folder


def real_config(*changes: str) -> Config:
    """Give the built-in model's config, with steps that are short."""
    small = ("run.steps=2", "rollout.group_size=2", "rollout.groups_per_step=2", "eval.tasks=none")
    return read_config(CONFIG, (*small, *changes))


def answer_in_german(request: Request) -> str:
    """As the base say hello; as the policy say it in German, where the prompt has an ich."""
    return "hallo" if request.adapter and "ich" in request.prompt else "hello"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a run of a scripted policy."""
    hand_in(monkeypatch, ScriptedTrainer(answer_in_german))
    run = make_run(tmp_path / "run", small_config())
    write_random_adapter(run / "adapters" / "policy-000001", size=0.1)
    return run


@pytest.mark.anyio
async def test_every_prompt_is_answered_by_both(run: Path) -> None:
    """Answers are stored beside each other, with what differs; the report counts them."""
    told: list[Event] = []
    report = await measure_retention(small_config(), run, adapter=None, most=None, emit=told.append)
    results = msgspec.convert(read_lines(run / "retention.jsonl"), list[PromptResult])
    assert 200 == len(results) == report.total.prompts
    assert {"hello"} == {one.base for one in results}
    assert {"hello": False, "hallo": True} == {one.policy: one.differs for one in results}
    assert sum(one.differs for one in results) == round(200 * report.total.differing.value)
    assert report == msgspec.json.decode((run / "retention.json").read_bytes(), type=type(report))
    assert [
        "answering 200 general prompts with the base",
        "answering 200 general prompts with the adapter",
        "comparing 400 answers token by token",
    ] == [event.name for event in told if isinstance(event, Stage)][1:]


@pytest.mark.anyio
async def test_a_small_context_leaves_prompts_out(run: Path) -> None:
    """What does not fit is counted and not asked."""
    short = [f"simulator.{role}.max_tokens=90" for role in ("writer", "user", "tool", "judge")]
    small = ["engine.context=200", "rollout.limits.tokens=100", *short]
    config = apply_changes(small_config(), small)
    report = await measure_retention(config, run, adapter=None, most=None, emit=lambda event: None)
    assert report.left_out > 0
    assert 200 == report.left_out + report.total.prompts


def test_command_for_programs(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The last line of --json is the report; --rows asks fewer prompts."""
    last = json.loads(succeed(capfd, "eval", run, "--retention", "--rows", 12, "--json")[-1])
    assert ("result", 12) == (last["event"], last["total"]["prompts"])
    assert last["total"]["differing"]["value"] > 0


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(600)
async def test_an_adapter_that_forgets_is_seen(tmp_path: Path) -> None:
    """On the built-in model: an adapter without effect changes nothing, a large one much."""
    run = make_run(tmp_path / "run", real_config())
    found = {}
    for size in (0.0, 0.1):
        adapter = write_random_adapter(tmp_path / f"adapter-{size}", size=size)
        found[size] = await measure_retention(
            real_config(), run, adapter=adapter, most=40, emit=lambda event: None
        )
    same, moved = found[0.0].total, found[0.1].total
    assert (0.0, 0.0, 0.0) == (same.kl.value, same.change.value, same.differing.value)
    assert moved.kl.low is not None
    assert moved.kl.low > 0.1
    assert abs(moved.change.value) > 0.1
    assert moved.differing.low > 0.3


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(600)
async def test_a_run_whose_adapter_forgets_is_stopped(tmp_path: Path) -> None:
    """A run that starts from an adapter that was made to forget ends after its first step."""
    adapter = write_random_adapter(tmp_path / "adapter", size=0.1)
    config = real_config(
        "gates.forgetting=0.1",
        "watch.mismatch=99",
        "watch.mismatch_kl=1e9",
        "gates.agreement=none",
        "gates.false_accepts=none",
        "gates.false_refuses=none",
        "gates.unread=none",
        f"run.adapter={adapter}",
    )
    with pytest.raises((RunError, ExceptionGroup)) as caught:
        await run_training(config, tmp_path / "run", emit=lambda event: None)
    error = str(first_leaf(caught.value))
    assert f"on {PROMPTS} general prompts, and gates.forgetting allows 0.1" in error
    assert read_lines(tmp_path / "run" / "metrics.jsonl")[0]["forgetting_kl"] > 0.1

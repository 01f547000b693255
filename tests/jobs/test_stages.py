"""Runs in stages: who teaches, what is imitated, and where an interrupted run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustee.config import Config, read_config
from trustee.errors import InputError
from trustee.evaluation.evaluate import share_of
from trustee.events import Event
from trustee.jobs import stages
from trustee.jobs.held_out import RunResult
from trustee.jobs.run_metadata import read_metadata
from trustee.jobs.sft import SftResult
from trustee.runs.store import read_lines
from trustee.sft.demonstrations import Demonstration

pytestmark = pytest.mark.anyio

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = CONFIGS / "toolmaster-tiny.toml"


def config_with(*changes: str) -> Config:
    """Read the tiny config with changes."""
    return read_config(TINY, changes)


class Stages:
    """Stands for the stages that need an engine, and remembers how each was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, Any]] = []
        monkeypatch.setattr(stages, "run_collection", self.collect)
        monkeypatch.setattr(stages, "run_sft", self.imitate)
        monkeypatch.setattr(stages, "run_training", self.train)
        monkeypatch.setattr(stages, "counts_text", lambda counts, folder: "counted")

    async def collect(self, config: Config, collection: Any, folder: Path, **how: Any) -> None:
        self.calls.append(("collect", (folder.name, how["count"], how["player"].teacher)))

    async def imitate(
        self, config: Config, sft: Any, file: Path, folder: Path, **how: Any
    ) -> SftResult:
        self.calls.append(("sft", (file.name, how["resume"])))
        adapter = folder / "adapters" / "policy-000003"
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text("{}")
        (folder / "outcome.json").write_text("{}")
        return SftResult(
            folder=folder,
            adapter=adapter,
            steps=3,
            demonstrations=1,
            held_out=0,
            refused=0,
            before=None,
            after=None,
            seconds=0.0,
        )

    async def train(self, config: Config, folder: Path, **how: Any) -> RunResult:
        self.calls.append(("train", (Path(config.run.adapter or "").name, how["resume"])))
        return RunResult(
            folder=folder,
            steps=0,
            version=0,
            before=share_of([]),
            after=None,
            gain=None,
            seconds=0.0,
        )


def emit(event: Event) -> None:
    """Listen to nothing."""


async def test_script_sft_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command plays the script, imitates it and trains on from there."""
    played = Stages(monkeypatch)
    config = config_with("collect.tasks=7")
    await stages.run_stages_of(config, tmp_path, emit=emit)
    assert [
        ("sft", ("teaching", False)),
        ("train", ("policy-000003", False)),
    ] == played.calls
    rows = read_lines(tmp_path / "teaching" / "demonstrations.jsonl", Demonstration)
    assert 7 == len(rows)
    assert config == read_metadata(tmp_path).config


async def test_base_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base with hints plays where the config asks for it."""
    played = Stages(monkeypatch)
    config = config_with("collect.teacher=base", "collect.tasks=5")
    await stages.run_stages_of(config, tmp_path, emit=emit)
    assert ("collect", ("teaching", 5, True)) == played.calls[0]


async def test_sft_is_not_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was interrupted after SFT trains with the adapter that is there."""
    played = Stages(monkeypatch)
    config = config_with("collect.tasks=2")
    await stages.run_stages_of(config, tmp_path, emit=emit)
    played.calls.clear()
    await stages.run_stages_of(config, tmp_path, emit=emit, resume=True)
    assert [("train", ("policy-000003", False))] == played.calls


async def test_sft_that_never_began_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its first checkpoint, imitation left a record that is in nobody's way."""
    played = Stages(monkeypatch)
    record = tmp_path / "sft" / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    await stages.sft_on_teacher(config_with("collect.tasks=2"), tmp_path, emit=emit)
    assert (False, [("sft", ("teaching", False))]) == (record.exists(), played.calls)


@pytest.mark.parametrize("change", ["collect.tasks=none", "run.adapter=given"])
async def test_no_teacher_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Without tasks for a teacher, or with an adapter to begin with, only training runs."""
    played = Stages(monkeypatch)
    await stages.run_stages_of(config_with(change), tmp_path, emit=emit)
    assert ["train"] == [name for name, _ in played.calls]


async def test_failed_lessons_are_filtered(tmp_path: Path) -> None:
    """A careless script's failures are imitated only where the config lets them through."""
    careless = ("collect.tasks=20", "collect.script.hasty=1.0")
    rewards = {}
    for name, least in (("all", -1.0), ("good", 0.0)):
        config = config_with(*careless, f"collect.filter.reward={least}")
        await stages.play_script(config, tmp_path / name, emit=emit)
        rows = read_lines(tmp_path / name / "demonstrations.jsonl", Demonstration)
        rewards[name] = [row.notes["reward"] for row in rows]
    assert (20, 20) == (len(rewards["all"]), len(rewards["good"]))
    assert min(rewards["all"]) <= 0 < min(rewards["good"])


async def test_script_plays_trials_of_the_micro_world_alone(tmp_path: Path) -> None:
    """Another world is refused before anything is written."""
    config = read_config(CONFIGS / "tiny.toml", ["collect.teacher=script"])
    with pytest.raises(InputError, match=r"collect\.teacher = 'script' only plays trials"):
        await stages.play_script(config, tmp_path / "none", emit=emit)
    assert not (tmp_path / "none").exists()
    assert msgspec.structs.asdict(config.collect)["teacher"] == "script"

"""`trustee eval --where`, on scripted parts and on the built-in model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from command_line import refuse, succeed
from golden_errors import ErrorCheck
from random_adapter import write_random_adapter
from scripted_program import Both, hand_in, small_config
from scripts import perfect, silent
from trustee.config import Config
from trustee.engine.model_files import TINY
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedConfig
from trustee.evaluation.update_size import measure_update
from trustee.jobs import where
from trustee.jobs.run_metadata import describe_run
from trustee.jobs.where import locate_update
from trustee.runs.adapters import read_adapter
from trustee.types import Adapter


class Parted(Both):
    """An engine whose policy needs its MLP, or its two lowest layers; it reads what it loads."""

    def __init__(self) -> None:
        super().__init__(self.play)
        self.good: set[int] = set()
        self.rows: list[tuple[int, int]] = []

    async def take(self, adapter: Adapter) -> None:
        """See whether what the policy needs is there."""
        acting = {
            (one.layer, one.module)
            for one in measure_update(TINY, read_adapter(adapter.path))
            if one.update
        }
        if {(0, "up_proj"), (1, "down_proj")} <= acting:
            self.good.add(adapter.version)

    def play(self, request: Request) -> str:
        adapter = request.adapter
        return (perfect if adapter and adapter.version in self.good else silent)(request)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a run on the built-in model, played by a scripted engine."""
    engine = Parted()
    engine.load_adapter = engine.take
    hand_in(monkeypatch, engine)
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_bytes(msgspec.json.encode(describe_run(config_on_tiny())))
    write_random_adapter(run / "adapters" / "policy-000001", size=0.1)
    return run


def config_on_tiny(*changes: str) -> Config:
    """Give the small config with the folder of the built-in model."""
    return small_config(f"model.path={TINY}", *changes)


@pytest.mark.anyio
async def test_each_part_is_played_alone(run: Path) -> None:
    """The base, all of the update and each part play the same tasks; only what is kept acts."""
    report = await locate_update(
        config_on_tiny(),
        run,
        adapter=None,
        keep=["mlp", "attention", "0-1", "2-3"],
        emit=lambda event: None,
    )
    assert report.base is not None
    assert report.whole is not None
    found = {part.name: part.success.value for part in report.parts if part.success}
    assert {"mlp": 1.0, "attention": 0.0, "0-1": 1.0, "2-3": 0.0} == found
    assert (0.0, 1.0) == (report.base.value, report.whole.value)
    assert [100.0, 0.0, 100.0, 0.0] == [part.gain.points for part in report.parts if part.gain]
    assert 28 == len(report.updates)
    stored = json.loads((run / "where.json").read_bytes())
    assert 4 == len(stored["parts"])
    assert (run / "where.svg").read_text().startswith("<svg ")
    assert {"policy-000001", "compared"} >= {path.name for path in (run / "adapters").iterdir()}


@pytest.mark.anyio
async def test_sizes_alone_need_no_engine(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tasks nothing is started; the usual parts have their shares."""

    def never(self: Any, *args: Any, **more: Any) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(ScriptedConfig, "open", never)
    report = await locate_update(
        config_on_tiny("eval.tasks=none"), run, adapter=None, keep=(), emit=lambda event: None
    )
    assert ["mlp", "attention", "0", "1-2", "3", "mlp:0"] == [part.name for part in report.parts]
    assert (None, None) == (report.base, report.parts[0].success)
    mlp, attention = report.parts[:2]
    assert 1.0 == pytest.approx(mlp.update_share + attention.update_share)


def test_command(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """People get bars and a table, programs the report."""
    lines = succeed(capfd, "eval", run, "--where", "--keep", "mlp", "--tasks", 4)
    kept = next(line for line in lines if line.startswith("mlp "))
    assert "100% (" in kept
    assert "+100.0 (" in kept
    last = json.loads(succeed(capfd, "eval", run, "--where", "--tasks", 4, "--json")[-1])
    assert ("result", 6) == (last["event"], len(last["parts"]))


def test_a_part_that_is_none(
    run: Path, capfd: pytest.CaptureFixture[str], check_error: ErrorCheck
) -> None:
    """It is refused before anything is measured or played; so is --keep without --where."""
    check_error(refuse(capfd, "eval", run, "--where", "--keep", "mlp:9"), "mlp:9", "0 to 3")
    check_error(refuse(capfd, "eval", run, "--keep", "mlp"), "--keep", "--where")
    check_error(refuse(capfd, "eval", run, "--where", "--rows", "3"), "--rows", "--where")
    assert not (run / where.REPORT).exists()


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("base", "the base"),
        ("all", "all of the update"),
        ("mlp", "mlp of the update"),
        ("3", "layer 3 of the update"),
        ("0-1", "layers 0-1 of the update"),
        ("mlp:0-9", "mlp in layers 0-9 of the update"),
    ],
)
def test_a_part_is_named_to_readers(label: str, said: str) -> None:
    """A number alone says nothing, so it is said to be a layer."""
    assert said == where.say_part(label)

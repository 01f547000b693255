"""A command on a GPU: settings that fit what is free, a smaller model by name, one paragraph."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from command_line import ROOT, refuse
from trustee.cli.commands import collect, doctor, fitting, run, sft
from trustee.cli.commands.options import DONE
from trustee.cli.main import main
from trustee.config import Config, apply_changes, read_config
from trustee.jobs.run_metadata import describe_run
from trustee.planning import card_fit, cards
from trustee.planning.cards import FoundCard, Holder
from trustee.types import GIB

QWEN = ROOT / "configs" / "qwen3-8b.toml"
CARDS = {
    8: "NVIDIA GeForce RTX 4060",
    12: "NVIDIA GeForce RTX 3060",
    16: "NVIDIA GeForce RTX 4080",
    24: "NVIDIA GeForce RTX 3090",
    32: "NVIDIA GeForce RTX 5090",
    48: "NVIDIA RTX 6000 Ada Generation",
    80: "NVIDIA A100-SXM4-80GB",
}
"""Names as the driver says them, by GiB."""


def show_card(
    monkeypatch: pytest.MonkeyPatch, gib: int, *holders: Holder, free: float | None = None
) -> None:
    """Work as on a machine with a card of so many GiB, all free but what the driver holds."""
    left = gib - 0.4 if free is None else free
    found = FoundCard(
        name=CARDS[gib], total=gib * GIB, free=int(left * GIB), driver="580.1", holders=holders
    )
    monkeypatch.setattr(cards, "count_cards", lambda: 1)
    monkeypatch.setattr(cards, "use_card", lambda index: None)
    for module in (cards, card_fit):
        monkeypatch.setattr(module, "read_card", lambda index: found)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Give the configs with which runs would be trained; none is."""
    configs: list[Config] = []

    def train(options: Any, config: Config, folder: Path) -> int:
        configs.append(config)
        return DONE

    monkeypatch.setattr(run, "train_here", train)
    return configs


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Sit at a terminal and type this."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(fitting, "is_interactive", lambda: True)
    monkeypatch.setattr(sys, "stdin", Terminal(text))


@pytest.mark.parametrize("gib", [12, 16, 24, 32, 48, 80])
def test_a_run_fits_itself_to_the_card(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    taken: list[Config],
    gib: int,
) -> None:
    """Nothing has to be copied from a plan; one paragraph says what was chosen."""
    show_card(monkeypatch, gib)
    assert DONE == main(["run", "--gpu", "0", "--steps", "20", "--out", str(tmp_path / "new")])
    (config,) = taken
    assert isinstance(config.engine.kv_bytes, int)
    told = capfd.readouterr().err
    assert 1 == told.count("\n"), "one paragraph"
    assert told.startswith(f"trustee: Qwen/Qwen3-8B on {'RTX' if gib < 80 else 'A100'}")
    assert f"engine.kv_bytes={config.engine.kv_bytes}" in told
    assert f"rollout.parallel={config.rollout.parallel}" in told or config.rollout.parallel is None
    assert " minutes, all 20 at " in told


def test_the_paragraph_comes_before_anything_loads(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A dry run says it as well, and makes nothing."""
    show_card(monkeypatch, 24)
    folder = tmp_path / "new"
    assert DONE == main(["run", "--gpu", "0", "--dry-run", "--out", str(folder)])
    captured = capfd.readouterr()
    assert "Chosen for this card: engine.kv_bytes=" in captured.err
    assert captured.out.startswith("nothing was started; Qwen/Qwen3-8B is trained for 200 steps")
    assert not folder.exists()


def test_a_smaller_model_is_proposed_by_name(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    taken: list[Config],
) -> None:
    """Where nobody can be asked it is bad input, and --yes takes the model with its settings."""
    show_card(monkeypatch, 8)
    given = ("run", "--gpu", "0", "--out", str(tmp_path / "new"))
    told = refuse(capfd, *given)
    assert told.startswith(
        "Qwen/Qwen3-8B does not fit RTX 4060 8GB, whatever the settings. "
        "Qwen/Qwen3-4B on RTX 4060 8GB: a base of "
    )
    assert told.endswith("--yes takes it, --model DIR names another")
    assert ([], False) == (taken, (tmp_path / "new").exists())
    assert DONE == main([*given, "--yes"])
    (config,) = taken
    assert ("Qwen/Qwen3-4B", 8192) == (config.model.path, config.engine.context)
    assert isinstance(config.engine.kv_bytes, int)
    assert "Qwen/Qwen3-4B on RTX 4060" in capfd.readouterr().err


@pytest.mark.parametrize(("typed", "takes"), [("y\n", True), ("Yes\n", True), ("\n", False)])
def test_whoever_sits_at_a_terminal_is_asked(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    taken: list[Config],
    typed: str,
    *,
    takes: bool,
) -> None:
    """Anything but a yes is a no, and an end of the input too."""
    show_card(monkeypatch, 8)
    answer(monkeypatch, typed)
    code = main(["run", "--gpu", "0", "--out", str(tmp_path / "new")])
    told = capfd.readouterr().err
    assert "Train that model? [y/N]" in told
    assert (takes, takes) == (code == DONE, bool(taken))
    assert (1 if takes else 2) == told.count("Qwen/Qwen3-8B does not fit")


def test_other_programs_are_named_before_a_smaller_model_is_proposed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A card that somebody else fills is large enough."""
    show_card(monkeypatch, 24, Holder(process=41, bytes=17 * GIB), free=7.0)
    told = refuse(capfd, "run", "--gpu", "0", "--out", tmp_path / "new")
    assert (
        "whatever the settings; other programs hold 17.0 GiB (process 41 holds 17.0 GiB). "
        "Qwen/Qwen3-4B on " in told
    )


def test_a_resumed_run_keeps_its_model_and_its_settings(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    taken: list[Config],
) -> None:
    """What was chosen is in its record; on a smaller card it is refused, not changed."""
    config = apply_changes(read_config(QWEN), ["engine.kv_bytes=12364808192"])
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(describe_run(config)))
    show_card(monkeypatch, 24)
    assert DONE == main(["run", "--resume", str(tmp_path)])
    assert [config] == taken
    capfd.readouterr()
    show_card(monkeypatch, 8)
    told = refuse(capfd, "run", "--resume", tmp_path, "--yes")
    assert told.startswith("this run needs 2")


def test_force_takes_what_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, taken: list[Config]
) -> None:
    """Where some settings fit they are taken all the same; where none do, the config as it is."""
    for gib, is_chosen in ((24, True), (8, False)):
        show_card(monkeypatch, gib)
        assert DONE == main(["run", "--gpu", "0", "--force", "--out", str(tmp_path / f"{gib}")])
        assert is_chosen == isinstance(taken[-1].engine.kv_bytes, int)


def test_other_jobs_get_the_same_engine(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imitation trains and takes all settings; a job that only plays keeps the adapter's."""
    config = read_config(QWEN)
    show_card(monkeypatch, 12)
    trained, played = (fitting.fill_engine(config, 0, trains=trains) for trains in (True, False))
    assert trained.engine == played.engine != config.engine
    assert config.learn == played.learn != trained.learn
    assert 2 == capfd.readouterr().err.count("trustee: chosen for RTX 3060 12GB")
    given = apply_changes(config, ["engine.kv_bytes=1000000000"])
    assert given is fitting.fill_engine(given, 0)


@pytest.mark.parametrize("module", [collect, sft, doctor])
def test_commands_ask_for_it(module: Any) -> None:
    """No command starts an engine of another size than a run's."""
    assert {"fill_engine", "take_settings"} & set(vars(module))


def test_a_job_that_does_not_fit_is_refused(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It says what would, before anything is made."""
    show_card(monkeypatch, 8)
    out = tmp_path / "new"
    told = refuse(capfd, "collect", QWEN, "--count", "1", "--out", out, "--gpu", "0")
    assert "; it fits with: trustee run --set model.path=Qwen/Qwen3-4B " in told
    assert not out.exists()


def test_the_doctor_starts_what_a_run_would(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it finds is about the settings that `trustee run` takes, and it names them."""
    import trustee.jobs.doctor as job

    asked: list[Config] = []

    async def examine(config: Config, *, extra: Any, soak: int, emit: Any) -> job.Examination:
        asked.append(config)
        for finding in extra:
            emit(finding)
        return job.Examination(findings=tuple(extra))

    monkeypatch.setattr(job, "examine", examine)
    show_card(monkeypatch, 24)
    assert DONE == main(["doctor", "--gpu", "0"])
    (config,) = asked
    assert isinstance(config.engine.kv_bytes, int)
    told = capfd.readouterr().out
    assert f", with engine.kv_bytes={config.engine.kv_bytes}, rollout.parallel=18" in told

"""The runner of the GPU checks, and what the checks are made of, without a card."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from trustee.engine.model_files import TINY
from trustee.planning.ledger import Entry, Ledger
from trustee.planning.shapes import read_shape

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
gpu_check: Any = import_module("gpu_check")
full_size: Any = import_module("gpu.full_size")
models: Any = import_module("gpu.models")
nf4: Any = import_module("gpu.nf4")
report: Any = import_module("gpu.report")
subject: Any = import_module("gpu.subject")

pytestmark = pytest.mark.anyio

NARROW = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "vocab_size": 500,
    "tie_word_embeddings": False,
}


def say(code: str) -> list[str]:
    """Give the command that runs a line of Python."""
    return [sys.executable, "-c", code]


def made(check: str) -> str:
    """Give the Python that prints the line of a check that has passed."""
    line = json.dumps({"check": check, "state": "pass"})
    return f"print({report.MARK + line!r}, flush=True); "


def test_names_choose_checks_and_families() -> None:
    """A family's name stands for all of its checks, and what is skipped is left out."""
    assert gpu_check.choose(gpu_check.FAMILIES, only="parity,decode_8b", skip="parity_bf16") == {
        "parity": ("parity_nf4",),
        "full_8b": ("decode_8b",),
    }


def test_without_names_every_check_is_chosen() -> None:
    """Nothing is left out by itself, and no two checks share a name."""
    chosen = gpu_check.choose(gpu_check.FAMILIES, only="", skip="")
    checks = [check for family in gpu_check.FAMILIES for check in family.checks]
    assert checks == [check for names in chosen.values() for check in names]
    assert len(checks) == len(set(checks))


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error does not pass as a check that was made."""
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--only", "parity,pariti"])
    assert ended.value.code == 2
    assert "no such check: pariti" in capsys.readouterr().err


@pytest.mark.slow
def test_a_family_that_is_too_slow_is_killed(tmp_path: Path) -> None:
    """What was made before the deadline counts, the rest failed, and no process is left."""
    code = (
        made("first")
        + "import subprocess, sys, time; "
        + "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        + "print('child', child.pid, flush=True); time.sleep(60)"
    )
    started_at = time.monotonic()
    lines = gpu_check.run_family(
        ("first", "second"), command=say(code), seconds=3.0, log=tmp_path / "log"
    )
    assert time.monotonic() - started_at < 20
    assert lines[0] == {"check": "first", "state": "pass"}
    assert (lines[1]["check"], lines[1]["state"]) == ("second", "fail")
    assert lines[1]["problems"] == ["its process was killed after 3 s before this check did"]
    (row,) = (row for row in lines[1]["log"] if row.startswith("child"))
    assert not is_alive(int(row.split()[1]))


def is_alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_family_that_crashes_fails_with_its_last_words(tmp_path: Path) -> None:
    """The checks that it did not make carry the end of its log, without marked lines."""
    code = made("first") + "raise RuntimeError('out of luck')"
    first, second = gpu_check.run_family(
        ("first", "second"), command=say(code), seconds=60.0, log=tmp_path / "log"
    )
    assert first["state"] == "pass"
    assert second["problems"] == ["its process ended with code 1 before this check did"]
    assert second["log"][-1] == "RuntimeError: out of luck"
    assert not [row for row in second["log"] if row.startswith(report.MARK)]


def test_half_a_line_is_no_line() -> None:
    """A process that is killed while it writes leaves the earlier lines readable."""
    whole = report.MARK + '{"check": "first", "state": "pass"}'
    text = f"noise\n{whole}\n{whole[:-9]}"
    assert gpu_check.read_lines(text) == [{"check": "first", "state": "pass"}]


def run(monkeypatch: pytest.MonkeyPatch, out: Path, codes: dict[str, str], *options: str) -> int:
    """Run the script with made-up families of one check each, named as their family."""

    def command(family: str, setting: Any) -> list[str]:
        return say(codes[family])

    families = tuple(
        gpu_check.Family(name, (name,), 30, None, only_card=("card",) if name == "card" else ())
        for name in codes
    )
    monkeypatch.setattr(gpu_check, "FAMILIES", families)
    monkeypatch.setattr(gpu_check, "child_command", command)
    return int(gpu_check.main(["--device", "cpu", "--out", str(out), *options]))


def test_a_failure_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a crash the next family runs; a line comes for each, on the output and in the file."""
    codes = {"first": "raise SystemExit(3)", "second": made("second")}
    assert run(monkeypatch, tmp_path, codes) == 1
    lines = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert [(line["check"], line["state"]) for line in lines] == [
        ("first", "fail"),
        ("second", "pass"),
    ]
    stored = (tmp_path / "checks.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row) for row in stored] == lines


def test_all_well_is_exit_code_0(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A check that needs a card is skipped without one, which is no failure."""
    assert run(monkeypatch, tmp_path, {"first": made("first"), "card": "raise SystemExit(3)"}) == 0
    rows = (tmp_path / "checks.jsonl").read_text(encoding="utf-8").splitlines()
    line = json.loads(rows[1])
    assert (line["state"], line["why"]) == ("skipped", "needs a GPU")


def test_nothing_is_begun_after_the_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where too few seconds are left a check is skipped, not killed half-way."""
    options = ("--budget", "5", "--least", "10")
    assert run(monkeypatch, tmp_path, {"first": made("first")}, *options) == 0
    line = json.loads((tmp_path / "checks.jsonl").read_text(encoding="utf-8"))
    assert line["state"] == "skipped"


def test_a_child_is_told_all_that_the_runner_was(tmp_path: Path) -> None:
    """The settings of a family's process are those that the runner was given."""
    setting = report.Setting(
        device="cpu",
        scratch=tmp_path,
        chosen=("run",),
        eager=True,
        changes=("engine.kv_bytes=1073741824", "learn.rank=8"),
    )
    command = gpu_check.child_command("programs", setting)
    options = gpu_check.make_parser().parse_args(command[2:])
    assert options.child == "programs"
    assert gpu_check.make_setting(options, ("run",)) == setting


async def test_what_a_check_raises_is_its_result(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An error is a failed line; a check that is not wanted is not made."""

    async def fail() -> dict[str, Any]:
        raise ValueError("no such luck")

    setting = report.Setting(device="cpu", scratch=tmp_path, chosen=("first",))
    await report.report(setting, "first", fail)
    await report.report(setting, "second", fail)
    (line,) = gpu_check.read_lines(capsys.readouterr().out)
    assert (line["check"], line["state"], line["device"]) == ("first", "fail", "cpu")
    assert line["problems"] == ["ValueError: no such luck"]


def test_wider_heads_compute_the_same(tmp_path: Path) -> None:
    """The built-in model with heads of 128 gives the logprobs that it gives with 64."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = models.make_small(tmp_path / "small")
    narrow, wide = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (TINY, folder)
    )
    assert wide.config.head_dim == 128
    ids = torch.arange(20, 80)[None]
    with torch.no_grad():
        first, second = (model(ids).logits.log_softmax(-1) for model in (narrow, wide))
    # The norm of the keys is divided by the root of two and rounded to bf16.
    assert (first - second).abs().mean() < 0.005


def test_a_random_checkpoint_is_one_that_loads(tmp_path: Path) -> None:
    """Every tensor is there in its shape, norms are one, and no two rows are the same."""
    import torch
    from transformers import AutoModelForCausalLM

    (tmp_path / "config.json").write_text(json.dumps(NARROW), encoding="utf-8")
    shape = read_shape(NARROW, name="narrow")
    models.write_random(tmp_path, shape, shard_bytes=100_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model, facts = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not facts["missing_keys"]
    assert not facts["unexpected_keys"]
    assert (model.model.norm.weight == 1).all()
    rows = model.lm_head.weight
    assert len(rows) == len(torch.unique(rows, dim=0))
    assert abs(rows.float().std() - models.STD) < 0.002


def test_the_nf4_operation_is_right_on_a_cpu() -> None:
    """The engine's product equals that with the opened weight; nothing is said about graphs."""
    figures = nf4.check_op("cpu")
    assert figures["problems"] == []
    assert figures["apart_in_graph"] == {}
    assert set(figures["relative_error"]) == {"1", "8", "64", "600"}


def test_the_threshold_is_where_the_fused_kernel_loses() -> None:
    """What is used is told by which way's time the choice took."""
    ways = {
        "8": {"chosen": 11.0, "fused": 10.0, "opened": 40.0},
        "32": {"chosen": 30.0, "fused": 20.0, "opened": 30.0},
        "64": {"chosen": 40.0, "fused": 50.0, "opened": 40.0},
    }
    assert nf4.thresholds(ways) == {"fused_wins_to": 32, "fused_used_to": 8}


def test_the_ledger_equals_the_counted_model() -> None:
    """The bytes of Qwen3-8B in the ledger are those of its parameters, counted on meta."""
    counted, problems = full_size.count_on_meta()
    assert problems == []
    assert counted["bf16"] == 2 * 8_190_735_360


def make_entry(name: str, size: int, when: str = "always") -> Entry:
    """Make an entry of a ledger."""
    kind: Any = when
    return Entry(name=name, bytes=size, when=kind, exact=True, reason="")


def test_bytes_that_miss_the_plan_are_problems() -> None:
    """Five per cent is allowed to either side; without a card nothing is compared."""
    ledger = Ledger(
        entries=(
            make_entry("linear layers", 1000 << 20),
            make_entry("CUDA context", 600 << 20),
            make_entry("optimiser states", 100 << 20),
            make_entry("layer inputs", 500 << 20, "training"),
        )
    )
    held = {"allocated": 1040 << 20, "peak": 1100 << 20}
    after = {"allocated": 1100 << 20, "peak": 1600 << 20, "card": 2200 << 20}
    assert full_size.hold_against_plan(ledger, held, after) == []
    high = after | {"peak": 1700 << 20, "card": 2700 << 20}
    found = full_size.hold_against_plan(ledger, held | {"allocated": 940 << 20}, high)
    assert found == [
        "held after the start: 0.92 GiB measured, 0.98 planned",
        "torch's peak: 1.66 GiB measured, 1.56 planned",
        "2.64 GiB of the card taken, 2.36 planned",
    ]
    assert full_size.hold_against_plan(ledger, {"allocated": 0, "peak": 0}, high) == []


def test_the_first_difference_is_found() -> None:
    """Equal ids have none."""
    assert subject.first_difference((1, 2, 3), (1, 4, 3)) == 1
    assert subject.first_difference((1, 2), (1, 2)) is None


def test_a_gap_that_is_no_number_is_named() -> None:
    """A comparison with nan must not pass for a small difference."""
    assert subject.name_gaps({"0": 0.001, "2": float("nan")}) == [
        "version 2 is nan nats from the trainer, at most 0.02 are allowed"
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_family_runs_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real script starts the real engine in a process of its own, and reports."""
    known = os.environ.get("PYTHONPATH", "")
    root = str(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (root, known))))
        options = ["--device", "cpu", "--out", str(tmp_path), "--only", "stream_race"]
        assert gpu_check.main(options) == 0
    (line,) = (json.loads(row) for row in capsys.readouterr().out.splitlines())
    assert (line["check"], line["state"], line["device"]) == ("stream_race", "pass", "cpu")
    assert line["steps"] == 5

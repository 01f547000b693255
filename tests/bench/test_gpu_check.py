"""The runner of the GPU checks, and what the checks are made of, without a card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from math import nan
from pathlib import Path
from typing import Any

import pytest

from trustee.checks.agreement import Gaps
from trustee.engine.model_files import TINY
from trustee.planning.ledger import Entry, Ledger, make_ledger
from trustee.planning.plan import read_budget
from trustee.planning.shapes import find_shape, read_shape
from trustee.trainer import marlin
from trustee.types import GIB, Completion

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
gpu_check: Any = import_module("gpu_check")
foreign: Any = import_module("gpu.foreign")
full_memory: Any = import_module("gpu.full_memory")
full_exam: Any = import_module("gpu.full_exam")
instruments: Any = import_module("gpu.instruments")
models: Any = import_module("gpu.models")
int4: Any = import_module("gpu.int4")
nf4: Any = import_module("gpu.nf4")
report: Any = import_module("gpu.report")
shortage: Any = import_module("gpu.shortage")
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
    assert gpu_check.choose(gpu_check.FAMILIES, only="foreign,decode_8b", skip="foreign_4090") == {
        "foreign": ("foreign_3090", "foreign_5090"),
        "full_8b": ("decode_8b",),
    }


def test_each_of_the_two_first_calls_ends_within_ten_minutes() -> None:
    """A machine is lent for so long; whether results are right comes first, speeds last."""
    calls: dict[int, list[Any]] = {}
    for family in gpu_check.FAMILIES:
        calls.setdefault(family.call, []).append(family)
    assert [1, 2, 3] == list(calls)
    for number in (1, 2):
        assert sum(family.seconds for family in calls[number]) < 600
    first = {check for family in calls[1] for check in family.checks}
    assert {"parity_nf4", "foreign_3090", "foreign_4090", "foreign_5090"} <= first
    assert not {"decode_8b", "prefill_8b", "nf4_gemm"} & first
    assert "shortage_8b" in {check for family in calls[2] for check in family.checks}


def test_a_call_makes_its_own_checks_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What belongs to another call is not known to this one."""
    made_families: list[str] = []

    def note(checks: Any, *, command: Any, **rest: Any) -> list[dict[str, Any]]:
        made_families.append(command[command.index("--child") + 1])
        return [{"check": check, "state": "pass"} for check in checks]

    monkeypatch.setattr(gpu_check, "run_family", note)
    assert gpu_check.main(["--device", "cuda", "--call", "2", "--out", str(tmp_path)]) == 0
    assert ["full_8b", "shortage"] == made_families
    capsys.readouterr()
    assert gpu_check.main(["--list"]) == 0
    assert "call 2  shortage     at most 170 s: shortage_8b" in capsys.readouterr().out


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
    """A check that needs a card is skipped without one, which is not a failure."""
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


def test_the_int4_operation_is_right_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product equals that with the opened weight; a weight that is opened wrongly counts."""
    figures = int4.check_op("cpu")
    assert (figures["problems"], figures["wrong_weights"]) == ([], 0)
    assert set(figures["relative_error"]) == {"1", "8", "64", "600"}
    opened = marlin.Int4Weight.open
    monkeypatch.setattr(marlin.Int4Weight, "open", lambda weight: opened(weight).roll(1, dims=1))
    assert any(
        "opened to another number" in problem for problem in int4.check_op("cpu")["problems"]
    )


def test_int4_is_timed_beside_nf4_and_bf16() -> None:
    """Each shape and number of rows has a time of each format, and of opening a weight."""
    (shape,) = int4.time_all("cpu")["micros"].items()
    assert shape[0] == "256x768"
    assert {"1", "8"} == set(shape[1])
    assert all({"int4", "opening", "nf4", "bf16"} == set(times) for times in shape[1].values())


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
    counted, problems = full_memory.count_on_meta()
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
    held = {"allocated": 1140 << 20, "peak": 1200 << 20}
    after = {"allocated": 1100 << 20, "peak": 1600 << 20, "card": 2200 << 20}
    assert full_memory.hold_against_plan(ledger, held, after) == []
    high = after | {"peak": 1700 << 20, "card": 2700 << 20}
    found = full_memory.hold_against_plan(ledger, held | {"allocated": 1040 << 20}, high)
    assert found == [
        "held after the start: 1.02 GiB measured, 1.07 planned",
        "torch's peak: 1.66 GiB measured, 1.56 planned",
        "2.64 GiB of the card taken, 2.36 planned",
    ]
    assert full_memory.hold_against_plan(ledger, {"allocated": 0, "peak": 0}, high) == []


def test_bytes_beside_tensors_are_each_held_to_their_entry() -> None:
    """A plan whose graphs are too small is not excused by a context that is too large."""
    planned = {"CUDA context": 600 << 20, "CUDA graphs": 500 << 20, "penalties": 30 << 20}
    ledger = Ledger(entries=tuple(make_entry(name, size) for name, size in planned.items()))
    found = {"graph_pool": 500 << 20, "driver": 300 << 20, "penalties": 29 << 20}
    assert full_memory.hold_apart(ledger, found) == []
    assert full_memory.hold_apart(ledger, found | {"graph_pool": 700 << 20}) == [
        "graphs: 0.68 GiB measured, 0.49 planned"
    ]


def test_pools_of_graphs_are_told_from_the_others() -> None:
    """A segment names the pool that owns it; (0, 0) is nobody's."""
    segments = [
        {"total_size": 5, "segment_pool_id": (0, 0)},
        {"total_size": 7, "segment_pool_id": (0, 1)},
        {"total_size": 11, "segment_pool_id": (2, 0)},
        {"total_size": 13},
    ]
    assert instruments.pool_bytes(segments) == 18


def test_a_profile_names_the_costliest_and_the_share_of_each_kind() -> None:
    """Sorted by time; what is known by no word is a small operation."""
    rows = [("aten::mm", 600.0, 3), ("aten::add", 100.0, 9), ("_lora_shrink", 300.0, 2)]
    found = instruments.summarise(rows)
    assert found["top"] == [
        ["aten::mm", 0.6, 3],
        ["_lora_shrink", 0.3, 2],
        ["aten::add", 0.1, 9],
    ]
    assert found["shares"] == pytest.approx({"products": 0.6, "adapters": 0.3, "small": 0.1})
    assert found["ms"] == 1.0
    assert instruments.summarise([]) == {"ms": 0.0, "shares": {}, "top": []}


MIX = """
import json, sys, torch
torch._C._cuda_getCurrentRawStream = lambda index: 0
from bitsandbytes.backends.cuda import ops
sys.path[:0] = ["bench"]
from gpu.foreign import mix
from gpu.instruments import FOREIGN, PRETEND, pretend
usual = ops._gpu_dispatch_props
mixes = {card: mix(card) for card in FOREIGN}
assert ops._gpu_dispatch_props is usual
assert pretend({}) is None and ops._gpu_dispatch_props is usual
assert pretend({PRETEND: "128,8,9"}) == FOREIGN["RTX 4090"]
print(json.dumps([mixes, ops._gpu_dispatch_props(0)]))
"""


@pytest.mark.timeout(400)
def test_a_foreign_card_has_the_mix_that_its_owner_would_have() -> None:
    """Asked of bitsandbytes itself, whose choice needs no card once it is told of one."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MIX], capture_output=True, text=True, check=True, cwd=root
    )
    mixes, props = json.loads(done.stdout.splitlines()[-1])
    assert [128, 8, 9] == props
    fused = {
        (card, rows): {name for name, way in mixes[card][rows].items() if way == "fused"}
        for card in mixes
        for rows in ("1", "16", "48")
    }
    every = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    wide = {"gate_proj", "up_proj"}
    assert all(fused[card, "1"] == every for card in mixes)
    assert every == fused["RTX 3090", "16"]
    assert every - {"k_proj", "v_proj"} == fused["RTX 3090", "48"]
    assert {*wide, "down_proj"} == fused["RTX 4090", "16"] == fused["RTX 4090", "48"]
    assert wide == fused["RTX 5090", "16"] == fused["RTX 5090", "48"]


def test_an_engine_is_started_with_instruments_only_under_check() -> None:
    """The program's own class comes back, and the pretended card is forgotten."""
    from trustee.engine import vllm

    usual = vllm.EXTENSION
    with instruments.instruments("RTX 3090"):
        assert vllm.EXTENSION == "gpu.instruments.Instruments"
        assert os.environ[instruments.PRETEND] == "82,8,6"
    assert vllm.EXTENSION == usual
    assert instruments.PRETEND not in os.environ


def test_the_limit_lies_between_sampling_and_training() -> None:
    """Of the shipped config it is about 21 GiB of a card of 24."""
    setting = report.Setting(device="cuda", scratch=Path("none"), chosen=())
    config = full_exam.full_config(setting, Path("Qwen/Qwen3-8B"))
    assert isinstance(config.engine.kv_bytes, int), "auto has a size under check"
    ledger = make_ledger(find_shape("Qwen/Qwen3-8B"), read_budget(config))
    limit = shortage.choose_limit(ledger) * GIB
    assert ledger.total("always") + ledger.total("sampling") < limit
    assert limit < ledger.total("always") + ledger.transient
    assert 20 * GIB < limit < 23 * GIB


def test_a_shortage_that_was_none_is_a_problem() -> None:
    """A ladder that did not descend was not tried, and an engine that is silent is broken."""
    said, silent = (
        Completion(ids=ids, logprobs=(0.0,) * len(ids), stop="stop", version=0)
        for ids in ((1, 2), ())
    )
    judge = shortage.judge_shortage
    assert judge(("recompute",), before=[said], after=[said]) == []
    assert judge((), before=[said], after=[said]) == [
        "the largest micro-batch fitted, so nothing was tried"
    ]
    assert judge(("recompute",), before=[said], after=[silent]) == [
        "the engine says nothing any more"
    ]


def test_the_first_difference_is_found() -> None:
    """Equal ids have none."""
    assert subject.first_difference((1, 2, 3), (1, 4, 3)) == 1
    assert subject.first_difference((1, 2), (1, 2)) is None


def test_a_gap_that_is_no_number_is_named() -> None:
    """A comparison with nan must not pass for a small difference; one request alone may be off."""
    good = Gaps(alone=0.5, at_once=0.001, requests=32)
    assert subject.name_gaps({"0": good, "2": Gaps(alone=0.1, at_once=nan, requests=32)}) == [
        "version 2 is 0.1000 alone, nan with 32 at once nats from the trainer, at most 0.02 are "
        "allowed"
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
    assert all(gap.endswith("with 32 at once") for gap in line["mean_gap"].values())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_that_does_not_suffice_on_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A micro-batch that is refused in the engine's process sends the ladder down, for real."""
    known = os.environ.get("PYTHONPATH", "")
    root = str(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (root, known))))
        options = ["--device", "cpu", "--out", str(tmp_path), "--only", "shortage,profile_8b"]
        gpu_check.main(options)
    profile, short = (json.loads(row) for row in capsys.readouterr().out.splitlines())
    assert (profile["state"], short["state"]) == ("pass", "pass"), (profile, short)
    assert short["given_up"]
    assert short["bytes"]["penalties"] >= 0
    for name, found in profile.items():
        if name.startswith(("decode_", "train_")):
            assert found["top"][0][1] >= found["top"][-1][1] > 0
            assert sum(found["shares"].values()) == pytest.approx(1, abs=0.01)

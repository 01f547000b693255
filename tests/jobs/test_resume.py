"""The real program on the built-in model: interrupted, killed, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
# One request at a time and no prefix cache: then no sum's order depends on what else was running.
# Nothing written ahead: then no draft is drawn before the step that decides its difficulty.
OFF = {"gates.false_accepts": "none", "gates.false_refuses": "none"}
"""Checks that are off, which a call that resumes the run must say again."""
EXACT = {
    "run.steps": 4,
    "run.minutes": "none",
    "engine.kv_bytes": 64 << 20,
    "engine.max_sequences": 1,
    "engine.prefix_caching": "false",
    "rollout.max_off_policy_steps": 0,
    "rollout.write_ahead": 0,
    "rollout.group_size": 4,
    "rollout.groups_per_step": 1,
    "rollout.limits.turns": 3,
    "eval.tasks": "none",
    **OFF,
}


def command(folder: Path, *arguments: str, **changes: object) -> list[str]:
    """Give a command line of `trustee run`."""
    return [
        sys.executable,
        "-m",
        "trustee",
        "run",
        *arguments,
        *(("--out", str(folder)) if "--resume" not in arguments else ()),
        *(part for key, value in changes.items() for part in ("--set", f"{key}={value}")),
    ]


def start(parts: list[str]) -> subprocess.Popen[str]:
    """Start the program in a process group of its own."""
    return subprocess.Popen(
        parts,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def wait_for(path: Path, process: subprocess.Popen[str], *, seconds: float = 400) -> None:
    """Wait until a path exists while the process runs."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end; give exit code and output."""
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def living_in_group(group: int, *, seconds: float = 20) -> list[int]:
    """List the processes of a group that still run after a while; zombies do not."""
    deadline = time.monotonic() + seconds
    while True:
        living = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if int(fields[2]) == group and fields[0] != "Z":
                    living.append(int(entry.name))
        if not living or time.monotonic() > deadline:
            return living
        time.sleep(0.1)


def test_four_steps_equal_two_and_a_kill_and_two(tmp_path: Path) -> None:
    """A run killed hard in its third step and resumed equals an unbroken one, byte for byte."""
    config = ("--config", "configs/tiny.toml")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, output = finish(start(command(whole, *config, **EXACT)))
    assert code == 0, output
    process = start(command(broken, *config, **EXACT))
    wait_for(broken / "checkpoints" / "step-000002", process)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    code, output = finish(start(command(broken, "--resume", str(broken), **OFF)))
    assert code == 0, output
    metrics = (whole / "metrics.jsonl").read_bytes()
    assert len(metrics.splitlines()) == 4
    assert metrics == (broken / "metrics.jsonl").read_bytes()
    last = json.loads(metrics.splitlines()[-1])
    assert last["version"] > 0
    name = f"adapters/policy-{last['version']:06d}/adapter_model.safetensors"
    assert (whole / name).read_bytes() == (broken / name).read_bytes()
    weights = load_file(whole / name)
    assert any(weights[key].any() for key in weights if "lora_B" in key)


def test_an_interrupt_ends_cleanly_and_can_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C gives exit code 130 and the command that continues; no process stays.

    Nor is anything compiled on the way, for which a fresh machine may have no compiler.
    """
    folder = tmp_path / "run"
    compiled = tmp_path / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiled))
    changes = EXACT | {"engine.max_sequences": 32, "run.steps": 2}
    process = start(command(folder, "--config", "configs/tiny.toml", **changes))
    wait_for(folder / "checkpoints" / "step-000001", process)
    os.killpg(process.pid, signal.SIGINT)
    code, output = finish(process)
    assert (130, True) == (code, f"trustee run --resume {folder}" in output), output
    assert "Traceback" not in output
    assert living_in_group(process.pid) == []
    code, output = finish(start(command(folder, "--resume", str(folder), **OFF)))
    assert code == 0, output
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert [] == [path for path in compiled.rglob("*") if path.is_file()]

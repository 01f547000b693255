"""What the tests of commands share: refusals, and options that hand in a scripted engine.

A command is run as a user runs it, with arguments and an exit code; only the engine and the
renderer behind it are scripted.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripted_program import HAND_IN, play_with
from trustee.algorithm.learner import TrainerSpec
from trustee.cli.commands.options import BAD_INPUT, DONE
from trustee.cli.main import main
from trustee.engine.script import Request

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "configs" / "tiny.toml")
FTRL = str(ROOT / "configs" / "ftrl-tiny.toml")
ROOMY = [
    word
    for change in (
        *HAND_IN,
        "engine.context=8192",
        "rollout.limits.tokens=600",
        "rollout.limits.seconds=60",
        *(
            f"simulator.{role}={{temperature=0.5, max_tokens=900}}"
            for role in ("writer", "user", "tool", "judge")
        ),
    )
    for word in ("--set", change)
]
"""Options with which a config has room for a renderer of bytes."""


def refuse(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must be refused; give what it says, without the program's name."""
    code = main([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    error = captured.err.splitlines()
    assert (BAD_INPUT, 1) == (code, len(error)), "an error is one line"
    assert error[0].startswith("trustee: ")
    return error[0].removeprefix("trustee: ")


def succeed(capfd: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Run a command that must end well; give the lines that it prints."""
    code = main([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    assert (DONE, "") == (code, captured.err)
    return captured.out.splitlines()


def never_start(monkeypatch: pytest.MonkeyPatch) -> list[TrainerSpec]:
    """Hand in an engine that must not be started; return what it was opened with nevertheless."""
    return play_with(monkeypatch, refuse_to_speak).opened


def refuse_to_speak(request: Request) -> str:
    """Fail, because no engine should have been asked."""
    raise AssertionError(f"an engine was asked: {request.prompt[:100]}")


def write_adapter(folder: Path, *, rank: int) -> Path:
    """Write a PEFT folder of a rank, without any weights."""
    folder.mkdir(parents=True)
    config = {"r": rank, "lora_alpha": 2 * rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    header = b"{}"
    data = len(header).to_bytes(8, "little") + header
    (folder / "adapter_model.safetensors").write_bytes(data)
    return folder

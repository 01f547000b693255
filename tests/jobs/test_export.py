"""`trustee export` on the built-in model: each file is read by the program that it is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from golden_errors import ErrorCheck
from scripted_program import tiny_config
from trustee.cli.main import main
from trustee.engine.model_files import TINY
from trustee.errors import InputError, RunError
from trustee.events import Event
from trustee.export import merging
from trustee.export.llama_child import has_llama
from trustee.jobs.export import Wanted, export, export_text
from trustee.jobs.run_metadata import describe_run
from trustee.runs.adapters import adapter_shapes, fingerprint_base
from trustee.runs.files import write_lines
from trustee.types import Message, Task, Tool

RANK = 4
TOOL = Tool(
    name="read_lamp",
    description="read the level of the lamp",
    parameters={"type": "object", "properties": {"room": {"type": "string"}}},
)
needs_llama = pytest.mark.skipif(
    not (has_llama() and find_spec("gguf")), reason="gguf or xllamacpp is not installed"
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run with an adapter that says something else than the base."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "run"
    adapter = folder / "adapters" / "policy-000001"
    adapter.mkdir(parents=True)
    (folder / "run.json").write_bytes(msgspec.json.encode(describe_run(tiny_config())))
    tasks = [
        Task(
            id=f"{number}",
            messages=(
                Message(role="user", content=f"read the lamp in room {number} , näch {{x}}"),
            ),
            tools=(TOOL,),
            difficulty=1,
        )
        for number in range(3)
    ]
    write_lines(folder / "held-out-tasks.jsonl", tasks)
    torch.manual_seed(3)
    tensors = {
        name: 0.03 * torch.randn(shape) for name, shape in adapter_shapes(TINY, rank=RANK).items()
    }
    save_file(tensors, adapter / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": "all-linear",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "base.json").write_text(json.dumps({"fingerprint": fingerprint_base(TINY)}))
    return folder


async def export_with(run: Path, **wanted: Any) -> str:
    """Export and return the text for people."""
    told: list[Event] = []
    found = await export(tiny_config(), run, Wanted(**wanted), adapter=None, emit=told.append)
    return export_text(found)


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_merged_folder(run: Path, tmp_path: Path) -> None:
    """Transformers loads it without this program; prompts and answers are those of the training."""
    text = await export_with(run, merged=tmp_path / "model", tests=2)
    assert "prompts equal to the character" in text
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert "bfloat16" in str(config.dtype)


@pytest.mark.slow
@pytest.mark.anyio
async def test_an_adapter_that_is_forgotten_is_noticed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base alone is not what was trained: nothing stands under the final name."""
    real: Callable[..., Any] = merging.merged_tensors
    monkeypatch.setattr(
        "trustee.export.merged_folder.merged_tensors", lambda base, adapter: real(base, None)
    )
    with pytest.raises(RunError) as caught:
        await export_with(run, merged=tmp_path / "model", tests=2)
    assert "does not say what base and adapter say" in str(caught.value)
    assert not (tmp_path / "model").exists()


@needs_llama
@pytest.mark.slow
@pytest.mark.anyio
async def test_gguf_files(run: Path, tmp_path: Path) -> None:
    """llama.cpp renders the same prompts, cuts them alike and answers alike."""
    text = await export_with(
        run, gguf=tmp_path / "m.gguf", gguf_adapter=tmp_path / "a.gguf", tests=2
    )
    assert 2 == text.count("prompts equal to the character")
    assert (tmp_path / "m.gguf").is_file()
    assert (tmp_path / "a.gguf").is_file()


@pytest.mark.anyio
async def test_a_run_without_tasks_cannot_be_tested(
    run: Path, tmp_path: Path, check_error: ErrorCheck
) -> None:
    """The error says how to export without a test."""
    (run / "held-out-tasks.jsonl").write_bytes(b'{"id": "half')
    with pytest.raises(InputError) as caught:
        await export_with(run, merged=tmp_path / "model")
    check_error(caught, "held-out-tasks.jsonl", "--tests 0")
    assert not (tmp_path / "model").exists()


@pytest.mark.anyio
async def test_an_untested_export_says_so(run: Path, tmp_path: Path) -> None:
    """Nothing shows that it says what was trained."""
    assert "not tested" in await export_with(run, merged=tmp_path / "model", tests=0)


@pytest.mark.anyio
async def test_another_base_is_refused(run: Path, tmp_path: Path, check_error: ErrorCheck) -> None:
    """The adapter records which weights it was trained on."""
    base = run / "adapters" / "policy-000001" / "base.json"
    base.write_text(json.dumps({"fingerprint": "0" * 64}))
    with pytest.raises(InputError) as caught:
        await export_with(run, merged=tmp_path / "model", tests=0)
    check_error(caught, "0" * 12, "model.path")


@pytest.mark.anyio
async def test_half_an_adapter_is_refused(run: Path, tmp_path: Path) -> None:
    """Nothing is written."""
    weights = run / "adapters" / "policy-000001" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match="half a download"):
        await export_with(run, merged=tmp_path / "model", tests=0)
    assert not (tmp_path / "model").exists()


def test_something_must_be_wanted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line says what can be."""
    assert 2 == main(["export", str(run)])
    assert "--merged DIR" in capsys.readouterr().err

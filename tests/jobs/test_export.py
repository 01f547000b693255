"""`trustee export` on the built-in model: each file is read by the program that it is for."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fake_hub import open_hub
from golden_errors import ErrorCheck
from scripted_program import tiny_config
from trustee.cli.main import main
from trustee.engine.model_files import TINY
from trustee.errors import InputError, RunError
from trustee.events import Event, Note
from trustee.export import merging
from trustee.export.llama_child import has_llama
from trustee.jobs.export import export, export_text
from trustee.jobs.export_subject import Wanted
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
needs_gguf = pytest.mark.skipif(not find_spec("gguf"), reason="gguf is not installed")
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


@pytest.fixture
def measured_run(run: Path) -> Path:
    """Make the run one that has ended, with figures."""
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 100, "failed": 0}
    gain = {"points": 25.0, "low": 15.0, "high": 35.0, "better": 26, "worse": 1}
    outcome = {"steps": 42, "version": 1, "before": share, "after": share, "gain": gain}
    (run / "outcome.json").write_text(json.dumps({"folder": str(run), "seconds": 1.0, **outcome}))
    return run


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


@needs_gguf
@pytest.mark.anyio
async def test_a_folder_for_ollama(measured_run: Path, tmp_path: Path) -> None:
    """It holds weights, a Modelfile with template, stop marks and context, and a card."""
    text = await export_with(measured_run, ollama=tmp_path / "model", card=True, tests=0)
    assert text.startswith("ollama bf16")
    assert {"Modelfile", "README.md", "model.gguf"} == {
        path.name for path in (tmp_path / "model").iterdir()
    }
    told = (tmp_path / "model" / "Modelfile").read_text()
    assert "FROM ./model.gguf\n" in told
    assert 'PARAMETER stop "<|im_end|>"\n' in told
    assert f"PARAMETER num_ctx {tiny_config().engine.context}\n" in told


@needs_gguf
@pytest.mark.anyio
async def test_a_template_that_ollama_has_not(
    run: Path, tmp_path: Path, check_error: ErrorCheck
) -> None:
    """It is refused before anything is written."""
    template = tmp_path / "mine.jinja"
    template.write_text((TINY / "chat_template.jinja").read_text().replace("ntools", "nthings"))
    config = tiny_config(f"model.template={template}")
    wanted = Wanted(ollama=tmp_path / "model", tests=0)
    with pytest.raises(InputError) as caught:
        await export(config, run, wanted, adapter=None, emit=lambda event: None)
    check_error(caught, "Ollama", "chatml", "--gguf")
    assert not (tmp_path / "model").exists()


@pytest.mark.anyio
async def test_a_conversation_that_ollama_would_render_otherwise(run: Path, tmp_path: Path) -> None:
    """The run's own prompts count, not only probes: here tools stand in a user's message."""
    with pytest.raises(RunError, match="Ollama's template renders a prompt otherwise"):
        await export_with(run, ollama=tmp_path / "model", tests=1)
    assert not (tmp_path / "model").exists()


@pytest.mark.anyio
async def test_the_card_of_a_merged_folder(measured_run: Path, tmp_path: Path) -> None:
    """It has the run's figures with intervals, and no path of this machine."""
    await export_with(measured_run, merged=tmp_path / "model", card=True, tests=0)
    card = (tmp_path / "model" / "README.md").read_text()
    for part in (
        "| optimiser steps | 42 |",
        "50.0%",
        "+25.0 points (95 % interval +15.0 to +35.0)",
        "| model | not tested |",
        "from transformers import",
    ):
        assert part in card
    assert str(tmp_path) not in card
    assert str(TINY.parent) not in card


@pytest.mark.anyio
async def test_figures_of_another_adapter_are_left_out(measured_run: Path, tmp_path: Path) -> None:
    """A card of an older adapter does not carry what the newest has reached."""
    older = tmp_path / "older"
    (measured_run / "adapters" / "policy-000001").rename(older)
    newest = measured_run / "adapters" / "policy-000002"
    newest.mkdir()
    for file in older.iterdir():
        (newest / file.name).write_bytes(file.read_bytes())
    wanted = Wanted(merged=tmp_path / "model", card=True, tests=0)
    await export(tiny_config(), measured_run, wanted, adapter=older, emit=lambda event: None)
    assert "Not measured." in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.anyio
async def test_an_adapter_is_pushed_with_its_card(
    measured_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is told before it is sent, and nothing else is sent."""
    told: list[Event] = []
    with open_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        wanted = Wanted(push="someone/model", tests=0)
        found = await export(tiny_config(), measured_run, wanted, adapter=None, emit=told.append)
    listed = [event.text for event in told if isinstance(event, Note)]
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "base.json"} == (
        hub.files.keys()
    )
    for name in hub.files:
        assert any(line.startswith(f"  {name}  ") for line in listed)
    assert b"library_name: peft" in hub.files["README.md"]
    assert b"+25.0 points" in hub.files["README.md"]
    assert export_text(found).endswith(f"pushed to {found.pushed}")


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"card": True, "gguf": Path("m.gguf")}, "--card"),
        ({"public": True, "gguf": Path("m.gguf")}, "--public"),
        ({"push": "nothing"}, "--push"),
        ({"push": "a/b", "merged": Path("m"), "ollama": Path("o")}, "--push"),
    ],
    ids=["card", "public", "name", "folders"],
)
@pytest.mark.anyio
async def test_what_cannot_be_wanted(
    run: Path, wanted: dict[str, Any], named: str, check_error: ErrorCheck
) -> None:
    """It is refused before anything is loaded."""
    with pytest.raises(InputError) as caught:
        await export_with(run, **wanted)
    check_error(caught, named)


@pytest.mark.anyio
async def test_a_push_without_a_token_does_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noticed before the work, not after it."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="hf auth login"):
        await export_with(run, merged=tmp_path / "model", push="someone/model", tests=0)
    assert not (tmp_path / "model").exists()


@needs_gguf
@pytest.mark.parametrize("target", ["merged", "gguf", "gguf_adapter", "ollama"])
@pytest.mark.anyio
async def test_a_full_disk_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, check_error: ErrorCheck
) -> None:
    """Whatever was being written, nothing is left under the final name or beside it."""

    def fill(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("write_merged", "write_gguf", "write_gguf_adapter"):
        monkeypatch.setattr(f"trustee.jobs.export_files.{name}", fill)
    out = tmp_path / "out"
    with pytest.raises(RunError) as caught:
        await export_with(run, **{target: out / "model"}, tests=0)
    check_error(caught, out / "model", "No space left", "disk space")
    assert [] == list(out.iterdir())


@pytest.mark.parametrize("target", ["merged", "gguf", "gguf_adapter", "ollama"])
@pytest.mark.anyio
async def test_nothing_is_overwritten(
    run: Path, tmp_path: Path, target: str, check_error: ErrorCheck
) -> None:
    """What stands under the final name stays as it is."""
    (tmp_path / "model").write_text("mine")
    with pytest.raises(InputError) as caught:
        await export_with(run, **{target: tmp_path / "model"}, tests=0)
    check_error(caught, tmp_path / "model", "already exists")
    assert "mine" == (tmp_path / "model").read_text()

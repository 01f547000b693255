"""The size of an update against products that are built whole, and its parts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from golden_errors import ErrorCheck
from trustee.engine.model_files import TINY
from trustee.errors import InputError
from trustee.evaluation.update_size import (
    ATTENTION,
    MLP,
    MatrixUpdate,
    Part,
    measure_update,
    parse_part,
    relative,
    share_of_update,
    usual_parts,
    write_part,
)
from trustee.runs.adapters import PREFIX, AdapterFile, adapter_shapes, read_adapter

LAYERS = 4


@pytest.fixture
def adapter(tmp_path: Path) -> AdapterFile:
    """Make an adapter of the built-in model, with a scale of its own."""
    torch.manual_seed(5)
    folder = tmp_path / "adapter"
    folder.mkdir()
    shapes = adapter_shapes(TINY, rank=3)
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 4.5}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "base.json").write_text(json.dumps({"fingerprint": "x"}))
    return read_adapter(folder)


def test_norms_are_those_of_the_whole_product(adapter: AdapterFile) -> None:
    """Of every matrix, from the lowest layer up; the count says that each was seen."""
    counted: list[None] = []
    found = measure_update(TINY, adapter, done=lambda: counted.append(None))
    assert [(layer, name) for layer in range(LAYERS) for name in (*ATTENTION, *MLP)] == [
        (one.layer, one.module) for one in found
    ]
    assert len(found) == len(counted)
    halves = load_file(adapter.folder / "adapter_model.safetensors")
    weights = load_file(TINY / "model.safetensors")
    for one in found:
        kind = "self_attn" if one.module in ATTENTION else "mlp"
        name = f"model.layers.{one.layer}.{kind}.{one.module}"
        a, b = (halves[f"{PREFIX}{name}.lora_{half}.weight"].double() for half in "AB")
        assert one.update == pytest.approx((1.5 * (b @ a)).norm().item(), rel=1e-9)
        assert one.base == pytest.approx(weights[f"{name}.weight"].double().norm().item(), rel=1e-4)


def test_base_of_another_model(
    adapter: AdapterFile, tmp_path: Path, check_error: ErrorCheck
) -> None:
    """A matrix that the base lacks is named."""
    tensors = load_file(TINY / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as caught:
        measure_update(tmp_path, adapter)
    check_error(caught, tmp_path, "layers.2.mlp.up_proj")


@pytest.mark.parametrize("text", ["mlp", "attention", "1-2", "3", "mlp:0-1", "attention:2"])
def test_what_is_kept_is_unchanged_and_the_rest_does_nothing(
    adapter: AdapterFile, tmp_path: Path, text: str
) -> None:
    """A part is an adapter of the same base and rank, in which only its own matrices act."""
    part = parse_part(text, layers=LAYERS)
    write_part(adapter, part, tmp_path / "part")
    kept = measure_update(TINY, read_adapter(tmp_path / "part"))
    for whole, one in zip(measure_update(TINY, adapter), kept, strict=True):
        assert one.update == (whole.update if part.holds(whole.layer, whole.module) else 0.0)
    assert "x" == read_adapter(tmp_path / "part").fingerprint


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("mlp", {(layer, "mlp") for layer in range(4)}),
        ("attention", {(layer, "attention") for layer in range(4)}),
        ("2", {(2, "mlp"), (2, "attention")}),
        ("0-3", {(layer, group) for layer in range(4) for group in ("mlp", "attention")}),
        ("mlp:1-2", {(1, "mlp"), (2, "mlp")}),
        ("attention:3", {(3, "attention")}),
    ],
)
def test_parts_by_name(text: str, held: set[tuple[int, str]]) -> None:
    """Groups of modules, layers, and both at once."""
    part = parse_part(text, layers=LAYERS)
    groups = {"mlp": MLP, "attention": ATTENTION}
    assert text == part.name
    assert held == {
        (layer, group)
        for layer in range(LAYERS)
        for group, modules in groups.items()
        if all(part.holds(layer, module) for module in modules)
    }


@pytest.mark.parametrize(
    "text", ["", "MLP", "mlp:", "mlp0", "4", "2-1", "0-4", "mlp:0-9", "-1", "1-", "0,1", ":1"]
)
def test_parts_that_are_none(text: str, check_error: ErrorCheck) -> None:
    """The message names what was given and what is allowed."""
    with pytest.raises(InputError) as caught:
        parse_part(text, layers=LAYERS)
    check_error(caught, "--keep", repr(text))


@given(st.integers(1, 100))
def test_usual_parts_fit_any_model(layers: int) -> None:
    """They are readable for every number of layers, and the thirds are all layers, each once."""
    parts = [parse_part(text, layers=layers) for text in usual_parts(layers)]
    thirds = [part for part in parts if part.name[0].isdigit()]
    held = [layer for part in thirds for layer in range(layers) if part.holds(layer, "up_proj")]
    if layers > 1:
        assert list(range(layers)) == held
    assert {"mlp", "attention"} < {part.name for part in parts}


def test_shares_are_of_squares() -> None:
    """They add up over parts; relative sizes are those of the concatenated matrices."""
    updates = [
        MatrixUpdate(layer=0, module="q_proj", update=3.0, base=10.0),
        MatrixUpdate(layer=1, module="up_proj", update=4.0, base=math.sqrt(300)),
    ]
    assert relative(updates) == pytest.approx(0.25)
    assert (0.36, 0.25) == pytest.approx(share_of_update(updates, parse_part("0", layers=2)))
    assert (0.64, 0.75) == pytest.approx(share_of_update(updates, parse_part("mlp", layers=2)))
    assert (0.0, 0.0) == share_of_update(updates, Part(name="none", modules=("k_proj",)))
    assert (0.0, 0.0) == share_of_update([], parse_part("mlp", layers=2))

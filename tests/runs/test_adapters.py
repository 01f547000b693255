"""Adapters on disk: what fits is taken, what does not is refused with both values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from golden_errors import ErrorCheck
from trustee.errors import InputError
from trustee.runs.adapters import (
    adapter_shapes,
    check_fit,
    find_adapter,
    fingerprint_base,
    read_adapter,
)


def make_base(folder: Path, *, width: int = 4, value: float = 1.0, files: int = 1) -> Path:
    """Write the weights of a tiny model, cut into files."""
    folder.mkdir(parents=True)
    tensors = {
        "model.embed_tokens.weight": torch.full((7, width), value),
        "model.layers.0.self_attn.q_proj.weight": torch.full((6, width), value),
        "model.layers.0.mlp.down_proj.weight": torch.full((width, 8), value),
        "model.norm.weight": torch.ones(width),
    }
    for index in range(files):
        part = dict(list(tensors.items())[index::files])
        save_file(part, folder / f"model-{index}.safetensors")
    return folder


def make_adapter(
    folder: Path, base: Path, *, rank: int = 2, fingerprint: str | None = None, **config: Any
) -> Path:
    """Write an adapter that fits a base."""
    folder.mkdir(parents=True)
    shapes = adapter_shapes(base, rank=rank)
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    if fingerprint != "":
        mark = {"fingerprint": fingerprint or fingerprint_base(base)}
        (folder / "base.json").write_text(json.dumps(mark))
    told = {"r": rank, "lora_alpha": 2 * rank, "base_model_name_or_path": str(base), **config}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def test_shapes_are_those_of_the_linear_layers(tmp_path: Path) -> None:
    """A takes a layer's input, B gives its output; other tensors have no adapter."""
    under = "base_model.model.model.layers.0."
    assert {
        f"{under}self_attn.q_proj.lora_A.weight": (2, 4),
        f"{under}self_attn.q_proj.lora_B.weight": (6, 2),
        f"{under}mlp.down_proj.lora_A.weight": (2, 8),
        f"{under}mlp.down_proj.lora_B.weight": (4, 2),
    } == adapter_shapes(make_base(tmp_path / "base"), rank=2)


def test_fingerprint_knows_weights_and_not_files(tmp_path: Path) -> None:
    """The same weights in two files are the same base; other weights or shapes are not."""
    one = fingerprint_base(make_base(tmp_path / "one"))
    assert one == fingerprint_base(make_base(tmp_path / "two", files=2))
    others = [
        fingerprint_base(make_base(tmp_path / "c", value=2.0)),
        fingerprint_base(make_base(tmp_path / "d", width=5)),
    ]
    assert 3 == len({one, *others})


@pytest.mark.parametrize("fingerprint", [None, ""])
def test_adapter_that_fits(tmp_path: Path, fingerprint: str | None) -> None:
    """One of the same base, or of unknown origin with the right shapes, is taken."""
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base, fingerprint=fingerprint)
    check_fit(read_adapter(adapter), base, rank=2)


def test_refused_adapters(tmp_path: Path) -> None:
    """Rank, scale, shapes and weights: each refusal says both values."""
    base = make_base(tmp_path / "base")
    wide, changed = make_base(tmp_path / "wide", width=5), make_base(tmp_path / "new", value=3.0)
    good = make_adapter(tmp_path / "a", base)

    def refuse(adapter: Path, model: Path = base, rank: int = 2) -> str:
        with pytest.raises(InputError) as caught:
            check_fit(read_adapter(adapter), model, rank=rank)
        return str(caught.value)

    assert f"adapter {good} has rank 2, but learn.rank is 1; set learn.rank=2 or" in refuse(
        good, rank=1
    )
    assert (
        f"adapter {good} was trained on {base}: its model.layers.0.mlp.down_proj.lora_B.weight is "
        f"4 x 2, but {wide} needs 5 x 2 (model.path)"
    ) == refuse(good, wide)
    ours, theirs = fingerprint_base(base)[:12], fingerprint_base(changed)[:12]
    assert (
        f"adapter {good} was trained on {base} with weights {ours}, but {changed} has weights "
        f"{theirs} (model.path)"
    ) == refuse(good, changed)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda a: (a / "adapter_config.json").unlink(), "adapter_config.json is missing"),
        (lambda a: (a / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is miss"),
        (lambda a: (a / "adapter_config.json").write_text("{}"), "missing required field `r`"),
        (
            lambda a: (a / "adapter_model.safetensors").write_text("no"),
            "is not a readable safetensors file",
        ),
        (lambda a: (a / "base.json").write_text("{}"), "base.json cannot be read: Object missing"),
        (
            lambda a: (a / "adapter_config.json").write_text('{"r": 0, "lora_alpha": 4}'),
            "adapter_config.json cannot be read: Expected `int` >= 1 - at `$.r`",
        ),
        (
            lambda a: (a / "adapter_config.json").write_text('{"r": 2, "lora_alpha": NaN}'),
            "adapter_config.json cannot be read",
        ),
        (
            lambda a: (a / "adapter_config.json").write_text('{"bias": ' + "[" * 100_000),
            "adapter_config.json cannot be read: is nested deeper than 100 levels",
        ),
        (
            lambda a: (a / "adapter_config.json").write_bytes(b'{"r": "\xff"}'),
            "adapter_config.json cannot be read",
        ),
        (
            lambda a: (a / "adapter_model.safetensors").write_bytes(
                (a / "adapter_model.safetensors").read_bytes()[:-10]
            ),
            "adapter_model.safetensors is not a readable safetensors file: Error while",
        ),
    ],
)
def test_folders_that_are_no_adapter(tmp_path: Path, break_it: Any, message: str) -> None:
    """What is missing or unreadable is named."""
    adapter = make_adapter(tmp_path / "a", make_base(tmp_path / "base"))
    break_it(adapter)
    with pytest.raises(InputError) as caught:
        read_adapter(adapter)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"use_dora": True, "bias": "all"}, "use_dora, bias='all'"),
        ({"peft_type": "IA3"}, "is an adapter of type IA3"),
    ],
)
def test_adapters_that_are_more_than_a_lora(
    tmp_path: Path, setting: dict[str, Any], shown: str
) -> None:
    """The setting that cannot be gone on from is named."""
    adapter = make_adapter(tmp_path / "a", make_base(tmp_path / "base"), **setting)
    with pytest.raises(InputError, match="only") as caught:
        read_adapter(adapter)
    assert shown in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        {"lora_alpha": 2},
        {"lora_alpha": 0.5},
        {"lora_alpha": 2, "use_rslora": True},
        {"init_lora_weights": "gaussian"},
        {"modules_to_save": None, "rank_pattern": {}, "use_dora": False, "peft_type": "LORA"},
    ],
)
def test_usual_adapters_fit(tmp_path: Path, setting: dict[str, Any]) -> None:
    """Any alpha will do, and so will a rank below ours."""
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "a", base, fingerprint="", **setting)
    for rank in (2, 3, 64):
        check_fit(read_adapter(adapter), base, rank=rank)


def write_tensors(adapter: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace an adapter's weights."""
    save_file(tensors, adapter / "adapter_model.safetensors")


def test_tensors_of_an_adapter(tmp_path: Path) -> None:
    """Some layers are enough; half a layer, other layers and what is not finite are named."""
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "a", base)
    whole = {name: torch.zeros(shape) for name, shape in adapter_shapes(base, rank=2).items()}
    under = "base_model.model.model.layers.0.self_attn.q_proj"
    some = {name: tensor for name, tensor in whole.items() if name.startswith(under)}
    write_tensors(adapter, some)
    check_fit(read_adapter(adapter), base, rank=2)

    def refuse(tensors: dict[str, torch.Tensor]) -> str:
        write_tensors(adapter, tensors)
        with pytest.raises(InputError) as caught:
            check_fit(read_adapter(adapter), base, rank=2)
        return str(caught.value)

    assert "adapter_model.safetensors is empty" in refuse({})
    assert (
        "holds model.layers.0.self_attn.q_proj.lora_A.weight without its other half, "
        "model.layers.0.self_attn.q_proj.lora_B.weight"
    ) in refuse({f"{under}.lora_A.weight": torch.zeros(2, 4)})
    head = {"base_model.model.lm_head.lora_A.weight": torch.zeros(2, 4)}
    assert "also trains lm_head.lora_A.weight; only a LoRA on q_proj" in refuse(some | head)
    deep = {name.replace("layers.0", "layers.7"): tensor for name, tensor in some.items()}
    assert "layers.7.self_attn.q_proj.lora_A.weight is 2 x 4, but" in refuse(deep)
    for value in (float("nan"), float("inf")):
        broken = some | {f"{under}.lora_B.weight": torch.full((6, 2), value)}
        assert f"not finite (NaN or infinite), the first in {under}.lora_B.weight" in refuse(broken)


def test_adapter_of_a_run(tmp_path: Path) -> None:
    """A run folder means its newest whole adapter, an adapter's folder itself."""
    base = make_base(tmp_path / "base")
    for name in ("policy-000002", "policy-000010", "compared"):
        make_adapter(tmp_path / "run" / "adapters" / name, base)
    (tmp_path / "run" / "adapters" / "policy-000011").mkdir()
    newest = tmp_path / "run" / "adapters" / "policy-000010"
    for path in (tmp_path / "run", tmp_path / "run" / "adapters", newest):
        assert newest == find_adapter(path)
    step = tmp_path / "run" / "checkpoints" / "step-000003"
    assert make_adapter(step / "adapter", base) == find_adapter(step)


@pytest.mark.parametrize(
    "folders", [[], ["adapters"], ["adapters/compared"], ["adapters/policy-1"]]
)
def test_folder_without_an_adapter(
    check_error: ErrorCheck, tmp_path: Path, folders: list[str]
) -> None:
    """A run that published nothing is answered with what to give instead."""
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        find_adapter(tmp_path)
    check_error(caught, tmp_path, "contains no adapter")


@pytest.mark.parametrize("kept", [["adapter_model.safetensors"], ["adapter_config.json"]])
def test_half_an_adapter(check_error: ErrorCheck, tmp_path: Path, kept: list[str]) -> None:
    """What is missing is named; pickled weights are none."""
    for name in (*kept, "adapter_model.bin"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError) as caught:
        read_adapter(find_adapter(tmp_path))
    check_error(caught, tmp_path, "is missing")


def test_what_is_no_folder(tmp_path: Path) -> None:
    """A path that leads nowhere is no folder."""
    with pytest.raises(InputError, match="nothing is not a folder: neither adapter_config"):
        find_adapter(tmp_path / "nothing")

"""A model's config: what is quantised already, and what no model can be, is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import TINY as TINY_TOML
from command_line import never_start, refuse
from golden_errors import ErrorCheck
from trustee.engine.model_config import (
    MODEL_TYPES,
    check_config,
    check_context,
    check_embedding,
    check_family,
    read_model_config,
    suggest_plain,
)
from trustee.engine.model_files import TINY, find_model
from trustee.errors import InputError
from trustee.planning.shapes import find_shape


def make_model(folder: Path, **changes: Any) -> Path:
    """Write the built-in model's config, changed, beside weights that are never read."""
    folder.mkdir()
    config = json.loads((TINY / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "model.safetensors").touch()
    return folder


QUANTISED: list[tuple[dict[str, Any], str]] = [
    (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "bitsandbytes, 4 bits, quantization_config",
    ),
    ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq, 4 bits"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "gptq, 8 bits"),
    ({"quantization_config": {"quant_method": "fp8"}}, "fp8, quantization_config"),
    ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "an unknown method, 4 bits, quantization"),
    ({"quantization_config": "yes"}, "by an unknown method"),
]


@pytest.mark.parametrize(("changes", "method"), QUANTISED)
def test_quantised_models_are_refused(tmp_path: Path, changes: dict[str, Any], method: str) -> None:
    """By the plan and by the run alike, before anything heavy, with what to give instead."""
    folder = make_model(tmp_path / "m", **changes)
    for find in (find_model, find_shape):
        with pytest.raises(InputError) as caught:
            find(str(folder))
        assert f"model {folder} is already quantised ({method}" in str(caught.value)
        assert "so give the folder or hub id of the plain bf16 model" in str(caught.value)


@pytest.mark.parametrize("empty", [None, {}, False])
def test_key_without_a_method_is_no_quantisation(tmp_path: Path, empty: Any) -> None:
    """Some programs write the key and nothing in it."""
    folder = make_model(tmp_path / "m", quantization_config=empty)
    assert folder == find_model(str(folder))
    assert find_shape(str(folder)).layers == find_shape("tiny").layers


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "unsloth/Qwen3-8B"),
        ("unsloth/Qwen3-8B-bnb-4bit", "unsloth/Qwen3-8B"),
        ("Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B"),
        ("owner/Llama-3.1-8B-Instruct-FP8-dynamic", "owner/Llama-3.1-8B-Instruct"),
        ("owner/Llama-3.1-8B-Instruct-quantized.w4a16", "owner/Llama-3.1-8B-Instruct-quantized"),
    ],
)
def test_plain_model_is_named(name: str, plain: str) -> None:
    """The usual endings of quantised models are taken off."""
    assert suggest_plain(name) == f"the plain model, such as {plain}"
    assert "or hub id of the plain bf16 model" in suggest_plain("Qwen/Qwen3-8B")


SIZES = (
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "intermediate_size", "vocab_size"),
)


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("size", [10**12, 10**30, 0, -1, "8", 1.5, True, [1], {}])
def test_sizes_that_no_model_has(tmp_path: Path, key: str, size: Any) -> None:
    """A list of as many layers would be made before anybody looked for their weights."""
    folder = make_model(tmp_path / "m", **{key: size})
    for find in (find_model, find_shape):
        with pytest.raises(InputError, match=f"{key} in config.json is ") as caught:
            find(str(folder))
        assert len(str(caught.value)) < 300 + len(str(folder))


@pytest.mark.parametrize("text", ["", "[]", "1", "{" * 5, '{"a":' * 5000, "\xff", '{"a": NaN}'])
def test_what_is_no_config(tmp_path: Path, text: str) -> None:
    """The file is named."""
    path = tmp_path / "config.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError) as caught:
        read_model_config(path)
    assert str(path) in str(caught.value)


def test_known_configs_pass() -> None:
    """The built-in model, and sizes that are left out, are fine."""
    check_config(read_model_config(TINY / "config.json"), name="tiny")
    check_config({"num_key_value_heads": None}, name="m")


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


def test_awq_of_our_form_is_read_in_int4_alone(tmp_path: Path) -> None:
    """In another format it is refused, with the setting that reads it."""
    folder = make_model(tmp_path / "m-AWQ", quantization_config=AWQ)
    config = read_model_config(folder / "config.json")
    check_config(config, name="m-AWQ")
    check_config(config, name="m-AWQ", weights="int4")
    with pytest.raises(InputError, match=r"awq, 4 bits.*engine.weights is 'nf4'") as caught:
        check_config(config, name="m-AWQ", weights="nf4")
    assert "--set engine.weights=int4" in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"bits": 8}, {"zero_point": False}, {"group_size": 16}, {"version": "gemv"}]
)
def test_other_forms_of_awq_are_refused(change: dict[str, Any]) -> None:
    """Whatever the weights are to be."""
    with pytest.raises(InputError, match="already quantised"):
        check_config({"quantization_config": AWQ | change}, name="m", weights="int4")


@pytest.mark.parametrize(
    ("width", "sizes"),
    [
        ("hidden_size", {"hidden_size": 96}),
        ("intermediate_size", {"hidden_size": 128, "intermediate_size": 200}),
        ("num_key_value_heads x head_dim", {"num_key_value_heads": 1, "head_dim": 32}),
    ],
)
def test_widths_that_int4_cannot_hold_are_refused(width: str, sizes: dict[str, int]) -> None:
    """By name, before anything is loaded; other formats hold them."""
    config = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32} | sizes
    check_config(config, name="m", weights="nf4")
    with pytest.raises(InputError, match=f"cannot be held in int4: {width}"):
        check_config(config, name="m", weights="int4")


def test_commands_refuse_a_quantised_model(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No engine is started, and the plan is no promise."""
    started = never_start(monkeypatch)
    model = make_model(tmp_path / "m", quantization_config={"quant_method": "awq", "bits": 4})
    change = ("--set", f"model.path={model}")
    for command in (("plan", TINY_TOML, "--card", "RTX 3090"), ("run", "--config", TINY_TOML)):
        assert "is already quantised (awq, 4 bits" in refuse(capfd, *command, *change)
    assert not any(started)


def test_a_table_in_host_memory_that_changes_nothing_is_refused(
    tmp_path: Path, check_error: ErrorCheck
) -> None:
    """On a CPU all is host memory; a table that is the head too is read whole for each token."""
    untied = make_model(tmp_path / "untied", tie_word_embeddings=False)
    tied = make_model(tmp_path / "tied", tie_word_embeddings=True)
    check_embedding(untied, in_host=True, device="cuda")
    check_embedding(tied, in_host=False, device="cpu")
    for folder, device, part in ((untied, "cpu", "device is cpu"), (tied, "cuda", "its head too")):
        with pytest.raises(InputError) as caught:
            check_embedding(folder, in_host=True, device=device)
        check_error(caught, "engine.host_embedding", part)


FAMILIES: list[tuple[str, dict[str, Any], str]] = [
    ("qwen3_5", {"model_type": "qwen3_5"}, "docs/qwen3_5.md"),
    ("qwen3_5_text", {"model_type": "qwen3_5_text"}, "docs/qwen3_5.md"),
    ("mamba", {"model_type": "mamba"}, "unsupported type 'mamba'"),
    (
        "granite-h",
        {"model_type": "granitemoehybrid", "layer_types": ["mamba", "attention"]},
        "Mamba layers or experts",
    ),
    (
        "mistral3",
        {"model_type": "mistral3", "text_config": {"model_type": "mistral"}},
        "unsupported type 'mistral3'",
    ),
    ("window3", {"model_type": "ministral3", "sliding_window": 4096}, "sets sliding_window"),
    ("window", {"model_type": "smollm3", "use_sliding_window": True}, "sets use_sliding_window"),
]


@pytest.mark.parametrize(("name", "changes", "part"), FAMILIES, ids=[one[0] for one in FAMILIES])
def test_families_that_cannot_be_shared_are_refused(
    tmp_path: Path, check_error: ErrorCheck, name: str, changes: dict[str, Any], part: str
) -> None:
    """By the plan and by the run alike, before anything heavy, with what to give instead."""
    folder = make_model(tmp_path / name, **changes)
    for find in (find_model, find_shape):
        with pytest.raises(InputError) as caught:
            find(str(folder))
        check_error(caught, "model.path", part)


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_families_that_can_be_shared_pass(kind: str) -> None:
    """With what their published configs say of windows."""
    unset = {"sliding_window": None, "use_sliding_window": False}
    check_family({"model_type": kind, **unset}, name="m")


def test_a_context_in_which_both_sides_differ_is_refused(
    tmp_path: Path, check_error: ErrorCheck
) -> None:
    """Ministral 3 scales its queries from there on, which the engine would not do."""
    rope = {"original_max_position_embeddings": 16384, "llama_4_scaling_beta": 0.1}
    scaled = make_model(tmp_path / "scaled", model_type="ministral3", rope_parameters=rope)
    check_context(scaled, context=16384)
    with pytest.raises(InputError) as caught:
        check_context(scaled, context=16385)
    check_error(caught, "engine.context", 16384)
    rope = rope | {"llama_4_scaling_beta": 0.0}
    plain = make_model(tmp_path / "plain", model_type="ministral3", rope_parameters=rope)
    check_context(plain, context=100_000)
    check_context(make_model(tmp_path / "other"), context=100_000)

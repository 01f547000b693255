"""Shapes of models: every parameter as the real architecture has it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from golden_errors import ErrorCheck
from trustee.engine.dense_form import find_dense
from trustee.engine.model_files import TINY
from trustee.errors import InputError
from trustee.planning.shapes import (
    ASK_MORE,
    PACKAGED,
    ModelShape,
    find_shape,
    known_models,
    list_proposed,
    read_shape,
)

NAMES = (
    "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "HuggingFaceTB/SmolLM3-3B",
    "Qwen/Qwen2.5-3B",
    "Qwen/Qwen2.5-3B-Instruct",
    "Qwen/Qwen2.5-7B",
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-14B",
    "Qwen/Qwen3-4B",
    "Qwen/Qwen3-4B-Instruct-2507",
    "Qwen/Qwen3-4B-Thinking-2507",
    "Qwen/Qwen3-8B",
    "ibm-granite/granite-4.0-micro",
    "ibm-granite/granite-4.1-3b",
    "ibm-granite/granite-4.1-8b",
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.2-3B",
    "meta-llama/Llama-3.2-3B-Instruct",
    "mistralai/Ministral-3-3B-Instruct-2512-BF16",
    "mistralai/Ministral-3-8B-Instruct-2512-BF16",
)
TWINS = (
    *("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-7B", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-3B"),
    *("Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B-Thinking-2507"),
)
"""Models with the sizes of another one in the list."""
ONCE = tuple(name for name in NAMES if name not in TWINS)
TOTALS = {
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1_711_376_384,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-4B-Instruct-2507": 4_022_468_096,
    "Qwen/Qwen3-4B-Thinking-2507": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "ibm-granite/granite-4.0-micro": 3_402_836_480,
    "ibm-granite/granite-4.1-3b": 3_402_836_480,
    "ibm-granite/granite-4.1-8b": 8_791_592_960,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "mistralai/Ministral-3-3B-Instruct-2512-BF16": 3_429_006_336,
    "mistralai/Ministral-3-8B-Instruct-2512-BF16": 8_489_553_920,
}
"""Parameters of each model; of Ministral those of its text part, which is 3.4 and 8.5 billion."""


def read_packaged(name: str) -> dict[str, Any]:
    """Read the config of `tiny` or of a packaged model."""
    path = TINY / "config.json"
    if name != "tiny":
        path = PACKAGED / f"{name.replace('/', '--')}.json"
    config: dict[str, Any] = json.loads(path.read_text())
    return config


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in an empty folder with an empty cache of the hub; give the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["tiny", *ONCE])
def test_every_parameter_is_that_of_the_architecture(name: str) -> None:
    """Names and sizes are those that transformers builds from the same config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    packaged = read_packaged(name)
    config = find_dense(packaged) or packaged
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    real = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert real == find_shape(name).parameters()


@pytest.mark.parametrize("name", NAMES)
def test_total_is_that_of_the_published_model(name: str) -> None:
    """The packaged sizes are the real models'."""
    assert TOTALS[name] == find_shape(name).numel


def test_packaged_models_are_those() -> None:
    """The package ships a config for each of them."""
    assert NAMES == known_models()


@pytest.mark.parametrize("name", ["tiny", *ONCE])
def test_parts_add_up(name: str) -> None:
    """Linear layers, tables and vectors are all there is."""
    shape = find_shape(name)
    parameters = shape.parameters()
    vectors = [size for key, size in parameters.items() if key.endswith(("norm.weight", "bias"))]
    assert sum(vectors) == shape.vector_numel
    linear = [size for key, size in parameters.items() if key.endswith("proj.weight")]
    assert sum(linear) == shape.linear_numel
    assert shape.table_numel == shape.vocab * shape.hidden * (2 - shape.tied)


def test_adapter_of_rank_32() -> None:
    """Qwen3-8B's LoRA on all linear layers holds 87 million parameters."""
    assert 87_293_952 == find_shape("Qwen/Qwen3-8B").adapter_numel(32)


def test_folder_goes_before_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the name of a known model is read, not the packaged config."""
    folder = tmp_path / "Qwen" / "Qwen3-8B"
    folder.mkdir(parents=True)
    config = read_packaged("Qwen/Qwen3-8B") | {"num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    assert 2 == find_shape("Qwen/Qwen3-8B").layers


def test_hub_cache_is_read(hub: Path) -> None:
    """A model that was fetched once is found, without a network."""
    cached = hub / "models--owner--m"
    snapshot = cached / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text(json.dumps(read_packaged("Qwen/Qwen3-4B")))
    assert 2560 == find_shape("owner/m").hidden


def test_what_a_run_cannot_take_by_its_name_is_not_proposed() -> None:
    """A smaller model that is proposed, and taken with --yes, must start."""
    assert set(known_models()) > ASK_MORE
    assert {"Qwen/Qwen3-4B", "Qwen/Qwen2.5-3B-Instruct"} < set(list_proposed())
    assert not ASK_MORE & set(list_proposed())


@pytest.mark.parametrize("path", ["owner/unknown", "nowhere", "./none", "a/b/c", "two words/x"])
def test_unknown_model_is_refused_with_what_is_known(check_error: ErrorCheck, path: str) -> None:
    """The message names the models that need no download."""
    with pytest.raises(InputError) as caught:
        find_shape(path)
    check_error(caught, "model.path", repr(path), "tiny", *NAMES)


@pytest.mark.parametrize("kind", ["qwen3_moe", "gemma2", "mistral", None])
def test_other_architectures_are_refused(kind: str | None) -> None:
    """What the trainer cannot adopt gets no plan."""
    with pytest.raises(InputError, match="give a dense model of type qwen2, "):
        read_shape({"model_type": kind}, name="x")


@pytest.mark.parametrize("key", ["attention_bias", "mlp_bias"])
def test_further_biases_are_refused(key: str) -> None:
    """A Llama or Qwen3 with more biases than usual is not counted wrong."""
    config = read_packaged("meta-llama/Llama-3.1-8B-Instruct") | {key: True}
    with pytest.raises(InputError, match=f"model x sets {key}, "):
        read_shape(config, name="x")


def test_missing_size_is_named() -> None:
    """A config without a size says which."""
    config = read_packaged("Qwen/Qwen3-8B")
    del config["intermediate_size"]
    with pytest.raises(InputError, match=r"model x: config\.json has no 'intermediate_size'"):
        read_shape(config, name="x")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    """A file that is no config is named."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=str(tmp_path / "config.json")):
        find_shape(str(tmp_path))


def test_defaults_of_older_configs() -> None:
    """Without `head_dim` and key heads, both follow from the attention heads."""
    config = read_packaged("meta-llama/Llama-3.1-8B-Instruct")
    del config["num_key_value_heads"]
    shape = read_shape(config, name="x")
    assert (128, 32) == (shape.head_dim, shape.kv_heads)
    assert isinstance(shape, ModelShape)

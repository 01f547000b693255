"""Writing a dense model out: the copy says what the whole model said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, Mistral3ForConditionalGeneration

from golden_errors import ErrorCheck
from trustee.engine.dense_copy import copy_dense, main
from trustee.engine.model_files import find_model
from trustee.errors import InputError

TEXT: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = torch.arange(3, 40)[None]


def make_granite(folder: Path) -> Any:
    """Write a small Granite 4.0 of the dense kind; give the model."""
    config = AutoConfig.for_model(
        "granitemoehybrid",
        **TEXT,
        num_local_experts=0,
        num_experts_per_tok=0,
        shared_intermediate_size=128,
        layer_types=["attention", "attention"],
        position_embedding_type="rope",
        embedding_multiplier=12.0,
        logits_scaling=10.0,
        residual_multiplier=0.22,
        attention_multiplier=0.015625,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return model


def make_ministral(folder: Path) -> Any:
    """Write a small model that sees images, with a text part of Ministral 3; give it."""
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "head_dim": 16, "image_size": 32, "patch_size": 16}
    config = AutoConfig.for_model(
        "mistral3",
        text_config={"model_type": "ministral3", "head_dim": 16, **TEXT},
        vision_config={"model_type": "pixtral", **vision},
        tie_word_embeddings=False,
    )
    model = Mistral3ForConditionalGeneration._from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("make", [make_granite, make_ministral])
def test_the_copy_says_the_same(make: Any, tmp_path: Path) -> None:
    """Logits are equal, the copy is a model that is taken, and what is beside comes with it."""
    torch.manual_seed(3)
    whole = make(tmp_path / "whole").eval()
    (tmp_path / "whole" / "chat_template.jinja").write_text("{{ messages }}")
    main([str(tmp_path / "whole"), str(tmp_path / "dense")])
    assert tmp_path / "dense" == find_model(str(tmp_path / "dense"))
    assert (tmp_path / "dense" / "chat_template.jinja").is_file()
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.allclose(whole(IDS).logits, dense(IDS).logits, atol=1e-5)
    names = {
        name for file in (tmp_path / "dense").glob("*.safetensors") for name in load_file(file)
    }
    assert names == {name for name, _ in dense.named_parameters()}


def test_the_whole_is_refused_with_the_command(tmp_path: Path, check_error: ErrorCheck) -> None:
    """Before anything is loaded."""
    make_granite(tmp_path / "whole")
    with pytest.raises(InputError) as caught:
        find_model(str(tmp_path / "whole"))
    check_error(caught, "python -m trustee.engine.dense_copy", "granitemoehybrid", "model.path")


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    """Weights that a repository holds a second time are not copied."""
    make_granite(tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    (tmp_path / "whole" / "model.safetensors").unlink()
    places = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(whole)}
    for place in set(places.values()):
        part = {name: whole[name] for name in whole if places[name] == place}
        save_file(part, tmp_path / "whole" / place, metadata={"format": "pt"})
    save_file(whole, tmp_path / "whole" / "consolidated.safetensors")
    index = {"metadata": {}, "weight_map": places}
    (tmp_path / "whole" / "model.safetensors.index.json").write_text(json.dumps(index))
    copy_dense(tmp_path / "whole", tmp_path / "dense")
    files = sorted(file.name for file in (tmp_path / "dense").glob("*.safetensors"))
    assert ["model-0.safetensors", "model-1.safetensors"] == files
    AutoModelForCausalLM.from_pretrained(tmp_path / "dense")


def test_what_cannot_be_copied_is_refused(tmp_path: Path, check_error: ErrorCheck) -> None:
    """A model without a dense one inside, a quantised one, and a folder in use."""
    (tmp_path / "m").mkdir()
    config = tmp_path / "m" / "config.json"
    config.write_text('{"model_type": "llama"}')
    with pytest.raises(InputError) as caught:
        copy_dense(tmp_path / "m", tmp_path / "out")
    check_error(caught, "'llama'", "holds no dense model")
    text = {"model_type": "ministral3"}
    quantised = {"quantization_config": {"quant_method": "fp8"}}
    config.write_text(json.dumps({"model_type": "mistral3", "text_config": text} | quantised))
    with pytest.raises(InputError, match=r"already quantised \(fp8"):
        copy_dense(tmp_path / "m", tmp_path / "out")
    config.write_text(json.dumps({"model_type": "mistral3", "text_config": text}))
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        copy_dense(tmp_path / "m", tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        copy_dense(tmp_path / "m", tmp_path / "out")

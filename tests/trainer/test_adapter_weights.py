"""Adapters of other programs: the model says what PEFT's own model says with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from trustee.errors import RunError
from trustee.runs.adapters import TARGETS
from trustee.trainer.adapter_weights import take_adapter, trained_tensors
from trustee.trainer.shared_model import lora_config, restart_adapter

IDS = torch.arange(12)[None]
SHAPE = Qwen3Config(
    vocab_size=31,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
)


def make_model(config: LoraConfig, *, seed: int = 1) -> PeftModel:
    """Make a small model, always the same, whose adapter has random weights in both halves."""
    torch.manual_seed(3)
    base = Qwen3ForCausalLM(SHAPE)
    model = get_peft_model(base, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in trained_tensors(model).values():
            tensor.copy_(torch.randn_like(tensor) * 0.3)
    return model.eval()


def say(model: PeftModel) -> torch.Tensor:
    """Return the model's logits."""
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


def give(folder: Path, **settings: Any) -> torch.Tensor:
    """Write an adapter as PEFT does, and return what its model says."""
    told = {"r": 8, "lora_alpha": 16, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM"}
    model = make_model(LoraConfig(**(told | settings)), seed=2)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return say(model)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora_alpha": 8},
        {"lora_alpha": 5},
        {"lora_alpha": 32},
        {"lora_alpha": 8, "use_rslora": True},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["down_proj"], "layers_to_transform": [1]},
        {"r": 3, "lora_alpha": 6},
        {"r": 1, "lora_alpha": 1},
        {"r": 4, "lora_alpha": 4, "use_rslora": True, "target_modules": ["k_proj", "up_proj"]},
    ],
    ids=str,
)
def test_logits_are_those_of_peft(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Alpha, rank and layers may be others, and whatever was trained before is forgotten."""
    expected = give(tmp_path, **settings)
    model = make_model(lora_config(8))
    assert not torch.allclose(expected, say(model), atol=1e-2)
    take_adapter(model, tmp_path, seed=5)
    torch.testing.assert_close(say(model), expected, rtol=1e-4, atol=1e-5)


def test_every_rank_and_layer_can_still_learn(tmp_path: Path) -> None:
    """What the folder's adapter lacks has a first half, so its second half has a gradient."""
    give(tmp_path, r=2, lora_alpha=4, target_modules=["q_proj"])
    model = make_model(lora_config(8))
    take_adapter(model, tmp_path, seed=5)
    model(input_ids=IDS, labels=IDS).loss.backward()
    for name, tensor in trained_tensors(model).items():
        assert tensor.grad is not None
        if name.endswith("lora_B.weight"):
            assert (tensor.grad.abs().sum(0) > 0).all(), name


def test_own_adapter_is_taken_bit_for_bit(tmp_path: Path) -> None:
    """A roll-back gives back exactly what was written, in half precision too."""
    give(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: t.to(torch.bfloat16) for name, t in load_file(path).items()}, path)
    model = make_model(lora_config(8))
    restart_adapter(model, seed=1)
    take_adapter(model, tmp_path, seed=5)
    own = trained_tensors(model)
    for name, tensor in load_file(path).items():
        assert torch.equal(tensor.float(), own[name])


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1.0])
def test_restarted_adapter_changes_nothing(broken: float) -> None:
    """Whatever the weights were, the product is zero again, and the random numbers go on."""
    model = make_model(lora_config(8))
    with torch.no_grad():
        for tensor in trained_tensors(model).values():
            tensor.fill_(broken)
    state = torch.get_rng_state()
    restart_adapter(model, seed=4)
    assert torch.equal(state, torch.get_rng_state())
    with model.disable_adapter():
        base = say(model)
    assert torch.equal(base, say(model))
    first = {name: tensor.clone() for name, tensor in trained_tensors(model).items()}
    restart_adapter(model, seed=4)
    assert all(torch.equal(first[name], t) for name, t in trained_tensors(model).items())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"q_proj.lora_B": torch.full((16, 8), float("nan"))}, "holds numbers that are not finite"),
        ({"q_proj.lora_B": torch.zeros(99, 8)}, "has no place here"),
        ({"other.lora_B": torch.zeros(16, 8)}, "has no place here"),
    ],
)
def test_weights_that_are_refused(
    tmp_path: Path, changes: dict[str, torch.Tensor], reason: str
) -> None:
    """Where no check came first, the file and the tensor are named and nothing has changed."""
    give(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    under = "base_model.model.model.layers.0.self_attn."
    save_file(load_file(path) | {f"{under}{k}.weight": v for k, v in changes.items()}, path)
    model = make_model(lora_config(8))
    before = say(model)
    with pytest.raises(RunError, match=reason) as caught:
        take_adapter(model, tmp_path, seed=5)
    assert f"{path}: {under}{next(iter(changes))}.weight" in str(caught.value)
    assert torch.equal(before, say(model))

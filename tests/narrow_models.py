"""Small models of every family, and one training step on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from trustee.algorithm.loss import token_logprobs
from trustee.trainer.activation_checkpointing import Shelf, set_checkpointing
from trustee.trainer.shared_model import lora_config

LAYERS = 4


WIDTH = 64


FAMILIES: dict[str, Callable[..., Any]] = {
    "qwen3": Qwen3Config,
    "qwen2": Qwen2Config,
    "llama": LlamaConfig,
}


EVERY_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))


Grads = dict[str, Tensor]


def make_model(
    family: str = "qwen3", *, dtype: torch.dtype = torch.bfloat16, device: str = "cpu"
) -> Any:
    """Give a small model of a family with a LoRA that already says something."""
    torch.manual_seed(11)
    shape = {"head_dim": 16} if family != "qwen2" else {}
    config = FAMILIES[family](
        vocab_size=97,
        hidden_size=WIDTH,
        intermediate_size=160,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        **shape,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model = get_peft_model(model, lora_config(4))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            if "lora_B" in name:
                parameter.data.normal_(std=0.05)
    return model.to(device).train()


def make_ids(*lengths: int, width: int = 0, device: str = "cpu") -> Tensor:
    """Give rows of ids of these lengths, padded on the right with 0."""
    width = max(width, *lengths)
    rows = [[(7 * row + 5 * at) % 96 + 1 for at in range(n)] for row, n in enumerate(lengths)]
    return torch.tensor([ids + [0] * (width - len(ids)) for ids in rows], device=device)


def forward(model: Any, ids_BL: Tensor, *, autocast: bool = True) -> Tensor:
    """Give the loss as the trainer takes it: logprobs of the ids that are no padding."""
    inner = model.base_model.model
    with torch.autocast(ids_BL.device.type, torch.bfloat16, enabled=autocast):
        hidden_BLH = inner.model(input_ids=ids_BL, use_cache=False).last_hidden_state
        targets_BL = ids_BL[:, 1:]
        taken = targets_BL != 0
        return -token_logprobs(
            hidden_BLH[:, :-1][taken], inner.lm_head.weight, targets=targets_BL[taken], chunk=16
        ).logprobs.mean()


def take_grads(model: Any) -> Grads:
    """Give the gradients and leave none."""
    grads = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return grads


def step(model: Any, ids_BL: Tensor, *, autocast: bool = True) -> tuple[Tensor, Grads]:
    """Give loss and gradients of one micro-batch."""
    loss = forward(model, ids_BL, autocast=autocast)
    loss.backward()
    return loss.detach(), take_grads(model)


def assert_same(expected: tuple[Tensor, Grads], actual: tuple[Tensor, Grads]) -> None:
    """Check loss and every gradient, bit by bit."""
    assert expected[1].keys() == actual[1].keys()
    assert torch.equal(expected[0], actual[0])
    assert [] == [name for name, grad in expected[1].items() if not grad.equal(actual[1][name])]


def layers_of(model: Any) -> list[Any]:
    """Give the decoder layers."""
    return list(model.base_model.model.model.layers)


def open_shelf(model: Any) -> Shelf:
    """Switch offloading on."""
    shelf = set_checkpointing(model, mode="offload")
    assert shelf is not None
    return shelf

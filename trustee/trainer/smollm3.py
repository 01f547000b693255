"""SmolLM3 for vLLM: a Llama, of whose layers every fourth knows no positions.

vLLM has no class of its own for it and would run Hugging Face's, which it changes while doing so;
the trainer builds that very class over the engine's weights.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.models.llama import LlamaForCausalLM


class NoPositions(torch.nn.Module):
    """Stands where a layer would turn queries and keys by their positions."""

    def forward(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return queries and keys as they are."""
        return query, key


class SmolLM3ForCausalLM(LlamaForCausalLM):
    """The Llama class, with positions in the layers that the config names."""

    def __init__(self, *, vllm_config: Any, prefix: str = "", **more: Any) -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, **more)
        turned = vllm_config.model_config.hf_config.no_rope_layers
        for layer, turns in zip(self.model.layers, turned, strict=False):
            if not turns:
                layer.self_attn.rotary_emb = NoPositions()

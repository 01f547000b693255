"""Norms, gated MLPs and rotary positions as a kernel or two each, on a card.

Written out, they are some thirty small operations per layer and pass, each of which reads and
writes the layer's activations. Norms take torch's own operation, one kernel in each pass on a card
and the same bits on a CPU. The others are Liger's, which rounds where transformers rounds, but for
rotary positions, which it rounds once instead of three times. A CPU keeps transformers' code for
these: Triton does not run there.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

NORMS = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
"""Norms of a decoder layer; the last two are Qwen3's."""


def has_kernels() -> bool:
    """Return whether Liger and Triton are installed."""
    return all(find_spec(name) is not None for name in ("triton", "liger_kernel"))


class FusedNorm(torch.nn.Module):
    """An RMS norm that takes over another one's weight."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.variance_epsilon: float = norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Norm rows [..., hidden]."""
        # Weighted afterwards, because transformers rounds before it.
        normed = torch.nn.functional.rms_norm(x, x.shape[-1:], None, self.variance_epsilon)
        weighted: Tensor = self.weight * normed
        return weighted


class FusedMlp(torch.nn.Module):
    """A gated MLP that takes over another one's layers."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """Map rows [..., hidden]."""
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction

        down: Tensor = self.down_proj(
            LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x))
        )
        return down


def rotate(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Turn queries and keys [B, heads, L, width] by their positions, in place."""
    from liger_kernel.ops.rope import LigerRopeFunction

    turned: tuple[Tensor, Tensor] = LigerRopeFunction.apply(q, k, cos, sin, None, unsqueeze_dim)
    return turned


def fuse_norms(model: Any) -> None:
    """Replace the norms of a Llama or Qwen model; names and parameters stay."""
    for layer in model.model.layers:
        for name in NORMS:
            parent = layer.get_submodule(name.rpartition(".")[0])
            own = name.rpartition(".")[2]
            if hasattr(parent, own):
                setattr(parent, own, FusedNorm(getattr(parent, own)))
    model.model.norm = FusedNorm(model.model.norm)


def use_kernels(model: Any) -> None:
    """Replace the MLPs and rotations of a Llama or Qwen model; names and parameters stay."""
    for layer in model.model.layers:
        if getattr(model.config, "hidden_act", "silu") == "silu":
            layer.mlp = FusedMlp(layer.mlp)
        # Its attention calls this function by a name of its module.
        sys.modules[type(layer.self_attn).__module__].apply_rotary_pos_emb = rotate  # type: ignore[attr-defined]

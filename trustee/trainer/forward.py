"""One pass of the model over a micro-batch, without a loss: hidden states, and what they say.

Over a bf16 base a pass runs under bf16 autocast, so that the fp32 adapter is rounded as the
engine's bf16 copy of it is.

Shape letters: `N` trained ids, in the order of the tree; `T` ids of the tree; `H` hidden width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from peft import PeftModel

from trustee.algorithm.batch import Batch
from trustee.algorithm.divergence import Divergence, diverge
from trustee.algorithm.loss import TokenLogprobs, token_logprobs


def find_hidden(model: PeftModel, batch: Batch, device: torch.device) -> torch.Tensor:
    """Return the last hidden states before the trained ids of a batch, [N, H].

    Where a family divides its logits, as Granite does, the states are divided instead.
    """
    hidden_TH: torch.Tensor = model.base_model.model.model(
        input_ids=batch.ids_T.to(device)[None],
        position_ids=batch.positions_T.to(device)[None],
        use_cache=False,
        blocks=batch.attention,
    ).last_hidden_state[0]
    hidden_NH = hidden_TH[batch.before_T[batch.trained_T].to(device)]
    scaling = getattr(model.base_model.model.config, "logits_scaling", 1.0)
    return hidden_NH if scaling == 1.0 else hidden_NH / scaling


def _round(model: PeftModel, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which products are rounded as the engine's."""
    is_bf16 = model.get_input_embeddings().weight.dtype == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bf16)


def find_logprobs(
    model: PeftModel, batch: Batch, *, device: torch.device, chunk: int
) -> TokenLogprobs:
    """Return logprobs and entropies of a batch's trained ids, [N]."""
    with _round(model, device):
        return token_logprobs(
            find_hidden(model, batch, device),
            model.base_model.model.lm_head.weight,
            targets=batch.ids_T[batch.trained_T].to(device),
            chunk=chunk,
        )


def find_divergences(
    model: PeftModel, batch: Batch, *, device: torch.device, chunk: int
) -> tuple[Divergence, ...]:
    """Return how far the adapter moves the distribution at each trained id, sample by sample."""
    with torch.no_grad(), _round(model, device):
        policy_NH = find_hidden(model, batch, device)
        with model.disable_adapter():
            base_NH = find_hidden(model, batch, device)
        found = diverge(
            base_NH,
            policy_NH,
            model.base_model.model.lm_head.weight,
            targets=batch.ids_T[batch.trained_T].to(device),
            chunk=chunk,
        )
    kl_BL, base_BL, policy_BL = (batch.spread(values).cpu() for values in found)
    return tuple(
        Divergence(
            kl=tuple(kl_BL[row][mask_L].tolist()),
            base=tuple(base_BL[row][mask_L].tolist()),
            policy=tuple(policy_BL[row][mask_L].tolist()),
        )
        for row, mask_L in enumerate(batch.mask_BL)
    )

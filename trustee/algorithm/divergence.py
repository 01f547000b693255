"""How far a policy's next-token distributions are from its base's, over the whole vocabulary.

Shape letters: `N` positions, `H` hidden width, `V` vocabulary, `C` positions of a chunk.
Importing this module does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trustee.types import Record

if TYPE_CHECKING:
    from torch import Tensor


class Divergence(Record, frozen=True):
    """Base and policy at each sampled id of one sample, in nats; all of one length."""

    kl: tuple[float, ...]
    """KL(base ‖ policy) of the distributions from which the id was or could be sampled."""
    base: tuple[float, ...]
    """Logprob of the id under the base."""
    policy: tuple[float, ...]
    """Logprob of the id under the policy."""


class TokenDivergence(NamedTuple):
    """The same as tensors, [N] each."""

    kl: Tensor
    base: Tensor
    policy: Tensor


def diverge(
    base: Tensor, policy: Tensor, head_weight: Tensor, *, targets: Tensor, chunk: int
) -> TokenDivergence:
    """Compare the distributions of two sets of hidden states, `chunk` positions at a time.

    As in `token_logprobs`, the product uses the head's own dtype and is widened to float32, and a
    target's hidden state is that of the id before it.

    Shapes: `base` and `policy` [N, H], `head_weight` [V, H], `targets` [N].
    """
    import torch

    parts = []
    for base_CH, policy_CH, targets_C in zip(
        *(torch.split(each, chunk) for each in (base, policy, targets)), strict=True
    ):
        base_CV, policy_CV = (_logprobs(each, head_weight) for each in (base_CH, policy_CH))
        # Rounding may leave a sum just below 0, which no divergence is.
        kl_C = (base_CV.exp() * (base_CV - policy_CV)).sum(1).clamp(min=0)
        picked = (each.gather(1, targets_C[:, None])[:, 0] for each in (base_CV, policy_CV))
        parts.append((kl_C, *picked))
    return TokenDivergence(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _logprobs(hidden_CH: Tensor, weight_VH: Tensor) -> Tensor:
    import torch

    logits_CV = hidden_CH.to(weight_VH.dtype) @ weight_VH.T
    wide = torch.promote_types(logits_CV.dtype, torch.float32)
    return logits_CV.to(wide).log_softmax(1)

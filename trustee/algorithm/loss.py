"""The policy loss and the logprobs it needs, as pure functions on tensors.

A micro-batch's loss is a sum over its tokens divided by a normaliser of the whole step, so the
losses of all micro-batches add up to the loss of the step however it was split, and so do the
metrics. Nothing here is a mean.

Shape letters: `B` rows, `L` tokens of a row, `N` trained tokens, `H` hidden width, `V` vocabulary.
Importing this module does not import torch, because the configuration imports `LossConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from msgspec import Meta

from trustee.errors import InputError
from trustee.types import Record, Share

if TYPE_CHECKING:
    from torch import Tensor

SAPO_TEMPERATURES = (1.0, 1.0499999523162842)
"""SAPO's temperature for positive advantages and for all others; the second is 1.05 rounded to
float32. Source: arXiv 2511.20347."""


class LossConfig(Record, frozen=True):
    """Which loss to use. "Ratio" means trained policy over sampling policy."""

    kind: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "nll"] = "dapo"
    """What is averaged, and how the ratio is bounded. `grpo`: mean over rows of each row's token
    mean; clipped ratio. `bnpo`, `dapo`: mean over the step's tokens; clipped ratio (the two are
    equal here because no micro-batch is averaged by itself). `dr_grpo`: mean over rows of each
    row's token sum divided by `completion_limit`; clipped ratio. `cispo`: mean over tokens; clipped
    gradient weight. `sapo`: as `grpo`, with a soft gate. `nll`: mean over tokens of advantage times
    negative logprob, without a ratio; supervised fine-tuning where the advantage is 1."""
    ratio: Literal["token", "sequence"] = "token"
    """One ratio per token, or the row's geometric mean for all of its tokens (GSPO, arXiv
    2507.18071)."""
    clip_low: Share = 0.2
    """The ratio is clipped from below at 1 - `clip_low`. Source: PPO, arXiv 1707.06347."""
    clip_high: Annotated[float, Meta(ge=0)] = 0.28
    """The ratio, or `cispo`'s weight, is clipped from above at 1 + `clip_high`. Source: DAPO, arXiv
    2503.14476."""
    dual_clip: Annotated[float, Meta(gt=1)] | None = None
    """Upper bound of the ratio where the advantage is negative, at least 1 + `clip_high`; None: no
    bound. TRL's delta, verl's clip_ratio_c. Source: arXiv 1912.09729."""
    kl_coef: Annotated[float, Meta(ge=0)] = 0.0
    """Weight of the KL divergence from the reference policy; 0 needs no reference. TRL's beta."""
    kl_kind: Literal["k1", "abs", "mse", "k3"] = "k3"
    """KL estimator, with d = logprob - reference logprob: d, |d|, d²/2, or exp(-d) + d - 1. verl
    calls them kl, abs, mse and low_var_kl."""
    completion_limit: Annotated[int, Meta(ge=1)] | None = None
    """Tokens by which `dr_grpo` divides every row, whatever its length. Source: arXiv
    2503.20783."""

    def __post_init__(self) -> None:
        """Refuse values that contradict each other.

        Raises:
            InputError: if `dual_clip` is below the upper clip, or `dr_grpo` has no
                `completion_limit`.
        """
        if self.dual_clip is not None and self.dual_clip < 1 + self.clip_high:
            raise InputError(
                f"dual_clip must be at least 1 + clip_high = {1 + self.clip_high:g}, "
                f"got {self.dual_clip:g}; raise dual_clip or lower clip_high"
            )
        if self.kind == "dr_grpo" and self.completion_limit is None:
            raise InputError("kind dr_grpo needs completion_limit, got none; set it to 1 or more")


@dataclass(slots=True, frozen=True, kw_only=True)
class LossSums:
    """A micro-batch's loss and metrics; the sum of two covers both micro-batches.

    The metrics are sums, counts and maxima over trained tokens: divide once, by `tokens`. "Gap" is
    the trainer's logprob minus the engine's.
    """

    loss: Tensor
    """Scalar; call `backward` on it before adding, because the sum of two is detached."""
    tokens: int
    clipped_low: int
    """Tokens of negative advantage with a ratio below 1 - `clip_low`."""
    clipped_high: int
    """Tokens of positive advantage with a ratio above 1 + `clip_high`."""
    clipped_dual: int
    """Tokens of negative advantage with a ratio above `dual_clip`."""
    ratio_max: float
    gap_kl_sum: float
    """k3 estimate of KL(engine ‖ trainer), in nats."""
    gap_abs_sum: float
    gap_abs_max: float
    kl_sum: float
    """Divergence from the reference policy by `kl_kind`, without `kl_coef`."""

    def __add__(self, other: LossSums) -> LossSums:
        """Return the sums over both micro-batches."""
        return LossSums(
            loss=self.loss.detach() + other.loss.detach(),
            tokens=self.tokens + other.tokens,
            clipped_low=self.clipped_low + other.clipped_low,
            clipped_high=self.clipped_high + other.clipped_high,
            clipped_dual=self.clipped_dual + other.clipped_dual,
            ratio_max=max(self.ratio_max, other.ratio_max),
            gap_kl_sum=self.gap_kl_sum + other.gap_kl_sum,
            gap_abs_sum=self.gap_abs_sum + other.gap_abs_sum,
            gap_abs_max=max(self.gap_abs_max, other.gap_abs_max),
            kl_sum=self.kl_sum + other.kl_sum,
        )


def normaliser_of(trained: Sequence[int], config: LossConfig) -> float:
    """Return the number by which every micro-batch of a step divides its sum; never 0.

    `trained` holds the number of trained tokens of every row of the whole step.
    """
    if config.kind in ("grpo", "sapo"):
        return max(1, len(trained))
    if config.kind == "dr_grpo":
        assert config.completion_limit is not None, "LossConfig requires it for dr_grpo"
        return max(1, len(trained)) * config.completion_limit
    return max(1, sum(trained))


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    *,
    mask: Tensor,
    advantages: Tensor,
    config: LossConfig,
    normaliser: float,
    reference_logprobs: Tensor | None = None,
) -> LossSums:
    """Return one micro-batch's share of the step's loss.

    The engine's logprobs are the old ones. Values outside the mask never matter, not even NaN.

    Shapes: every tensor [B, L], except `advantages` [B].

    Raises:
        InputError: if the config needs logprobs that were not given.
    """
    if config.kl_coef and reference_logprobs is None:
        raise InputError(
            f"kl_coef {config.kl_coef:g} needs reference_logprobs, got none; set it to 0"
        )
    known_BL = logprobs.where(mask, 0.0)
    # Demonstrations were not sampled by this policy, so there are no old logprobs to compare with.
    old_BL = known_BL.detach() if config.kind == "nll" else old_logprobs.where(mask, 0.0)
    gap_BL = known_BL.detach() - old_BL
    ratio_BL = _ratio(known_BL - old_BL, mask, config)
    advantages_B1 = advantages[:, None]
    loss_BL = _surrogate(ratio_BL, known_BL, advantages_B1, config)
    kl_BL = known_BL.new_zeros(())
    if reference_logprobs is not None:
        kl_BL = _divergence(known_BL - reference_logprobs.where(mask, 0.0), config)
        loss_BL = loss_BL + config.kl_coef * kl_BL
    loss = (loss_BL * _weights(mask, config).to(loss_BL.dtype)).sum() / normaliser
    return _measure(loss, ratio_BL, gap_BL, kl_BL, mask, advantages_B1, config)


class TokenLogprobs(NamedTuple):
    """Logprob of each target and entropy at its position, in nats; [N] both, entropy detached."""

    logprobs: Tensor
    entropy: Tensor


def token_logprobs(
    hidden: Tensor, head_weight: Tensor, *, targets: Tensor, chunk: int
) -> TokenLogprobs:
    """Apply the language-model head, `chunk` positions at a time.

    Logits exist for one chunk at a time: they are dropped after use and recomputed in the backward
    pass. The product uses the head's own dtype, as engines do, and is widened to float32. Select
    the trained positions first; the hidden state of a target is that of the token before it.

    Shapes: `hidden` [N, H], `head_weight` [V, H], `targets` [N]. Only `hidden` gets a gradient.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    weight_VH = head_weight.detach()
    head = partial(checkpoint, _head, use_reentrant=False, preserve_rng_state=False)
    chunks = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    parts = [head(hidden_CH, weight_VH, targets_C) for hidden_CH, targets_C in chunks]
    logprobs, entropy = zip(*parts, strict=True)
    return TokenLogprobs(torch.cat(logprobs), torch.cat(entropy))


def _ratio(log_ratio_BL: Tensor, mask_BL: Tensor, config: LossConfig) -> Tensor:
    if config.ratio == "token":
        return log_ratio_BL.exp()
    mean_B1 = log_ratio_BL.sum(1, keepdim=True) / mask_BL.sum(1, keepdim=True).clamp(min=1)
    return mean_B1.exp().expand_as(log_ratio_BL)


def _surrogate(
    ratio_BL: Tensor, logprobs_BL: Tensor, advantages_B1: Tensor, config: LossConfig
) -> Tensor:
    if config.kind == "nll":
        return -advantages_B1 * logprobs_BL
    if config.kind == "cispo":
        weight_BL = ratio_BL.detach().clamp(max=1 + config.clip_high)
        return -weight_BL * advantages_B1 * logprobs_BL
    if config.kind == "sapo":
        positive, other = SAPO_TEMPERATURES
        heat_B1 = advantages_B1.new_full((), positive).where(advantages_B1 > 0, other)
        return -4 / heat_B1 * (heat_B1 * (ratio_BL - 1)).sigmoid() * advantages_B1
    clipped_BL = ratio_BL.clamp(1 - config.clip_low, 1 + config.clip_high)
    free_BL = ratio_BL if config.dual_clip is None else ratio_BL.clamp(max=config.dual_clip)
    return -(free_BL * advantages_B1).minimum(clipped_BL * advantages_B1)


def _divergence(difference_BL: Tensor, config: LossConfig) -> Tensor:
    match config.kl_kind:
        case "k1":
            return difference_BL
        case "abs":
            return difference_BL.abs()
        case "mse":
            return difference_BL.square() / 2
        case "k3":
            return difference_BL.neg().exp() + difference_BL - 1


def _weights(mask_BL: Tensor, config: LossConfig) -> Tensor:
    if config.kind in ("grpo", "sapo"):
        return mask_BL.double() / mask_BL.sum(1, keepdim=True).clamp(min=1)
    return mask_BL


def _measure(
    loss: Tensor,
    ratio_BL: Tensor,
    gap_BL: Tensor,
    kl_BL: Tensor,
    mask_BL: Tensor,
    advantages_B1: Tensor,
    config: LossConfig,
) -> LossSums:
    import torch

    ratio_BL = ratio_BL.detach().where(mask_BL, 0.0)
    positive_BL = mask_BL & (advantages_B1 > 0)
    negative_BL = mask_BL & (advantages_B1 < 0)
    dual_clip = float("inf") if config.dual_clip is None else config.dual_clip
    figures = (
        mask_BL.sum(),
        (negative_BL & (ratio_BL < 1 - config.clip_low)).sum(),
        (positive_BL & (ratio_BL > 1 + config.clip_high)).sum(),
        (negative_BL & (ratio_BL > dual_clip)).sum(),
        ratio_BL.max(),
        (gap_BL.exp() - gap_BL - 1).sum(),
        gap_BL.abs().sum(),
        gap_BL.abs().max(),
        kl_BL.detach().sum(),
    )
    # One transfer for all metrics, because every `.item()` would wait for the device.
    values = torch.stack([figure.double() for figure in figures]).tolist()
    tokens, low, high, dual, ratio_max, gap_kl, gap_abs, gap_max, kl = values
    return LossSums(
        loss=loss,
        tokens=int(tokens),
        clipped_low=int(low),
        clipped_high=int(high),
        clipped_dual=int(dual),
        ratio_max=ratio_max,
        gap_kl_sum=gap_kl,
        gap_abs_sum=gap_abs,
        gap_abs_max=gap_max,
        kl_sum=kl,
    )


def _head(hidden_CH: Tensor, weight_VH: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    logits_CV = hidden_CH.to(weight_VH.dtype) @ weight_VH.T
    logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    total_C = logits_CV.logsumexp(1)
    logprobs_C = logits_CV.gather(1, targets_C[:, None])[:, 0] - total_C
    # Last, so that recomputation in the backward pass stops before the entropy.
    with torch.no_grad():
        entropy_C = total_C - ((logits_CV - total_C[:, None]).exp() * logits_CV).sum(1)
    return logprobs_C, entropy_C

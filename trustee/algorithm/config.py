"""The settings of learning, shared by the training step, the trainer and the planner."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from trustee.algorithm.advantage import EPSILON, Estimator, Scale
from trustee.algorithm.loss import LossConfig
from trustee.errors import InputError
from trustee.types import Record, Share

Optimizer = Literal["adamw8bit", "adamw"]
ActivationCheckpointing = Literal["off", "recompute", "offload"]
"""What a layer keeps for the backward pass: everything, its input, or its input in host memory."""


class LearnConfig(Record, frozen=True):
    """How the adapter is trained."""

    learning_rate: Annotated[float, Meta(gt=0)] = 2e-5
    """Peak learning rate; LoRA needs about ten times the rate of full fine-tuning."""
    warmup: Annotated[int, Meta(ge=0)] = 5
    """Number of steps over which the learning rate rises to its peak."""
    updates: Annotated[int, Meta(ge=1)] = 1
    """Optimiser updates per step. The step's episodes are dealt out among them by a seeded shuffle;
    all use the logprobs from before the first, so more than one needs a higher
    `watch.clip_ratio`."""
    decay: Share = 0.0
    """Fraction of the peak rate by which the rate falls, linearly, until the end of the run."""
    max_norm: Annotated[float, Meta(gt=0)] = 1.0
    """Maximum gradient norm; larger gradients are scaled down to it."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of Adam's averages of gradients and of their squares."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    """AdamW's, of the adapter's weights."""
    optimizer: Optimizer = "adamw8bit"
    """AdamW with states of 8 or of 32 bits."""
    rank: Literal[8, 16, 32, 64, 128] = 32
    """LoRA rank on all linear layers; alpha is twice the rank."""
    estimator: Estimator = "grpo"
    """Baseline of the advantage: the group's mean reward, or with `reinforce++` the step's mean
    over tokens."""
    scale: Scale = "group"
    """Divisor of GRPO's advantages; REINFORCE++ uses the standard deviation over the step."""
    epsilon: Annotated[float, Meta(gt=0)] = EPSILON
    """Added to the deviation that GRPO's advantages are divided by: 1e-4 in TRL, 1e-6 in verl."""
    keep_flat: bool = False
    """Whether episodes without an advantage, such as those of a group with equal rewards, are
    trained on: they carry the KL term and count in the loss's mean."""
    shuffle_rewards: bool = False
    """Control experiment: whether each step's rewards are shuffled among its episodes, so that they
    teach nothing."""
    loss: LossConfig = LossConfig()
    micro_tokens: Annotated[int, Meta(ge=1)] = 16384
    """Maximum number of ids in one forward pass; ids shared by samples count once."""
    activation_checkpointing: ActivationCheckpointing = "recompute"
    """What a layer keeps for the backward pass: everything (`off`), its input (`recompute`), or its
    input in host memory (`offload`)."""
    mlp_tile: Annotated[int, Meta(ge=1)] | None = None
    """Number of positions per tile of a layer's MLP and norms, which bounds their memory; `none`
    computes all positions at once."""
    threads: Annotated[int, Meta(ge=1)] | None = None
    """Number of CPU threads for a training step (CPU only; the engine is idle meanwhile); `none`
    uses one per core."""
    head_chunk: Annotated[int, Meta(ge=1)] = 256
    """Number of positions per chunk of the logprob head."""

    def __post_init__(self) -> None:
        """Refuse settings that do nothing.

        Raises:
            InputError: if episodes without an advantage are kept without a KL term, or `epsilon` is
                given where nothing is divided by a group's deviation.
        """
        if self.keep_flat and not self.loss.kl_coef:
            raise InputError(
                "keep_flat trains on episodes without an advantage for the KL term alone, and "
                "loss.kl_coef is 0; raise learn.loss.kl_coef, or set learn.keep_flat to false"
            )
        if self.epsilon != EPSILON and (self.estimator != "grpo" or self.scale == "none"):
            other = "scale = none" if self.estimator == "grpo" else f"estimator = {self.estimator}"
            raise InputError(
                f"epsilon is added to the deviation of GRPO's advantages, which {other} does not "
                f"use; leave learn.epsilon out (got {self.epsilon:g})"
            )

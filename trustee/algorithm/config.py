"""The settings of learning, which the step, the trainer and the plan all read from one struct."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from trustee.algorithm.advantage import Estimator, Scale
from trustee.algorithm.loss import LossConfig
from trustee.types import Record, Share

Optimizer = Literal["adamw8bit", "adamw"]
ActivationCheckpointing = Literal["off", "recompute", "offload"]
"""What is kept of a layer for the backward pass: all, its input, or its input in host memory."""


class LearnConfig(Record, frozen=True):
    """How the adapter learns."""

    learning_rate: Annotated[float, Meta(gt=0)] = 2e-5
    """Peak; LoRA wants about ten times the rate of full fine-tuning."""
    warmup: Annotated[int, Meta(ge=0)] = 5
    """Steps over which the rate rises to its peak."""
    decay: Share = 0.0
    """Share of the peak that is lost, evenly, by the end of the run."""
    max_norm: Annotated[float, Meta(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of Adam's averages of gradients and of their squares."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    """AdamW's, of the adapter's weights."""
    optimizer: Optimizer = "adamw8bit"
    """AdamW with states of 8 or of 32 bits."""
    rank: Literal[8, 16, 32, 64, 128] = 32
    """LoRA rank, on all linear layers; alpha is twice the rank."""
    estimator: Estimator = "grpo"
    """Whose mean is the baseline: the group's, or with `reinforce++` the step's, over tokens."""
    scale: Scale = "group"
    """What GRPO's advantages are divided by; REINFORCE++ takes the deviation over the step."""
    shuffle_rewards: bool = False
    """A control experiment: each step's rewards are dealt out anew over its episodes, so that
    nothing can be learnt from them."""
    loss: LossConfig = LossConfig()
    micro_tokens: Annotated[int, Meta(ge=1)] = 16384
    """Ids of one forward pass, those that samples have in common counted once."""
    activation_checkpointing: ActivationCheckpointing = "recompute"
    """What is kept of a layer for the backward pass."""
    mlp_tile: Annotated[int, Meta(ge=1)] | None = None
    """Positions of one tile of a layer's MLP and norms, which bounds their memory; none takes all
    at once."""
    threads: Annotated[int, Meta(ge=1)] | None = None
    """CPU threads of a training step on a CPU, where the engine waits for it; none is one per
    core."""
    head_chunk: Annotated[int, Meta(ge=1)] = 256
    """Positions of one chunk of the logprob head."""

"""The seam to whatever trains the policy, and the messages that cross it.

A step is one or more `accumulate` calls and one `finish`; `publish` makes its result a version. The
learner of this program lives in the engine's process, over the engine's own weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from trustee.loss import LossConfig
from trustee.types import Adapter, Record, Sample


class TrainerSpec(Record, frozen=True):
    """How the trainer is built."""

    folder: str
    """Model folder."""
    rank: int
    seed: int
    optimizer: str
    """`adamw8bit` or `adamw`."""
    betas: tuple[float, float]
    weight_decay: float
    checkpointing: bool
    """Recompute layer activations in the backward pass."""
    head_chunk: int
    """Positions per chunk of the logprob head."""


class MicroRequest(Record, frozen=True):
    """One micro-batch of a step."""

    samples: tuple[Sample, ...]
    loss: LossConfig
    normaliser: float
    """Denominator of the whole step's loss."""


class MicroReport(Record, frozen=True):
    """Sums and counts of a micro-batch, over its trained tokens; see `loss.LossSums`."""

    loss: float
    tokens: int
    clipped: int
    gap_abs_sum: float
    gap_abs_max: float
    gap_kl_sum: float
    kl_sum: float
    ratio_max: float
    entropy_sum: float


class FinishRequest(Record, frozen=True):
    """The end of a step."""

    learning_rate: float
    max_norm: float
    """Gradients are scaled down to this norm."""
    move: bool = True
    """False drops the gradients: something in the step was not finite."""


class FinishReport(Record, frozen=True):
    """What became of a step."""

    norm: float
    """Gradient norm before clipping."""
    moved: bool


class Learner(Protocol):
    """Anything that moves an adapter."""

    async def accumulate(self, request: MicroRequest) -> MicroReport:
        """Add one micro-batch's gradients."""
        ...

    async def finish(self, request: FinishRequest) -> FinishReport:
        """Move the adapter by the gathered gradients, unless they are not finite."""
        ...

    async def publish(self, adapter: Adapter) -> None:
        """Write the adapter into its folder and make it known to the engine as a new version."""
        ...

    async def save(self, folder: Path) -> None:
        """Write adapter, optimiser and generator states."""
        ...

    async def load(self, folder: Path) -> None:
        """Continue from what `save` wrote."""
        ...

    async def adopt(self, adapter: Adapter) -> None:
        """Take the weights of an earlier version and forget the optimiser's momentum."""
        ...

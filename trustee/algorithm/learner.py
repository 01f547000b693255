"""The seam to whatever trains the policy, and the messages that cross it.

A step is one or more `accumulate` calls and one `finish`; `publish` makes its result a version. The
learner of this program lives in the engine's process, over the engine's own weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from trustee.algorithm.config import ActivationCheckpointing, LearnConfig
from trustee.algorithm.loss import LossConfig
from trustee.types import GIB, Adapter, Record, Sample


class TrainerSpec(Record, frozen=True):
    """How the trainer is built."""

    folder: str
    """Model folder."""
    learn: LearnConfig
    seed: int = 0
    cores: int = 1
    """CPU cores that the program may use: as many threads as a training step takes on a CPU, where
    `learn.threads` says no other number."""
    memory_gib: float | None = None
    """Most that may be taken of the card; None is all of it."""
    start: str | None = None
    """PEFT folder that the adapter begins as; None begins at the base."""
    reference: bool = False
    """Keep the start's weights: a KL term then keeps the policy near them. Without them the base
    is the reference."""


class MicroRequest(Record, frozen=True):
    """One micro-batch of a step."""

    samples: tuple[Sample, ...]
    loss: LossConfig
    normaliser: float
    """Denominator of the whole step's loss."""
    learn: bool = True
    """False only measures: no gradients are gathered, and those of the step stay."""


class MemoryReport(Record, frozen=True, tag="memory"):
    """A micro-batch that did not fit; all gradients of its step are gone. Bytes."""

    asked: str
    """What the allocator said."""
    allocated: int
    reserved: int
    free: int
    total: int

    def describe(self) -> str:
        """Say in figures why a micro-batch did not fit."""
        return (
            f"{self.asked.rstrip('.')}; torch held {self.allocated / GIB:.2f} GiB in tensors and "
            f"{self.reserved / GIB:.2f} GiB in all, {self.free / GIB:.2f} of "
            f"{self.total / GIB:.2f} GiB were free"
        )


class MicroReport(Record, frozen=True, tag="micro"):
    """Sums and counts of a micro-batch, over its trained tokens; see `loss.LossSums`."""

    loss: float = 0.0
    tokens: int = 0
    clipped: int = 0
    gap_abs_sum: float = 0.0
    gap_abs_max: float = 0.0
    gap_kl_sum: float = 0.0
    kl_sum: float = 0.0
    ratio_max: float = 0.0
    entropy_sum: float = 0.0


def add_reports(reports: Sequence[MicroReport]) -> MicroReport:
    """Give the figures of several shares together: sums, and the largest of maxima."""
    whole = {}
    for name in MicroReport.__struct_fields__:
        values = [getattr(report, name) for report in reports]
        whole[name] = max(values) if name.endswith("_max") else sum(values)
    return MicroReport(**whole)


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
        """Add one micro-batch's gradients.

        Raises:
            OutOfMemory: if it does not fit; the gradients of the step so far are dropped.
        """
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

    async def load_adapter(self, adapter: Adapter) -> None:
        """Take the weights of an earlier version and forget the optimiser's momentum."""
        ...

    async def adjust(self, mode: ActivationCheckpointing) -> None:
        """Choose what is kept of a layer for the backward pass, from the next micro-batch on."""
        ...

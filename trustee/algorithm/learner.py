"""The interface of a learner, which trains the policy, and its messages.

A step is one or more `accumulate` calls and one `finish`; `publish` makes the result a version.
This program's learner runs in the engine's process and shares the engine's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from trustee.algorithm.config import ActivationCheckpointing, LearnConfig
from trustee.algorithm.loss import LossConfig
from trustee.types import GIB, Adapter, Record, Sample


class TrainerSpec(Record, frozen=True):
    """Everything that is needed to build the trainer."""

    folder: str
    """Path of the model folder."""
    learn: LearnConfig
    base: str = ""
    """Name of the model that adapters record; empty is the folder."""
    template: str = ""
    """Chat template that is written beside adapters; empty where it is the model's own."""
    seed: int = 0
    cores: int = 1
    """Number of CPU cores that the program may use; a training step on a CPU uses as many
    threads unless `learn.threads` is set."""
    memory_gib: float | None = None
    """Maximum GPU memory to use, in GiB; None means all of it."""
    start: str | None = None
    """PEFT folder from which the adapter starts; None starts from the base."""
    reference: bool = False
    """Whether to keep the start adapter's weights as the reference of the KL term; otherwise the
    base is the reference."""


class MicroRequest(Record, frozen=True):
    """One micro-batch of a step."""

    samples: tuple[Sample, ...]
    loss: LossConfig
    normaliser: float
    """Denominator of the loss of the whole step."""
    learn: bool = True
    """Whether to accumulate gradients; False only measures and leaves gradients as they are."""


SMALLEST = MicroRequest(
    samples=tuple(
        Sample(
            ids=(0, 1, last),
            mask=(False, False, True),
            logprobs=(0.0, 0.0, 0.0),
            advantage=1.0,
            version=0,
            trajectory_id="",
        )
        for last in (2, 3)
    ),
    loss=LossConfig(),
    normaliser=1.0,
)
"""Two samples that begin alike: the smallest micro-batch that uses every kernel."""


class MemoryReport(Record, frozen=True, tag="memory"):
    """A call that did not fit into memory; gradients that its step had gathered are lost.

    Numbers are bytes.
    """

    asked: str
    """The allocator's error message."""
    allocated: int
    reserved: int
    free: int
    total: int

    def describe(self) -> str:
        """Return the memory figures as one sentence for an error message."""
        return (
            f"{self.asked.rstrip('.')}; torch held {self.allocated / GIB:.2f} GiB in tensors and "
            f"{self.reserved / GIB:.2f} GiB in all, {self.free / GIB:.2f} of "
            f"{self.total / GIB:.2f} GiB were free"
        )


class MicroReport(Record, frozen=True, tag="micro"):
    """Sums and counts over the trained tokens of a micro-batch; see `loss.LossSums`."""

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
    """Return several reports as one: the sums of sums, and the maximum of maxima."""
    whole = {}
    for name in MicroReport.__struct_fields__:
        values = [getattr(report, name) for report in reports]
        whole[name] = max(values) if name.endswith("_max") else sum(values)
    return MicroReport(**whole)


class FinishRequest(Record, frozen=True):
    """The end of a step."""

    learning_rate: float
    max_norm: float
    """Maximum gradient norm; larger gradients are scaled down to it."""
    move: bool = True
    """Whether to update the adapter; False drops the gradients, as after a value that is not
    finite."""


class FinishReport(Record, frozen=True):
    """The result of a step."""

    norm: float
    """Gradient norm before clipping."""
    moved: bool
    """Whether the adapter changed."""


class Learner(Protocol):
    """A trainer of the policy's adapter.

    Any call that does not fit into memory raises `OutOfMemory`, drops the gradients gathered so far
    and may be made again; `algorithm/fallback.py` does so one level down the memory ladder.
    """

    async def accumulate(self, request: MicroRequest) -> MicroReport:
        """Add one micro-batch's gradients."""
        ...

    async def finish(self, request: FinishRequest) -> FinishReport:
        """Update the adapter by the accumulated gradients if they are finite."""
        ...

    async def publish(self, adapter: Adapter) -> None:
        """Write the adapter into its folder and register it with the engine as a new version."""
        ...

    async def save(self, folder: Path) -> None:
        """Write the states of adapter, optimiser and random generators to a folder."""
        ...

    async def load(self, folder: Path) -> None:
        """Restore the states that `save` wrote."""
        ...

    async def load_adapter(self, adapter: Adapter) -> None:
        """Load the weights of an earlier version and reset the optimiser's momentum.

        Version 0 is the base: the adapter then starts anew, without any effect.
        """
        ...

    async def adjust(self, mode: ActivationCheckpointing) -> None:
        """Choose what a layer keeps for the backward pass, from the next micro-batch on."""
        ...

"""Settings of a run: how long it is, where it lies, who is told."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from trustee.types import PathText, Record

TrackerName = Literal["trackio", "wandb", "tensorboard"]


class RunConfig(Record, frozen=True):
    """Length of the run, its folders, and its trackers."""

    steps: Annotated[int, Meta(ge=1)] = 200
    """Number of optimiser steps."""
    minutes: Annotated[float, Meta(gt=0)] | None = None
    """Minutes of training after which the run ends; none: no limit."""
    tokens: Annotated[int, Meta(ge=1)] | None = None
    """Tokens sampled by the policy in training after which the run ends; none: no limit."""
    seed: int = 0
    """Decides the tasks, the episodes' randomness and the adapter's first weights."""
    folder: PathText = "runs"
    """Folder in which run folders are created."""
    keep_checkpoints: Annotated[int, Meta(ge=1)] = 2
    """Newest checkpoints that stay on disk."""
    report_to: tuple[TrackerName, ...] = ()
    """Trackers that get the figures; each is an extra of this package."""
    adapter: PathText | None = None
    """PEFT or run folder of the adapter that training starts from; none starts from the base. With
    `learn.loss.kl_coef` it is also the reference of the KL penalty. Keep the folder in place."""

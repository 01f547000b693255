"""A trainer on a card with little memory: larger micro-batches raise torch's own error."""

from __future__ import annotations

import os

import torch

from trustee.algorithm.batch import Batch
from trustee.algorithm.loss import TokenLogprobs
from trustee.trainer.extension import TrainerExtension
from trustee.trainer.trainer import Trainer

ROOM = "TRUSTEE_TEST_ROOM"
"""Variable that holds how many ids of a pass fit with layer inputs elsewhere."""
SHARES = {"off": 0.5, "recompute": 0.75, "offload": 1.0}
"""How many of them fit in each mode."""


class NarrowTrainer(Trainer):
    """The real trainer, but for its memory."""

    def forward(self, batch: Batch) -> TokenLogprobs:
        """Fail as an allocator does where a pass is too large."""
        room = int(os.environ[ROOM]) * SHARES[self.mode]
        if len(batch.ids_T) > room:
            raise torch.OutOfMemoryError(f"tried to hold {len(batch.ids_T)} ids")
        return super().forward(batch)


class NarrowExtension(TrainerExtension):
    """The real extension with that trainer."""

    trustee_kind = NarrowTrainer

"""A trainer on a card with little memory: larger micro-batches raise torch's own error."""

from __future__ import annotations

import torch

from trustee.batch import Batch
from trustee.loss import TokenLogprobs
from trustee.worker.trainer import TrainerExtension

ROOM = 1300
"""Padded ids of a forward pass that fit."""


class NarrowTrainer(TrainerExtension):
    """The real trainer, but for its memory."""

    def trustee_forward(self, batch: Batch) -> TokenLogprobs:
        """Fail as an allocator does where a pass is too large."""
        if batch.ids_BL.numel() > ROOM:
            raise torch.OutOfMemoryError(f"tried to hold {batch.ids_BL.numel()} ids")
        return super().trustee_forward(batch)

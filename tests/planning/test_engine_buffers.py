"""Buffers of the engine that the ledger plans for, against the engine's own code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from trustee.planning.ledger import PENALTY_BYTES

pytest.importorskip("vllm")


class Uva:
    """A tensor on both sides, without a second side."""

    def __init__(self, size: int, **given: Any) -> None:
        self.np = np.zeros(size)

    def copy_to_uva(self) -> None:
        """There is nothing to copy to."""


def test_penalties_fit_into_their_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and masks over the vocabulary are allocated by vLLM whether they are used or not."""
    from vllm.v1.worker.gpu.sample import penalties

    monkeypatch.setattr(penalties, "UvaBackedTensor", Uva)
    sequences, vocab = 48, 151_936
    states: Any = SimpleNamespace(
        device=torch.device("cpu"), max_num_reqs=sequences, vocab_size=vocab
    )
    config: Any = None
    made = penalties.PenaltiesState(config, states)
    held = sum(one.nbytes for one in vars(made).values() if isinstance(one, torch.Tensor))
    planned = PENALTY_BYTES * sequences * vocab
    assert 0.8 * planned < held <= planned

"""The policy that a KL term keeps the trained one near: weights that are lent for one forward pass.

A second adapter beside the trained one would take part in every layer's bookkeeping. Here the same
parameters hold the reference's values for a moment, in bf16, as the engine holds a version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


def keep_reference(params: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copy the values that parameters have now."""
    return [parameter.detach().to(torch.bfloat16, copy=True) for parameter in params]


@contextmanager
def swapped(params: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> Iterator[None]:
    """Let parameters hold other values, whose type may differ, until the block ends."""
    own = [parameter.data for parameter in params]
    for parameter, other in zip(params, others, strict=True):
        parameter.data = other
    try:
        yield
    finally:
        for parameter, values in zip(params, own, strict=True):
            parameter.data = values

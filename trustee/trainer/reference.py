"""The reference policy of the KL term: weights that are swapped in for one forward pass.

A second adapter would take part in every layer's bookkeeping. Instead the trained parameters
temporarily hold the reference's values, in the precision in
which the engine holds a version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


def keep_reference(params: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Return copies of the current values of parameters, in the engine's precision."""
    return [parameter.detach().to(dtype, copy=True) for parameter in params]


@contextmanager
def swapped(params: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> Iterator[None]:
    """Make parameters hold other values, of any dtype, until the block ends."""
    own = [parameter.data for parameter in params]
    for parameter, other in zip(params, others, strict=True):
        parameter.data = other
    try:
        yield
    finally:
        for parameter, values in zip(params, own, strict=True):
            parameter.data = values

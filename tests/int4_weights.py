"""Random four-bit weights, before they are packed."""

from __future__ import annotations

import torch

Drawn = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def draw(outputs: int, inputs: int, *, group: int = 64, seed: int = 0) -> Drawn:
    """Draw codes, scales and zero points."""
    source = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8, generator=source)
    scales = torch.rand(outputs, inputs // group, generator=source).bfloat16()
    zeros = torch.randint(0, 16, (outputs, inputs // group), dtype=torch.uint8, generator=source)
    return codes, scales, zeros

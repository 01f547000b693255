"""A hash of the frozen base, by which tests and checks see that nothing has changed it."""

from __future__ import annotations

import hashlib

import torch


def hash_frozen(model: torch.nn.Module) -> str:
    """Hash every byte of the parameters that are not trained, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters()):
        if not tensor.requires_grad:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

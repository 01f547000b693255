"""Taking the weights of an adapter on disk, which may be smaller or scaled otherwise than ours.

Ours has all target layers, one rank, and an alpha of twice the rank. An adapter with another alpha
is taken with its B scaled; layers and ranks that it lacks start as in a new adapter, with a product
of zero. So the model says exactly what it said with the adapter as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file

from trustee.errors import RunError
from trustee.runs.adapters import ALPHA_PER_RANK, HALVES, WEIGHTS, read_adapter
from trustee.trainer.optimizer import Tensors
from trustee.trainer.shared_model import restart_adapter


def trained_tensors(model: PeftModel) -> Tensors:
    """Return the parameters of the adapter, named as in a PEFT file.

    PEFT's own function has every quantised layer of the base tell its state.
    """
    return {
        name.replace(".default.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def describe_adapter(model: PeftModel) -> dict[str, Any]:
    """Return an adapter's PEFT config as plain values."""
    config: dict[str, Any] = model.peft_config["default"].to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    return config


def take_adapter(model: PeftModel, folder: Path, *, seed: int) -> None:
    """Give a model's adapter the weights of a PEFT folder.

    Args:
        model: the trained model.
        folder: a folder that `check_fit` accepts.
        seed: decides the first weights of what the folder's adapter lacks.

    Raises:
        InputError: if the folder is not that of a LoRA adapter.
        RunError: if a tensor is not finite, or has no place in the model.
    """
    own = trained_tensors(model)
    given = load_file(folder / WEIGHTS, device=str(next(iter(own.values())).device))
    factor = read_adapter(folder).scale / ALPHA_PER_RANK
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise RunError(f"{folder / WEIGHTS}: {name} holds numbers that are not finite")
        place = own.get(name)
        if place is None or any(a > b for a, b in zip(tensor.shape, place.shape, strict=True)):
            raise RunError(f"{folder / WEIGHTS}: {name} {tuple(tensor.shape)} has no place here")
    if any(name not in given or given[name].shape != own[name].shape for name in own):
        restart_adapter(model, seed=seed)
    with torch.no_grad():
        for name, tensor in given.items():
            weights = tensor.to(own[name].dtype)
            if name.endswith(HALVES[1]) and factor != 1.0:
                weights = weights * factor
            own[name][tuple(slice(size) for size in tensor.shape)] = weights

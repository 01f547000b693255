"""The optimiser of a config, and its states as tensors and JSON, because pickle is not used."""

from __future__ import annotations

from typing import Any

import torch

from trustee.algorithm.config import LearnConfig

Tensors = dict[str, torch.Tensor]


def make_optimizer(config: LearnConfig, params: list[torch.nn.Parameter]) -> Any:
    """Return the optimiser of a config; its learning rate is set at each step."""
    if config.optimizer == "adamw8bit":
        import bitsandbytes

        kind: Any = bitsandbytes.optim.AdamW8bit
    else:
        kind = torch.optim.AdamW
    return kind(params, lr=0.0, betas=config.betas, weight_decay=config.weight_decay)


def flatten_state(state: dict[Any, Any], *, under: str = "") -> tuple[Tensors, dict[str, Any]]:
    """Split a nested optimiser state into tensors and numbers, keyed `<parameter>/<field>`."""
    tensors: Tensors = {}
    numbers: dict[str, Any] = {}
    for key, value in state.items():
        path = f"{under}{key}"
        if isinstance(value, dict):
            inner_tensors, inner_numbers = flatten_state(value, under=f"{path}/")
            tensors |= inner_tensors
            numbers |= inner_numbers
        elif isinstance(value, torch.Tensor):
            # Cloned, because bitsandbytes shares its quantisation map between parameters.
            tensors[path] = value.detach().cpu().clone()
        else:
            numbers[path] = value
    return tensors, numbers


def unflatten_state(tensors: Tensors, numbers: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the nested state that `flatten_state` was given."""
    state: dict[int, dict[str, Any]] = {}
    for path, value in [*tensors.items(), *numbers.items()]:
        index, *fields, last = path.split("/")
        at: dict[Any, Any] = state.setdefault(int(index), {})
        for field in fields:
            at = at.setdefault(field, {})
        at[last] = value
    return state

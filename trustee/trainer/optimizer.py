"""The optimiser of a config, and its states as tensors and JSON, because pickle is not used.

States exist before the first step: an optimiser would make them at its first move, when the largest
micro-batch has long been tried and found to fit without them.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@torch.no_grad()
def create_states(optimizer: Any) -> None:
    """Make the states that a parameter does not have yet, as the first step would make them."""
    for number, group in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(group["params"]):
            if optimizer.state[parameter]:
                continue
            if hasattr(optimizer, "init_state"):
                optimizer.init_state(group, parameter, number, place)
            else:
                optimizer.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def count_scratch(config: LearnConfig, params: Sequence[torch.Tensor]) -> int:
    """Count the bytes that one step takes for the moment: copies of states or of a large tensor."""
    sizes = [parameter.numel() for parameter in params]
    return 8 * sum(sizes) if config.optimizer == "adamw" else 8 * max(sizes)


def make_room(size: int, device: torch.device) -> None:
    """Take and release memory on a GPU, so that what follows finds it or nothing has begun.

    Raises:
        torch.OutOfMemoryError: if there is not so much.
    """
    if device.type == "cuda":
        torch.empty(size, dtype=torch.uint8, device=device)


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

"""Optimisers: states survive a file, whatever they nest, and the next step is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from trustee.algorithm.config import LearnConfig, Optimizer
from trustee.trainer.optimizer import create_states, flatten_state, make_optimizer, unflatten_state


def learning(optimizer: Optimizer) -> LearnConfig:
    """Give a config of which only the optimiser matters."""
    return LearnConfig(optimizer=optimizer, weight_decay=0.1)


def move(optimizer: Any, params: list[torch.nn.Parameter], seed: int) -> None:
    """Take one step along random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for parameter in params:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_a_stored_optimiser_goes_on_as_if_nothing_had_been(
    optimizer: Optimizer, tmp_path: Path
) -> None:
    """Moments, step counts and 8-bit tables come back from a file, large tensors and small ones."""
    params = [torch.nn.Parameter(torch.ones(64, 128)), torch.nn.Parameter(torch.ones(7))]
    first = make_optimizer(learning(optimizer), params)
    for seed in range(3):
        move(first, params, seed)
    tensors, numbers = flatten_state(first.state_dict()["state"])
    save_file(tensors, tmp_path / "state.safetensors")
    written = msgspec.json.encode(numbers)

    copies = [torch.nn.Parameter(parameter.detach().clone()) for parameter in params]
    second = make_optimizer(learning(optimizer), copies)
    whole = second.state_dict()
    state = load_file(tmp_path / "state.safetensors")
    whole["state"] = unflatten_state(state, msgspec.json.decode(written))
    second.load_state_dict(whole)
    move(first, params, 9)
    move(second, copies, 9)
    for left, right in zip(params, copies, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_states_made_before_the_first_step_change_nothing(optimizer: Optimizer) -> None:
    """They are what the first step would have made, and making them again keeps the old ones."""
    made, plain = (
        [torch.nn.Parameter(torch.ones(64, 128)), torch.nn.Parameter(torch.ones(7))]
        for _ in range(2)
    )
    first, second = (make_optimizer(learning(optimizer), params) for params in (made, plain))
    create_states(first)
    tensors, _ = flatten_state(first.state_dict()["state"])
    assert {"0", "1"} == {name.partition("/")[0] for name in tensors}
    for seed in range(2):
        move(first, made, seed)
        move(second, plain, seed)
        create_states(first)
    assert all(map(torch.equal, made, plain))
    ours, theirs = (flatten_state(one.state_dict()["state"]) for one in (first, second))
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])


def test_what_is_nested_comes_back_nested() -> None:
    """Paths lead back to the parameter and through every dict; what was stored is a copy."""
    moment = torch.arange(3.0)
    state = {0: {"step": 4, "moments": {"first": moment, "kind": "m"}}, 11: {"step": 5}}
    tensors, numbers = flatten_state(state)
    assert numbers == {"0/step": 4, "0/moments/kind": "m", "11/step": 5}
    assert tensors["0/moments/first"].data_ptr() != moment.data_ptr()
    back = unflatten_state(tensors, numbers)
    assert torch.equal(back[0]["moments"].pop("first"), moment)
    assert back == {0: {"step": 4, "moments": {"kind": "m"}}, 11: {"step": 5}}

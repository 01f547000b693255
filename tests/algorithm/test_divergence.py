"""KL and logprobs of two sets of hidden states, against torch's own on whole logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from trustee.algorithm.divergence import diverge


@given(
    count=st.integers(1, 7),
    chunk=st.integers(1, 9),
    apart=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_it_is_the_divergence_of_whole_distributions(
    count: int, chunk: int, apart: float, seed: int
) -> None:
    """However the positions are cut into chunks."""
    torch.manual_seed(seed)
    base_NH = torch.randn(count, 5, dtype=torch.float64)
    policy_NH = base_NH + apart * torch.randn(count, 5, dtype=torch.float64)
    head_VH = torch.randn(11, 5, dtype=torch.float64)
    targets_N = torch.randint(11, (count,))
    found = diverge(base_NH, policy_NH, head_VH, targets=targets_N, chunk=chunk)
    first, second = (Categorical(logits=each @ head_VH.T) for each in (base_NH, policy_NH))
    torch.testing.assert_close(found.kl, kl_divergence(first, second))
    torch.testing.assert_close(found.base, first.log_prob(targets_N))
    torch.testing.assert_close(found.policy, second.log_prob(targets_N))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_equal_states_do_not_diverge(dtype: torch.dtype) -> None:
    """Of the same hidden states the divergence is 0, never below, in every precision."""
    hidden_NH, head_VH = torch.randn(9, 16).to(dtype), torch.randn(300, 16).to(dtype)
    found = diverge(hidden_NH, hidden_NH, head_VH, targets=torch.arange(9), chunk=4)
    assert [0.0] * 9 == found.kl.tolist()
    assert torch.float32 == found.kl.dtype

"""The mended norm gives the bits of the trainer's model."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from vllm import _custom_ops  # noqa: F401 - registers the kernels
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.platforms import current_platform

from trustee.trainer.cpu_norm import fix_cpu_norm, norm

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="a CPU's norms are mended")


def theirs(size: int, weight: torch.Tensor) -> Qwen3RMSNorm:
    """Make the norm of transformers."""
    module: Qwen3RMSNorm = Qwen3RMSNorm(size, eps=1e-6).to(torch.bfloat16)
    module.weight.data = weight
    return module


def draw(*shape: int) -> torch.Tensor:
    """Draw numbers in bf16."""
    made = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=made).to(torch.bfloat16)


@pytest.mark.parametrize("shape", [(1, 256), (64, 256), (7, 4, 64), (3, 1024)])
def test_the_bits_of_transformers(shape: tuple[int, ...]) -> None:
    """Contiguous or not, whatever the shape; sums in another order may flip one bit in 10,000."""
    wide, weight = draw(*shape[:-1], 2 * shape[-1]), draw(shape[-1])
    for x in (wide[..., : shape[-1]].contiguous(), wide[..., shape[-1] :]):
        expected = theirs(shape[-1], weight)(x)
        given = norm(x, weight, epsilon=1e-6)
        assert given.shape == expected.shape
        assert (given != expected).float().mean() < 1e-4


def test_sum_is_rounded_before_the_norm() -> None:
    """With a residual both outputs are those of transformers' layer, and inputs stay."""
    fix_cpu_norm()
    x, residual, weight = draw(40, 256), draw(40, 256) * 3, draw(256)
    kept = x.clone(), residual.clone()
    with set_current_vllm_config(VllmConfig()):
        ours = RMSNorm(256, eps=1e-6, dtype=torch.bfloat16)
    ours.weight.data = weight
    given, whole = ours.forward_native(x, residual)
    assert torch.equal(whole, x + residual)
    assert (given != theirs(256, weight)(x + residual)).float().mean() < 1e-4
    assert torch.equal(x, kept[0])
    assert torch.equal(residual, kept[1])
    assert torch.equal(ours.forward_native(x), norm(x, weight, epsilon=1e-6))


def test_other_types_take_the_stock_norm() -> None:
    """In fp32 nothing is mended."""
    fix_cpu_norm()
    with set_current_vllm_config(VllmConfig()):
        ours = RMSNorm(256, eps=1e-6, dtype=torch.float32)
    x = torch.randn(5, 256)
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(ours.forward_native(x), x * scale)

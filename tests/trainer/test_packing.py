"""Packed matrices: bit for bit torch's own product."""

from __future__ import annotations

import pytest
import torch

from trustee.trainer.packing import Packed


@pytest.mark.parametrize("rows", [1, 7, 64, 200])
@pytest.mark.parametrize(("out", "inner"), [(48, 256), (1536, 256), (256, 768), (10, 24)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_same_bits_as_torch(rows: int, out: int, inner: int, with_bias: bool) -> None:
    """Whatever the shape, contiguous or not, with a bias or without."""
    made = torch.Generator().manual_seed(rows + out)
    whole = torch.randn(2, out, inner, generator=made).to(torch.bfloat16)
    bias = torch.randn(out, generator=made).to(torch.bfloat16) if with_bias else None
    wide = torch.randn(rows, 2 * inner, generator=made).to(torch.bfloat16)
    packed = Packed(whole[1])
    for given in (wide[:, :inner].contiguous(), wide[:, inner:]):
        expected = torch.nn.functional.linear(given, whole[1], bias)
        torch.testing.assert_close(expected, packed.multiply(given, bias), rtol=0, atol=0)


def test_a_batch_keeps_its_shape() -> None:
    """All but the last dimension stay."""
    matrix = torch.ones(3, 4, dtype=torch.bfloat16)
    assert (2, 5, 3) == Packed(matrix).multiply(torch.ones(2, 5, 4, dtype=torch.bfloat16)).shape


def test_what_cannot_be_packed_is_multiplied_all_the_same() -> None:
    """Other types take torch's product."""
    matrix, rows = torch.randn(3, 4), torch.randn(2, 4)
    torch.testing.assert_close(rows @ matrix.t(), Packed(matrix).multiply(rows))

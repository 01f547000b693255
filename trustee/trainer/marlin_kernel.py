"""Opening packed four-bit weights on a GPU: one kernel, with the numbers of `open_in_torch`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16
"""Inputs per row of words."""
OUTPUTS, INPUTS = 64, 64
"""The tile that one program opens."""


@triton.jit  # type: ignore[untyped-decorator]
def _open(  # type: ignore[no-untyped-def]
    words, scales, zeros, opened, inputs, word_row, scale_row, zero_row,
    GROUP: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)[:, None]
    k = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)[None, :]
    # The order of a block's codes, n2 n1 n0 k2 k1 n5 n4 k0 n3 k3: seven of word, three of place.
    word = (n % 8) * 16 + (k // 2 % 4) * 4 + n // 16 % 4
    place = k % 2 * 4 + n // 8 % 2 * 2 + k // 8 % 2
    code = tl.load(words + (k // 16).to(tl.int64) * word_row + n // 64 * 128 + word) >> place * 4
    # Those of scales are n2 n1 n0 n5 n4 n3, of zero points n2 n1 n0 n3 n5 n4.
    group = (k // GROUP).to(tl.int64)
    scale = tl.load(scales + group * scale_row + n // 64 * 64 + n % 8 * 8 + n // 8 % 8)
    place = n // 8 % 2 * 4 + n // 16 % 4
    zero = tl.load(zeros + group * zero_row + n // 64 * 8 + n % 8) >> place * 4
    number = ((code & 15) - (zero & 15)).to(tl.float32) * scale.to(tl.float32)
    # Rounded to the nearest bf16 by hand: a GPU would do it, but Triton's interpreter cuts off.
    bits = number.to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    tl.store(opened + n.to(tl.int64) * inputs + k, bits.to(tl.int16))


def open_packed(words: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Return the matrix of an `Int4Weight` in bf16, [out, in]."""
    outputs, inputs = scales.shape[1], words.shape[0] * TILE
    opened = torch.empty(outputs, inputs, dtype=torch.bfloat16, device=words.device)
    _open[(outputs // OUTPUTS, inputs // INPUTS)](
        words,
        scales,
        zeros,
        opened.view(torch.int16),
        inputs,
        words.stride(0),
        scales.stride(0),
        zeros.stride(0),
        GROUP=inputs // scales.shape[0],
        OUTPUTS=OUTPUTS,
        INPUTS=INPUTS,
    )
    return opened

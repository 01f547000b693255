"""Four-bit weights in the layout of vLLM's Marlin kernels: packed, and opened again, in torch.

A matrix [out, in] has a code per weight, and a scale and a zero point per group of its row; the
weight is (code - zero) * scale, rounded once to bf16. Marlin computes just that, so engine and
trainer multiply the same numbers.

Layout, with `in` cut into tiles of 16 and `out` into tiles of 64: the 1024 codes of such a block
stand in the order in which the lanes of a warp want them. Written as bits of the two indices, that
order is n2 n1 n0 k2 k1 n5 n4 k0 n3 k3, most significant first, which makes packing a transposition.
Tests compare it with vLLM's own packing.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from trustee.trainer.int4 import INT4_COLUMNS, INT4_GROUP, INT4_LEVELS

TILE = 16
"""Inputs per tile."""
SIXTEEN_BYTES = torch.complex128
CODES, MANTISSAS = 0x000F000F, 0x43004300
"""Masks of a pair of codes, and of the two bf16 numbers 128 that they are put into."""
WEIGHTS_AT_ONCE = 1 << 24
"""Weights that are quantised at a time, which bounds the memory that it takes."""


@dataclass(frozen=True, slots=True, eq=False)
class Int4Weight:
    """A packed matrix [out, in], or columns of a larger one.

    Shapes: `words` int32 [in / 16, 2 out], `scales` bf16 [in / group, out], `zeros` int32
    [in / group, out / 8]. As columns of a larger matrix they are views.
    """

    words: Tensor
    scales: Tensor
    zeros: Tensor

    @property
    def shape(self) -> torch.Size:
        """Outputs and inputs."""
        return torch.Size((self.scales.shape[1], self.words.shape[0] * TILE))

    @property
    def group(self) -> int:
        """Weights per scale."""
        return self.shape[1] // self.scales.shape[0]

    def split(self, widths: list[int]) -> list[Int4Weight]:
        """Return the parts of a fused matrix, as views; what follows them is padding."""
        parts, at = [], 0
        for width in widths:
            end = at + width
            parts.append(
                Int4Weight(
                    self.words[:, 2 * at : 2 * end],
                    self.scales[:, at:end],
                    self.zeros[:, at // 8 : end // 8],
                )
            )
            at = end
        return parts

    def open(self) -> Tensor:
        """Return the matrix in bf16."""
        if self.words.device.type == "cuda":
            from trustee.trainer.marlin_kernel import open_packed

            return open_packed(self.words, self.scales, self.zeros)
        return open_in_torch(self)


def join_parts(parts: list[Int4Weight]) -> Int4Weight:
    """Join parts to one fused matrix, padded to what the kernels take.

    Marlin wants 128 inputs by 64 outputs at a time, or 64 by 128. Padding has scale zero.
    """
    words = torch.cat([part.words for part in parts], 1)
    scales = torch.cat([part.scales for part in parts], 1)
    zeros = torch.cat([part.zeros for part in parts], 1)
    missing = INT4_COLUMNS if words.shape[0] * TILE % 128 and scales.shape[1] % 128 else 0
    pad = torch.nn.functional.pad
    return Int4Weight(
        pad(words, (0, 2 * missing)), pad(scales, (0, missing)), pad(zeros, (0, missing // 8))
    )


def quantise(weight: Tensor, *, group: int = INT4_GROUP) -> Int4Weight:
    """Round a matrix [out, in] to four bits, each group over the range of its own weights.

    Raises:
        ValueError: if `out` is not a multiple of 64, or `in` not one of `group`.
    """
    outputs, inputs = weight.shape
    if outputs % INT4_COLUMNS or inputs % group:
        raise ValueError(
            f"a layer of {inputs} inputs and {outputs} outputs cannot be held in int4, which takes "
            f"inputs in groups of {group} and outputs in groups of {INT4_COLUMNS}; "
            'set engine.weights = "nf4" or "bf16"'
        )
    step = max(1, WEIGHTS_AT_ONCE // inputs)
    pieces = [round_groups(rows, group=group) for rows in weight.split(step)]
    codes, scales, zeros = (torch.cat(kind) for kind in zip(*pieces, strict=True))
    return pack(codes, scales, zeros)


def round_groups(weight: Tensor, *, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes uint8 [out, in], scales bf16 and zero points uint8 [out, in / group].

    Zero is a level of every group, so its range is made to contain zero. The range is never cut:
    that lowers the mean error, and real models are the worse for it (bench/LOG.md).
    """
    groups = weight.float().unflatten(-1, (-1, group))
    low = groups.amin(-1).clamp(max=0)
    high = groups.amax(-1).clamp(min=0)
    tiny = torch.finfo(torch.bfloat16).tiny
    scales = ((high - low) / INT4_LEVELS).clamp(min=tiny).bfloat16()
    steps = scales.float()
    zeros = (-low / steps).round_().clamp_(0, INT4_LEVELS)
    codes = (groups / steps[..., None]).round_().add_(zeros[..., None]).clamp_(0, INT4_LEVELS)
    return codes.byte().flatten(-2), scales, zeros.byte()


def pack(codes: Tensor, scales: Tensor, zeros: Tensor) -> Int4Weight:
    """Bring codes [out, in], scales and zero points [out, in / group] into Marlin's layout."""
    outputs, inputs = codes.shape
    blocks = codes.byte().view(outputs // 64, 4, 2, 8, inputs // TILE, 2, 4, 2)
    ordered = blocks.permute(4, 0, 3, 6, 1, 7, 2, 5).reshape(inputs // TILE, outputs * TILE)
    eighths = scales.t().reshape(-1, outputs // 64, 8, 8).transpose(2, 3)
    points = zeros.byte().t().reshape(-1, outputs // 64, 4, 2, 8).permute(0, 1, 4, 3, 2)
    return Int4Weight(
        words=join_nibbles(ordered),
        scales=eighths.reshape(-1, outputs).bfloat16(),
        zeros=join_nibbles(points.reshape(-1, outputs)),
    )


def unpack(weight: Int4Weight) -> tuple[Tensor, Tensor, Tensor]:
    """Undo `pack`."""
    outputs, inputs = weight.shape
    blocks = split_nibbles(weight.words).view(inputs // TILE, outputs // 64, 8, 4, 4, 2, 2, 2)
    return blocks.permute(1, 4, 6, 2, 0, 7, 3, 5).reshape(outputs, inputs), *unpack_groups(weight)


def unpack_groups(weight: Int4Weight) -> tuple[Tensor, Tensor]:
    """Return scales bf16 and zero points uint8 [out, in / group]."""
    outputs = weight.shape[0]
    scales = weight.scales.reshape(-1, outputs // 64, 8, 8).permute(1, 3, 2, 0)
    points = split_nibbles(weight.zeros).view(-1, outputs // 64, 8, 2, 4).permute(1, 4, 3, 2, 0)
    return scales.reshape(outputs, -1), points.reshape(outputs, -1)


def open_in_torch(weight: Int4Weight) -> Tensor:
    """Return the matrix in bf16.

    The layout holds neighbours of a row sixteen bits apart, so that two codes at once become the
    mantissas of two bf16 numbers, 128 more than they are. Differences of codes are exact in bf16:
    the weight is rounded once, by the scale.
    """
    outputs, inputs = weight.shape
    lanes = weight.words.view(inputs // TILE, outputs // 64, 8, 4, 4).permute(1, 4, 2, 0, 3)
    lanes = lanes.contiguous()
    pairs = lanes.new_empty(outputs // 64, 4, 2, 8, inputs // TILE, 2, 4)
    for n3, k3 in itertools.product(range(2), range(2)):
        # Four pairs are sixteen bytes; moved as one number they take half the time.
        pair = (lanes >> 8 * n3 + 4 * k3).bitwise_and_(CODES).bitwise_or_(MANTISSAS)
        pairs.view(SIXTEEN_BYTES)[:, :, n3, :, :, k3] = pair.view(SIXTEEN_BYTES)
    scales, zeros = unpack_groups(weight)
    groups = pairs.view(torch.bfloat16).view(outputs, -1, weight.group)
    groups.sub_((zeros + 128).bfloat16()[..., None]).mul_(scales[..., None])
    return groups.view(outputs, inputs)


def join_nibbles(codes: Tensor) -> Tensor:
    """Join eight codes [..., 8 n] to a word, int32 [..., n]; the first has the lowest bits."""
    pairs = codes.view(*codes.shape[:-1], -1, 2)
    return (pairs[..., 0] | pairs[..., 1] << 4).contiguous().view(torch.int32)


def split_nibbles(words: Tensor) -> Tensor:
    """Undo `join_nibbles`; codes are uint8."""
    pairs = words.contiguous().view(torch.uint8)
    return torch.stack((pairs & 15, pairs >> 4), -1).flatten(-2)

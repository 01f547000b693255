"""A replacement for vLLM's LoRA product on CPUs.

vLLM's own version copies the whole adapter once per token, which is three times slower for the
built-in model, and in 0.32 applies the last slot to rows of the base when both are in one batch.
vLLM fuses q, k and v (and gate and up) into one layer but keeps one LoRA per part. Here the parts
are fused too: all A of a slot form one matrix, all B are on the diagonal of another, and vLLM
writes into views of their parts. Off-diagonal entries are zero, so fewer products give the same
result bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from vllm.platforms import current_platform

from trustee.trainer.packing import Packed


class Stack(tuple[torch.Tensor, ...]):
    """The A or B matrices of a layer's parts as vLLM holds them: views of one tensor."""

    whole: torch.Tensor
    """A: [slots, rank of all parts, in]; B: [slots, out of all parts, rank of all parts]."""
    packed: dict[int, Packed]
    """Packed matrices by slot, for slots that were used since they were last written."""

    @classmethod
    def over(cls, whole: torch.Tensor, parts: Iterable[torch.Tensor]) -> Stack:
        """Make a stack of `parts`, which are views of `whole`."""
        stack = cls(parts)
        stack.whole = whole
        stack.packed = {}
        return stack

    def multiply(self, rows: torch.Tensor, slot: int) -> torch.Tensor:
        """Return `rows` [N, in] times the transpose of a slot's matrix, [N, out]."""
        if slot not in self.packed:
            self.packed[slot] = Packed(self.whole[slot])
        return self.packed[slot].multiply(rows)

    def forget(self, slot: int) -> None:
        """Drop the packed copy of a slot; call it before the slot is written."""
        self.packed.pop(slot, None)


def fuse(layer: Any) -> None:
    """Move the A and the B matrices of a layer's parts into one tensor each, unless they are.

    Args:
        layer: vLLM's LoRA layer, whose `lora_a_stacked` [slots, 1, rank, in] and `lora_b_stacked`
            [slots, 1, out, rank] are replaced; their values are kept.
    """
    a, b = layer.lora_a_stacked, layer.lora_b_stacked
    if isinstance(a, Stack):
        return
    slots, _, rank, inner = a[0].shape
    widths = [part.shape[2] for part in b]
    whole_a = a[0].new_zeros(slots, rank * len(a), inner)
    whole_b = b[0].new_zeros(slots, sum(widths), rank * len(b))
    parts_a = whole_a.split(rank, 1)
    rows = whole_b.split(widths, 1)
    parts_b = [part.split(rank, 2)[index] for index, part in enumerate(rows)]
    layer.lora_a_stacked = Stack.over(whole_a, (part.unsqueeze(1) for part in parts_a))
    layer.lora_b_stacked = Stack.over(whole_b, (part.unsqueeze(1) for part in parts_b))
    held = zip((*layer.lora_a_stacked, *layer.lora_b_stacked), (*a, *b), strict=True)
    for view, old in held:
        view.copy_(old)


SlotRows = list[tuple[int, torch.Tensor | None]]
"""Slots and the indices of their rows; None for a slot that has all rows."""


def find_rows(slots_N: torch.Tensor) -> SlotRows:
    """Return the rows of each slot, None if one slot has them all; -1, the base, is left out."""
    slots = slots_N.unique().tolist()
    return [
        (slot, None if len(slots) == 1 else (slots_N == slot).nonzero()[:, 0])
        for slot in slots
        if slot >= 0
    ]


def add_products(
    into_NO: torch.Tensor, rows_NI: torch.Tensor, found: SlotRows, *, a: Stack, b: Stack
) -> None:
    """Add to each row of `into_NO` the LoRA product of its slot's adapter."""
    for slot, rows in found:
        taken = rows_NI if rows is None else rows_NI[rows]
        high = b.multiply(a.multiply(taken, slot), slot)
        if rows is None:
            into_NO += high
        else:
            into_NO.index_add_(0, rows, high)


@cache
def fix_cpu_lora() -> None:
    """Replace vLLM's CPU LoRA product with two matrix products per layer and adapter.

    Runs once per process, and does nothing on a GPU. A layer is fused when an adapter is first
    written into it, because no row uses an adapter before that; vLLM resets a slot before each
    write.
    """
    if not current_platform.is_cpu():
        return
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    stock_update = PunicaWrapperCPU.update_metadata
    stock_reset = BaseLinearLayerWithLoRA.reset_lora

    def reset_lora(self: Any, index: int) -> None:
        fuse(self)
        for stack in (self.lora_a_stacked, self.lora_b_stacked):
            stack.forget(index)
        stock_reset(self, index)

    def update_metadata(self: Any, *args: Any, **kwargs: Any) -> None:
        stock_update(self, *args, **kwargs)
        self.trustee_rows = find_rows(self.token_lora_indices)

    def add_lora_linear(
        self: Any,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Stack,
        lora_b_stacked: Stack,
        scale: float,
        output_slices: tuple[int, ...],
        **unused: Any,
    ) -> None:
        # vLLM multiplied B by the scale when it loaded the adapter.
        assert scale == 1.0, f"B already includes the scale, got another scale of {scale}"
        add_products(
            y.view(-1, y.shape[-1]),
            x.view(-1, x.shape[-1]),
            self.trustee_rows,
            a=lora_a_stacked,
            b=lora_b_stacked,
        )

    PunicaWrapperCPU.update_metadata = update_metadata
    PunicaWrapperCPU.add_lora_linear = add_lora_linear
    BaseLinearLayerWithLoRA.reset_lora = reset_lora

"""The LoRA product of fused layers: the same numbers as part by part, and vLLM's view of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trustee.trainer.cpu_lora import Stack, add_products, find_rows, fuse

RANK = 8
SLOTS = 3


def make_layer(widths: tuple[int, ...], *, inner: int = 32) -> Any:
    """Give a layer as vLLM makes it, with something in every slot."""
    made = torch.Generator().manual_seed(sum(widths))

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(SLOTS, 1, *shape, generator=made).to(torch.bfloat16)

    return SimpleNamespace(
        lora_a_stacked=tuple(draw(RANK, inner) for _ in widths),
        lora_b_stacked=tuple(draw(width, RANK) for width in widths),
    )


def add_by_part(y: torch.Tensor, x: torch.Tensor, layer: Any, slots: list[int]) -> torch.Tensor:
    """Give the sum as the definition has it: row by row, part by part."""
    rows = []
    for row, taken, slot in zip(y, x, slots, strict=True):
        if slot < 0:
            rows.append(row)
            continue
        parts = zip(layer.lora_a_stacked, layer.lora_b_stacked, strict=True)
        added = [(taken[None] @ a[slot, 0].t()) @ b[slot, 0].t() for a, b in parts]
        rows.append(row + torch.cat(added, 1)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("widths", [(64,), (48, 16, 16), (96, 96)])
@pytest.mark.parametrize("slots", [[1] * 6, [-1] * 6, [0, -1, 2, 0, 2, -1], [2, 1, 0, 0, 1, 2]])
def test_fused_product_is_that_of_its_parts(widths: tuple[int, ...], slots: list[int]) -> None:
    """Zeros off the diagonal add nothing; rows of the base stay as they are."""
    layer = make_layer(widths)
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    y = torch.ones(6, sum(widths), dtype=torch.bfloat16)
    expected = add_by_part(y, x, layer, slots)
    fuse(layer)
    add_products(
        y, x, find_rows(torch.tensor(slots)), a=layer.lora_a_stacked, b=layer.lora_b_stacked
    )
    torch.testing.assert_close(expected, y)


def test_fusing_keeps_what_a_layer_holds() -> None:
    """The views have the shapes and values of the tensors that they replace."""
    layer = make_layer((48, 16))
    before = [tensor.clone() for tensor in (*layer.lora_a_stacked, *layer.lora_b_stacked)]
    fuse(layer)
    after = [*layer.lora_a_stacked, *layer.lora_b_stacked]
    assert [tensor.shape for tensor in before] == [tensor.shape for tensor in after]
    assert [True] * 4 == [torch.equal(*pair) for pair in zip(before, after, strict=True)]


def test_fusing_twice_changes_nothing() -> None:
    """A layer that is fused keeps its tensors."""
    layer = make_layer((48, 16))
    fuse(layer)
    held = layer.lora_a_stacked
    fuse(layer)
    assert isinstance(held, Stack)
    assert held is layer.lora_a_stacked


def test_what_is_written_into_a_view_is_multiplied() -> None:
    """Adapters are written and cleared by vLLM part by part, slot by slot, also after a use."""
    layer = make_layer((4, 4))
    fuse(layer)
    for stack in (layer.lora_a_stacked, layer.lora_b_stacked):
        stack.multiply(torch.ones(1, stack.whole.shape[2], dtype=torch.bfloat16), 1)
        stack.forget(1)
        for view in stack:
            view[1] = 0
    layer.lora_a_stacked[1][1, 0, 0, 0] = 1.0
    layer.lora_b_stacked[1][1, 0, 2, 0] = 3.0
    y = torch.zeros(1, 8, dtype=torch.bfloat16)
    x = torch.full((1, 32), 2.0, dtype=torch.bfloat16)
    add_products(y, x, find_rows(torch.tensor([1])), a=layer.lora_a_stacked, b=layer.lora_b_stacked)
    assert [[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 6.0, 0.0]] == y.tolist()


def test_rows_are_found_by_slot() -> None:
    """The base has no rows; where one slot has all, none are listed."""
    assert [(2, None)] == find_rows(torch.tensor([2, 2]))
    assert [] == find_rows(torch.tensor([-1, -1]))
    found = find_rows(torch.tensor([1, -1, 0, 1]))
    assert [(0, [2]), (1, [0, 3])] == [
        (slot, rows.tolist()) for slot, rows in found if rows is not None
    ]

"""The Triton kernel, run by Triton's interpreter: it opens what torch opens, bit for bit."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from itertools import product

import pytest
import torch

from apart import run_apart
from int4_weights import draw
from trustee.trainer.marlin import join_parts, open_in_torch, pack

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

ARCHITECTURES = (80, 86, 89, 90, 120)
"""Of A100, of the cards 30xx, 40xx, H100 and 50xx."""


def interpret() -> None:
    """Open whole weights and parts of fused ones in both ways."""
    from trustee.trainer.marlin_kernel import open_packed

    pairs = []
    for (outputs, inputs), group in product([(64, 128), (192, 256)], [32, 64, 128]):
        one = pack(*draw(outputs, inputs, group=group, seed=1))
        other = pack(*draw(64, inputs, group=group, seed=2))
        whole = join_parts([one, other])
        pairs += [
            (open_packed(packed.words, packed.scales, packed.zeros), open_in_torch(packed))
            for packed in (one, whole, *whole.split([outputs, 64]))
        ]
    same = [torch.equal(*(one.view(torch.int16) for one in pair)) for pair in pairs]
    assert all(same), same
    sys.stdout.write(str(len(same)))


def compile_for_cards() -> None:
    """Compile the kernel for each architecture, which needs no card."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from trustee.trainer import marlin_kernel

    numbers = dict.fromkeys(("inputs", "word_row", "scale_row", "zero_row"), "i32")
    sizes = {"GROUP": 64, "OUTPUTS": marlin_kernel.OUTPUTS, "INPUTS": marlin_kernel.INPUTS}
    source = ASTSource(
        fn=marlin_kernel._open,
        signature={"words": "*i32", "scales": "*bf16", "zeros": "*i32", "opened": "*i16"}
        | numbers
        | dict.fromkeys(sizes, "constexpr"),
        constexprs=sizes,
        attrs={(index,): [["tt.divisibility", 16]] for index in range(8)},
    )
    for architecture in ARCHITECTURES:
        compiled = compile(source, target=GPUTarget("cuda", architecture, 32))
        # Neighbours of a row leave sixteen bytes at a time.
        assert "st.global.v4.b32" in compiled.asm["ptx"]
        sys.stdout.write(f"{architecture} ")


def test_the_kernel_opens_the_same_bits() -> None:
    """Of each group size, of a fused layer's parts, and of padding."""
    assert run_apart(__file__, "interpret", TRITON_INTERPRET="1") == "24"


def test_the_kernel_compiles_for_every_card() -> None:
    """With stores of full width; that it runs there is not shown."""
    assert run_apart(__file__, "compile_for_cards").split() == [
        str(number) for number in ARCHITECTURES
    ]

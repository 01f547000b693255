"""The int4 product: right, also under graph capture, and how fast it is by the number of rows.

The one idea: Marlin multiplies from codes that this program has packed itself, so its product
is held against the weight that the trainer opens from the same bytes. Times stand beside those of
NF4 and of a bf16 weight of the same shape, over so many copies that no cache holds them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio.to_thread

from gpu.models import FULL
from gpu.nf4 import CLOSE, SAME, apart_in_graph, count_copies, relative_error, time_calls, time_ways
from gpu.nf4 import copies as nf4_copies
from gpu.report import Figures, Setting, report, round_all
from trustee.planning.shapes import find_shape

ROWS = (1, 2, 4, 8, 16, 32, 48, 64)


async def check_int4_gemm(setting: Setting) -> None:
    """Measure the product for each linear layer of the full-size model."""
    await report(setting, "int4_gemm", partial(anyio.to_thread.run_sync, time_all, setting.device))


def make_product(weight: Any) -> Callable[[Any], Any]:
    """Return what multiplies rows with a packed weight: Marlin on a card, torch on a CPU."""
    import torch

    if weight.words.device.type == "cpu":
        opened = weight.open()
        return lambda x: torch.nn.functional.linear(x, opened)
    from vllm.model_executor.layers.quantization.utils.marlin_utils import apply_gptq_marlin_linear
    from vllm.scalar_type import scalar_types

    outputs, inputs = weight.shape
    return lambda x: apply_gptq_marlin_linear(
        input=x,
        weight=weight.words,
        weight_scale=weight.scales,
        weight_zp=weight.zeros,
        workspace=None,
        wtype=scalar_types.uint4,
        output_size_per_partition=outputs,
        input_size_per_partition=inputs,
    )


def check_op(device: str) -> Figures:
    """Hold the opened weight against its codes, and the product against the opened weight."""
    import torch

    from trustee.trainer.marlin import quantise, unpack

    torch.manual_seed(0)
    weight = quantise(torch.randn(1024, 512, device=device).bfloat16())
    opened = weight.open()
    codes, scales, zeros = unpack(weight)
    wide = [one.float().repeat_interleave(weight.group, dim=1) for one in (scales, zeros)]
    by_hand = ((codes.float() - wide[1]) * wide[0]).bfloat16()
    multiply = make_product(weight)
    errors, apart = {}, {}
    with torch.inference_mode():
        for rows in (1, 8, 64, 600):
            x = torch.randn(rows, 512, device=device).bfloat16()
            errors[str(rows)] = relative_error(multiply(x), x.float() @ opened.float().T)
            if device == "cuda":
                apart[str(rows)] = apart_in_graph(multiply, x)
    wrong = int((opened != by_hand).sum())
    problems = [f"{wrong} weights are opened to another number"] if wrong else []
    problems += [f"{rows} rows are off by {e:.4f}" for rows, e in errors.items() if not e <= CLOSE]
    problems += [f"{rows} rows in a graph: {e:.4f}" for rows, e in apart.items() if not e <= SAME]
    figures = {"relative_error": errors, "apart_in_graph": apart}
    return {**round_all(figures, 6), "wrong_weights": wrong, "problems": problems}


def time_all(device: str) -> Figures:
    """Time each shape and number of rows; on a CPU one small shape, to try the code."""
    linears = {(256, 768)} if device == "cpu" else set(find_shape(FULL).linears.values())
    rows = (1, 8) if device == "cpu" else ROWS
    figures: Figures = {}
    for outputs, inputs in sorted(linears):
        nf4 = nf4_copies(outputs, inputs, device=device)
        int4 = copies(outputs, inputs, device=device)
        figures[f"{outputs}x{inputs}"] = {
            str(m): time_int4(int4, m, inputs, device=device) | _pick(nf4, m, inputs, device=device)
            for m in rows
        }
    return {"micros": round_all(figures, 2), "problems": []}


def _pick(nf4: list[tuple[Any, Any]], rows: int, inputs: int, *, device: str) -> dict[str, float]:
    ways = time_ways(nf4, rows, inputs, device=device)
    return {"nf4": ways["chosen"], "bf16": ways["bf16"]}


def copies(outputs: int, inputs: int, *, device: str) -> list[Any]:
    """Quantise a random weight and repeat its bytes."""
    import torch

    from trustee.trainer.marlin import Int4Weight, quantise

    one = quantise(torch.randn(outputs, inputs, device=device).bfloat16())
    count = count_copies(one.words.nbytes, device=device)
    return [Int4Weight(one.words.clone(), one.scales, one.zeros) for _ in range(count)]


def time_int4(weights: list[Any], rows: int, inputs: int, *, device: str) -> dict[str, float]:
    """Give microseconds of the product, and of opening a weight as the trainer does."""
    import torch

    x = torch.randn(rows, inputs, device=device).bfloat16()
    products = [(make_product(weight), weight) for weight in weights]
    with torch.inference_mode():
        return {
            "int4": time_calls(lambda multiply, _: multiply(x), products, device),
            "opening": time_calls(lambda _, weight: weight.open(), products, device),
        }

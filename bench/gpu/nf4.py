"""The NF4 product: right under graph capture, and how fast it is by the number of rows.

The one idea: bitsandbytes multiplies few rows straight from the packed bytes, and for many opens
the weight first. Which is quicker depends on shape and card; its own choice is measured against
both, over so many copies of a weight that no cache holds them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio.to_thread

from gpu.models import FULL
from gpu.report import Figures, Setting, report, round_all
from trustee.planning.shapes import find_shape

ROWS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256)
COPIED_BYTES = 256 << 20
"""Of all copies of a weight: several times what a card caches."""
CLOSE = 0.02
"""Relative error that the order of sums may make in bf16."""
SAME = 0.003
"""The same of one kernel against itself."""


async def check_gemm(setting: Setting) -> None:
    """Measure the product for each linear layer of the full-size model."""
    await report(setting, "nf4_gemm", partial(anyio.to_thread.run_sync, time_all, setting.device))


def quantise(weight: Any) -> tuple[Any, Any]:
    """Quantise as the engine does."""
    import bitsandbytes.functional as bnb

    packed, state = bnb.quantize_4bit(
        weight, quant_type="nf4", compress_statistics=True, blocksize=64
    )
    return packed, state


def check_op(device: str) -> Figures:
    """Hold the engine's operation against an opened weight, and against itself in a graph."""
    import bitsandbytes.functional as bnb
    import torch

    import trustee.trainer.vllm_layers  # noqa: F401, it registers the operation

    torch.manual_seed(0)
    shards = [quantise(torch.randn(n, 512, device=device).bfloat16()) for n in (512, 256, 256)]
    weight: Any = torch.nn.Parameter(
        torch.cat([packed.view(-1, 1) for packed, _ in shards]), requires_grad=False
    )
    ends = [0]
    for packed, _ in shards:
        ends.append(ends[-1] + packed.numel())
    weight.nf4_shards = [
        (weight.data[a:b], state) for a, b, (_, state) in zip(ends, ends[1:], shards, strict=False)
    ]
    opened = torch.cat([bnb.dequantize_4bit(packed, state) for packed, state in shards]).float()

    def multiply(x: Any) -> Any:
        out = torch.empty(*x.shape[:-1], 1024, dtype=x.dtype, device=device)
        torch.ops.vllm.trustee_nf4(x, weight, out)
        return out

    problems, errors, apart = [], {}, {}
    with torch.inference_mode():
        for rows in (1, 8, 64, 600):
            x = torch.randn(rows, 512, device=device).bfloat16()
            wanted = x.float() @ opened.T
            errors[str(rows)] = relative_error(multiply(x), wanted)
            if device == "cuda":
                apart[str(rows)] = apart_in_graph(multiply, x)
    problems += [f"{rows} rows are off by {e:.4f}" for rows, e in errors.items() if not e <= CLOSE]
    problems += [f"{rows} rows in a graph: {e:.4f}" for rows, e in apart.items() if not e <= SAME]
    figures = {"relative_error": errors, "apart_in_graph": apart}
    return {**round_all(figures, 6), "problems": problems}


def apart_in_graph(function: Callable[[Any], Any], x: Any) -> float:
    """Capture a function, replay it on another input, and compare with a plain call."""
    import torch

    held = torch.zeros_like(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function(held)
    torch.cuda.current_stream().wait_stream(side)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function(held)
    held.copy_(x)
    graph.replay()
    torch.cuda.synchronize()
    return relative_error(out, function(x).float())


def relative_error(found: Any, wanted: Any) -> float:
    """Give the norm of a difference over that of what was wanted."""
    return float((found.float() - wanted).norm() / wanted.norm())


def time_all(device: str) -> Figures:
    """Time each shape and number of rows; on a CPU one small shape, to try the code."""
    linears = {(256, 768)} if device == "cpu" else set(find_shape(FULL).linears.values())
    rows = (1, 8) if device == "cpu" else ROWS
    figures: Figures = {}
    for outputs, inputs in sorted(linears):
        weights = copies(outputs, inputs, device=device)
        by_rows = {str(m): time_ways(weights, m, inputs, device=device) for m in rows}
        figures[f"{outputs}x{inputs}"] = {"micros": by_rows, **thresholds(by_rows)}
    return {"shapes": round_all(figures, 2), "problems": []}


def copies(outputs: int, inputs: int, *, device: str) -> list[tuple[Any, Any]]:
    """Quantise a random weight and repeat its bytes."""
    import torch

    packed, state = quantise(torch.randn(outputs, inputs, device=device).bfloat16())
    count = count_copies(packed.numel(), device=device)
    return [(packed.clone(), state) for _ in range(count)]


def count_copies(bytes: int, *, device: str) -> int:
    """Give the number of copies of a weight that no card's cache holds."""
    return 2 if device == "cpu" else -(-COPIED_BYTES // bytes)


def time_ways(
    weights: list[tuple[Any, Any]], rows: int, inputs: int, *, device: str
) -> dict[str, float]:
    """Give microseconds of bitsandbytes' own choice, of each way, and of a bf16 weight."""
    import bitsandbytes.functional as bnb
    import torch
    from bitsandbytes import matmul_4bit

    x = torch.randn(rows, inputs, device=device).bfloat16()
    opened = bnb.dequantize_4bit(*weights[0])
    plain = [(opened.clone(), None) for _ in weights[: -(-COPIED_BYTES // opened.nbytes)]]
    found: dict[str, float] = {}

    def choose(packed: Any, state: Any) -> Any:
        return matmul_4bit(x, packed.t(), state)

    def open_first(packed: Any, state: Any) -> Any:
        return torch.nn.functional.linear(x, bnb.dequantize_4bit(packed, state))

    def multiply(weight: Any, _: None) -> Any:
        return torch.nn.functional.linear(x, weight)

    with torch.inference_mode():
        found["chosen"] = time_calls(choose, weights, device)
        found["opened"] = time_calls(open_first, weights, device)
        found["bf16"] = time_calls(multiply, plain, device)
        if device == "cuda":
            found["fused"] = _time_fused(choose, weights, device)
    return found


def _time_fused(choose: Callable[..., Any], weights: list[tuple[Any, Any]], device: str) -> float:
    """Time the fused kernel whatever bitsandbytes would choose."""
    from bitsandbytes.backends.cuda import ops

    usual = ops._gemm_4bit_use_custom_fn
    ops._gemm_4bit_use_custom_fn = lambda *facts: True
    try:
        return time_calls(choose, weights, device)
    finally:
        ops._gemm_4bit_use_custom_fn = usual


def time_calls(
    function: Callable[..., Any], weights: Sequence[tuple[Any, Any]], device: str
) -> float:
    """Time a function over all copies; on a card in a graph, so that starting kernels is free."""
    import torch

    def sweep() -> None:
        for pair in weights:
            function(*pair)

    sweep()
    if device == "cpu":
        started_at = time.perf_counter()
        sweep()
        return 1e6 * (time.perf_counter() - started_at) / len(weights)
    torch.cuda.synchronize()
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sweep()
    graph.replay()
    begin, end = cuda_events()
    begin.record()
    for _ in range(3):
        graph.replay()
    end.record()
    end.synchronize()
    return 1e3 * float(begin.elapsed_time(end)) / (3 * len(weights))


def cuda_events() -> tuple[Any, Any]:
    """Give two marks in time on the card's stream."""
    import torch

    begin: Any = torch.cuda.Event(enable_timing=True)
    end: Any = torch.cuda.Event(enable_timing=True)
    return begin, end


def thresholds(by_rows: dict[str, dict[str, float]]) -> dict[str, int]:
    """Give the most rows for which the fused kernel is the quicker one, and for which it is used.

    What is used is the way whose time is nearer.
    """
    timed = {int(rows): ways for rows, ways in by_rows.items() if "fused" in ways}
    return {
        "fused_wins_to": max((m for m, w in timed.items() if w["fused"] < w["opened"]), default=0),
        "fused_used_to": max(
            (
                m
                for m, w in timed.items()
                if abs(w["chosen"] - w["fused"]) < abs(w["chosen"] - w["opened"])
            ),
            default=0,
        ),
    }


def measure_card() -> dict[str, float]:
    """Measure what a card can do: bytes copied in a second, read and written, and bf16 FLOP/s."""
    import torch

    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a = torch.randn(8192, 8192, device="cuda").bfloat16()
    jobs: dict[str, Callable[[], Any]] = {
        "copy": lambda: target.copy_(source),
        "product": lambda: a @ a,
    }
    seconds = {}
    for name, job in jobs.items():
        for _ in range(3):
            job()
        begin, end = cuda_events()
        begin.record()
        for _ in range(10):
            job()
        end.record()
        end.synchronize()
        seconds[name] = float(begin.elapsed_time(end)) / 10 / 1e3
    return {
        "bytes_per_s": 2 * source.numel() / seconds["copy"],
        "flops": 2 * 8192**3 / seconds["product"],
    }

"""What a training step costs, by sample length: tokens/s, peak bytes, share of the GPU's peak.

    python bench/step.py [--lengths 128 256 512] [--config FILE] [--peak-tflops 165] [--json]

Random samples go through the real engine's `accumulate` and `finish`. On a CPU the peak memory is
that of the engine's process, including weights and KV cache; on a GPU it is torch's.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import structlog

from trustee.algorithm.learner import FinishRequest, MicroRequest
from trustee.algorithm.loss import LossConfig, normaliser_of
from trustee.config import Config, read_config
from trustee.engine.vllm import VllmEngine
from trustee.errors import InputError, OutOfMemory
from trustee.jobs.assemble import prepare_model, trainer_spec
from trustee.planning.shapes import ModelShape, find_shape
from trustee.types import Sample

ATTENTION_BACKWARD = 2.5
"""Cost relative to the forward pass: five products instead of two, because the scores are computed
again."""


def make_samples(
    count: int, *, length: int, trained: float, vocab: int, rng: random.Random
) -> tuple[Sample, ...]:
    """Return samples of one length, whose last part counts as sampled by the policy."""
    start = max(1, round(length * (1 - trained)))
    return tuple(
        Sample(
            ids=tuple(rng.randrange(vocab) for _ in range(length)),
            mask=(False,) * start + (True,) * (length - start),
            logprobs=(0.0,) * length,
            advantage=1.0 if number % 2 else -1.0,
            version=0,
            trajectory_id=f"{number}/0",
        )
        for number in range(count)
    )


def count_operations(shape: ModelShape, *, length: int, trained: float, recompute: bool) -> float:
    """Return a step's floating-point operations per token, without those of the adapter.

    They are a forward pass, possibly another one, and the gradients of inputs; frozen weights have
    no gradients. Causal attention computes half of the square.
    """
    passes = 3 if recompute else 2
    linear = 2 * shape.linear_numel * passes
    attention = 2 * shape.query * length * shape.layers * (passes - 1 + ATTENTION_BACKWARD)
    # The head runs in chunks that are always recomputed, at sampled positions only.
    head = 2 * shape.vocab * shape.hidden * 3 * trained
    return linear + attention + head


def forget_peak(process: int) -> None:
    """Reset the peak of a process's resident memory."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def read_peak(process: int) -> int:
    """Return the peak of a process's resident memory, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


async def time_step(
    engine: VllmEngine, samples: tuple[Sample, ...], *, loss: LossConfig, micros: int
) -> tuple[float, float]:
    """Train on the same samples repeatedly; return the seconds of gradients and of updates."""
    request = MicroRequest(
        samples=samples,
        loss=loss,
        normaliser=normaliser_of([sum(sample.mask) for sample in samples] * micros, loss),
    )
    started_at = time.perf_counter()
    for _ in range(micros):
        await engine.accumulate(request)
    gathered = time.perf_counter()
    await engine.finish(FinishRequest(learning_rate=1e-6, max_norm=1.0))
    return gathered - started_at, time.perf_counter() - gathered


async def measure(
    config: Config, *, lengths: Sequence[int], micros: int, trained: float, peak: float
) -> dict[str, Any]:
    """Time every length, short ones first so that a GPU's peak belongs to the last one."""
    model, _ = prepare_model(config)
    shape = find_shape(str(model))
    spec = trainer_spec(config, model)
    recompute = spec.learn.activation_checkpointing != "off"
    rng = random.Random("bench step")
    found: dict[str, Any] = {}
    async with VllmEngine(config.engine, spec) as engine:
        for length in sorted(lengths):
            rows = max(1, config.learn.micro_tokens // length)
            samples = make_samples(rows, length=length, trained=trained, vocab=shape.vocab, rng=rng)
            try:
                await time_step(engine, samples, loss=config.learn.loss, micros=1)
                if config.engine.device == "cpu":
                    forget_peak(engine._process)
                seconds, finish = await time_step(
                    engine, samples, loss=config.learn.loss, micros=micros
                )
            except OutOfMemory as error:
                found[f"{length}"] = {"does_not_fit": str(error)}
                break
            rate = micros * rows * length / seconds
            operations = rate * count_operations(
                shape, length=length, trained=trained, recompute=recompute
            )
            on_card = await engine.memory()
            found[f"{length}"] = {
                "rows": rows,
                "tokens_per_s": round(rate, 1),
                "micro_s": round(seconds / micros, 4),
                "finish_s": round(finish, 4),
                "peak_bytes": on_card["peak"] or read_peak(engine._process),
                "tflops": round(operations / 1e12, 4),
            }
            if peak:
                found[f"{length}"]["share_of_peak"] = round(operations / 1e12 / peak, 4)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", help="default: powers of 2 up to context")
    parser.add_argument("--micros", type=int, default=3, help="micro-batches of one step")
    parser.add_argument("--trained", type=float, default=0.5, help="share of sampled ids")
    parser.add_argument(
        "--peak-tflops",
        type=float,
        default=0.0,
        help="the GPU's dense bf16 peak: 4090 165, 3090 71",
    )
    parser.add_argument("--config", type=Path, default=Path("configs/tiny.toml"))
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    config = read_config(options.config, options.changes)
    context = config.engine.context
    lengths = options.lengths or [n for n in (1 << k for k in range(7, 24)) if n <= context]
    if max(lengths) > context or min(lengths) < 2:
        raise InputError(f"--lengths: give 2 to {context} (engine.context), got {lengths}")
    found = anyio.run(
        partial(
            measure,
            config,
            lengths=lengths,
            micros=options.micros,
            trained=options.trained,
            peak=options.peak_tflops,
        )
    )
    if options.json:
        facts = {
            "device": config.engine.device,
            "activation_checkpointing": config.learn.activation_checkpointing,
        }
        print(json.dumps({"bench": "step", **facts, "lengths": found}))
        return
    for length, figures in found.items():
        parts = "  ".join(f"{key} {value}" for key, value in figures.items())
        print(f"length {length:>6}  {parts}")


if __name__ == "__main__":
    # Standard output is for the figures alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    main()

"""What the full-size model's engine and trainer take, and what they spend it with."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from functools import partial
from statistics import median

import anyio

from gpu.full_exam import FullSizeExam, train_a_version
from gpu.report import Figures, round_all
from gpu.subject import BASE, TRAINED, describe_gaps, name_gaps
from step import count_operations, make_samples, time_step
from trustee.planning.ledger import kv_token_bytes, list_weights
from trustee.types import Adapter


async def check_decode(exam: FullSizeExam) -> Figures:
    """Measure tokens a second by sequences at once, against the time that reading bytes takes."""
    await train_a_version(exam)
    figures: Figures = {}
    for voice, adapter in {"base": None, "adapter": exam.trained}.items():
        by_count = {str(n): await time_decode(exam, n, adapter) for n in exam.sizes.sequences}
        figures[voice] = by_count
    return {**round_all({"measured": exam.speed, **figures}), "problems": []}


async def time_decode(exam: FullSizeExam, count: int, adapter: Adapter | None) -> dict[str, float]:
    """Decode so many sequences at once."""
    tokens, prompt = exam.sizes.decoded, 32
    for _ in range(2):
        # The first round pays for what this size needs once.
        exam.timings.clear()
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                ids = [10 + number, *exam.prompt(prompt - 1)]
                tasks.start_soon(partial(exam.ask, ids, tokens, adapter=adapter))
    step = median(t.decode_s / (t.completion_tokens - 1) for t in exam.timings)
    found = {"tokens_per_s": count / step, "step_ms": 1e3 * step}
    if exam.speed:
        least = step_bytes(exam, count, prompt + tokens / 2) / exam.speed["bytes_per_s"]
        found |= {"share_of_limit": least / step}
    return found


def step_bytes(exam: FullSizeExam, count: int, length: float) -> float:
    """Give the bytes that one decoding step must read: weights but for the embedding, and KV."""
    shape = exam.shape
    weights = {
        e.name: e.bytes for e in list_weights(shape, weights=exam.config.engine.weight_format)
    }
    read = weights["linear layers"] + weights["quantisation scales"]
    return read + 2 * shape.vocab * shape.hidden + count * length * kv_token_bytes(shape)


async def check_prefill(exam: FullSizeExam) -> Figures:
    """Measure prompt tokens read in a second."""
    await train_a_version(exam)
    figures: Figures = {}
    for voice, adapter in {"base": None, "adapter": exam.trained}.items():
        for length in exam.sizes.prompts:
            rates = []
            for _ in range(3):
                exam.timings.clear()
                await exam.ask(exam.prompt(length), 2, adapter=adapter)
                (timing,) = exam.timings
                rates.append((length - timing.cached_tokens) / timing.prefill_s)
            figures[f"{voice}_{length}"] = {"tokens_per_s": max(rates)}
    return {**round_all(figures), "problems": []}


async def check_publish(exam: FullSizeExam) -> Figures:
    """Measure publishing."""
    seconds = []
    for version in range(50, 54):
        adapter = exam.subject.adapter(version)
        started_at = time.monotonic()
        await exam.engine.publish(adapter)
        seconds.append(time.monotonic() - started_at)
        await exam.engine.retire(adapter)
        shutil.rmtree(adapter.path, ignore_errors=True)
    return {**round_all({"first_s": seconds[0], "least_s": min(seconds[1:])}), "problems": []}


async def check_random_gap(exam: FullSizeExam) -> Figures:
    """Hold the engine's logprobs against the trainer's, one request alone and many at once.

    Near-uniform logits make every gap small, so a pass shows that both multiply the same weights.
    It says nothing about the mismatch of Qwen3-8B itself, and must not be written down as that.
    """
    await train_a_version(exam)
    gaps = {
        str(version): await exam.subject.gaps_sampled(version, tokens=exam.sizes.decoded)
        for version in (BASE, TRAINED)
    }
    return {
        "weights": "random" if exam.speed else "the small model's",
        "mean_gap": describe_gaps(gaps),
        "problems": name_gaps(gaps),
    }


async def check_profile(exam: FullSizeExam) -> Figures:
    """Write down what decoding and training spend their time with."""
    await train_a_version(exam)
    figures: Figures = {}
    for voice, adapter in {"base": None, "adapter": exam.trained}.items():
        for count in exam.sizes.profiled:
            await exam.engine.call("watched_start")
            await time_decode(exam, count, adapter)
            figures[f"decode_{count}_{voice}"] = await exam.engine.call("watched_stop")
    for length in exam.sizes.lengths:
        await exam.engine.call("watched_start")
        await time_lengths(exam, (length,))
        figures[f"train_{length}"] = await exam.engine.call("watched_stop")
    empty = [name for name, found in figures.items() if not found["top"]]
    return {**round_all(figures), "problems": [f"{name}: nothing was seen" for name in empty]}


async def check_training(exam: FullSizeExam) -> Figures:
    """Measure training by length."""
    return {
        "lengths": round_all(await time_lengths(exam, exam.sizes.lengths)),
        "problems": [],
    }


async def time_lengths(exam: FullSizeExam, lengths: Sequence[int]) -> dict[str, dict[str, float]]:
    """Time a micro-batch of one sample of each length, short ones first, for peaks only grow."""
    rng = random.Random("lengths")
    found: dict[str, dict[str, float]] = {}
    recompute = exam.config.learn.activation_checkpointing != "off"
    most = exam.config.rollout.limits.turns * exam.config.rollout.limits.tokens
    for length in sorted(lengths):
        share = min(0.95, most / length)
        samples = make_samples(1, length=length, trained=share, vocab=exam.shape.vocab, rng=rng)
        loss = exam.config.learn.loss
        await time_step(exam.engine, samples, loss=loss, micros=1)
        seconds, finish = await time_step(exam.engine, samples, loss=loss, micros=2)
        flops = (2 * length / seconds) * count_operations(
            exam.shape, length=length, trained=share, recompute=recompute
        )
        found[str(length)] = {
            "micro_s": seconds / 2,
            "tokens_per_s": 2 * length / seconds,
            "finish_s": finish,
            "tflops": flops / 1e12,
            **{f"torch_{name}": size for name, size in (await exam.held()).items()},
        }
        if exam.speed:
            found[str(length)]["share_of_product"] = flops / exam.speed["flops"]
    return found

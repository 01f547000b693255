"""Qwen3-8B with random weights as on a card of 24 GB: memory against the ledger, and every speed.

The one idea: starting costs minutes, so one engine serves all of it. A second start, from the cache
of the quantised base, takes the settings that the plan proposes for twice the context. Without a
card the small model goes the same way, and the ledger is held against counted parameters.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from gpu.models import FULL, ROOT, make_full, make_small, read_full
from gpu.nf4 import measure_card
from gpu.report import Figures, Setting, report, round_all
from gpu.subject import BASE, FRESH, TRAINED, Subject, name_gaps
from step import count_operations, make_samples, time_step
from trustee.config import Config, apply_changes, read_config
from trustee.engine import vllm_env
from trustee.engine.protocol import Sampling
from trustee.engine.timing import RequestTiming
from trustee.engine.vllm import VllmEngine
from trustee.engine.weights import WeightFormat
from trustee.jobs.assemble import trainer_spec
from trustee.planning.cards import choose_card, read_card
from trustee.planning.ledger import (
    Ledger,
    base_bytes,
    kv_token_bytes,
    list_weights,
    make_ledger,
)
from trustee.planning.plan import find_changes, read_budget
from trustee.planning.shapes import ModelShape, find_shape
from trustee.types import GIB, Adapter

CARD = "RTX 3090"
"""Stands for 24 GB."""
TOLERANCE = 0.05
"""Share by which the measured bytes may miss the planned ones."""
NOT_TORCH = ("CUDA context", "CUDA graphs")
"""Entries of a ledger that torch does not count as allocated."""
LATER = ("adapter gradients", "optimiser states")
"""Entries that the first step makes."""
FIRST = ("load_8b", "decode_8b", "prefill_8b", "publish_8b", "mismatch_8b", "train_8b")
SECOND = "reload_8b"


@dataclass(frozen=True)
class Sizes:
    """What is measured, on a card or without one."""

    sequences: tuple[int, ...]
    decoded: int
    """Tokens of each answer."""
    prompts: tuple[int, ...]
    lengths: tuple[int, ...]
    """Of training samples."""
    longest: int
    """Context of the second start."""


ON_CARD = Sizes(
    sequences=(1, 8, 16, 32, 64),
    decoded=96,
    prompts=(2048, 8192),
    lengths=(4096, 8192, 16384),
    longest=32768,
)
ON_CPU = Sizes(sequences=(1, 4), decoded=8, prompts=(128,), lengths=(128, 256), longest=1024)


@dataclass
class FullSizeExam:
    """An engine of full size, with what its checks need."""

    config: Config
    sizes: Sizes
    shape: ModelShape
    engine: VllmEngine
    subject: Subject
    folder: Path
    speed: dict[str, float]
    """Of the card, measured; empty without one."""
    started_s: float
    idle: int
    """Bytes of the card that were taken before the start."""
    timings: list[RequestTiming]
    count: int = 0
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> Adapter:
        """The version whose voice is measured."""
        return self.subject.adapter(TRAINED)

    async def ask(self, ids: Sequence[int], tokens: int, *, adapter: Adapter | None) -> None:
        """Complete a prompt with exactly so many tokens."""
        self.count += 1
        await self.engine.generate(
            ids,
            Sampling(max_tokens=tokens, temperature=1.0, seed=self.count),
            adapter=adapter,
            request_id=f"full-{self.count}",
        )

    def prompt(self, length: int) -> list[int]:
        """Make a prompt that no cache knows."""
        rng = random.Random(f"prompt {self.count} {length}")
        return [rng.randrange(10, min(self.shape.vocab, 150_000) - 10) for _ in range(length)]


async def check_full(setting: Setting) -> None:
    """Make the checks of the first start, then of the second."""
    on_card = setting.device == "cuda"
    model = setting.scratch / ("full" if on_card else "small")
    await anyio.to_thread.run_sync(make_full if on_card else make_small, model)
    os.environ.setdefault("TRUSTEE_CACHE", str(setting.scratch / "cache"))
    # What vLLM says of loading and of graphs is worth having in the log.
    vllm_env.ALWAYS["VLLM_LOGGING_LEVEL"] = "INFO"
    speed = await anyio.to_thread.run_sync(measure_in_child) if on_card else {}
    if setting.wants(*FIRST):
        if setting.wants("load_8b"):
            shutil.rmtree(os.environ["TRUSTEE_CACHE"], ignore_errors=True)
        await check_first(setting, model, speed)
    if setting.wants(SECOND):
        await report(setting, SECOND, partial(check_second, setting, model, speed))


def measure_in_child() -> dict[str, float]:
    """Measure the card in a process that leaves it again."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure_card).result()


async def check_first(setting: Setting, model: Path, speed: dict[str, float]) -> None:
    """Make all checks of one engine; where it does not start, the first of them says why."""
    config = full_config(setting, model)
    checks = {
        "load_8b": check_load,
        "decode_8b": check_decode,
        "prefill_8b": check_prefill,
        "publish_8b": check_publish,
        "mismatch_8b": check_mismatch,
        "train_8b": check_training,
    }
    started_at = time.monotonic()
    try:
        async with start(setting, config, model, speed) as exam:
            for name, check in checks.items():
                await report(setting, name, partial(check, exam))
    except Exception as error:  # noqa: BLE001, it is told as the check's result
        failure = f"the engine failed after {time.monotonic() - started_at:.0f} s: {error!r}"[:1500]

        async def emit() -> Figures:
            return {"problems": [failure]}

        await report(setting, next(name for name in FIRST if setting.wants(name)), emit)


async def check_second(setting: Setting, model: Path, speed: dict[str, float]) -> Figures:
    """Start once more, as planned for a longer context, and train at that length."""
    config = longer_config(full_config(setting, model), sizes_of(setting), find_shape(str(model)))
    cached = count_cache()
    async with start(setting, config, model, speed) as exam:
        held = await held_bytes(exam)
        trained = await time_lengths(exam, (exam.sizes.longest,))
        after = await held_bytes(exam)
    figures = {
        "load_s": exam.started_s,
        "cached_bytes": cached,
        "settings": describe(config),
        "at_start": held,
        "lengths": trained,
        "after": after,
    }
    problems = hold_against_plan(make_ledger(exam.shape, read_budget(config)), held, after)
    if setting.device == "cuda" and not cached:
        problems.append("the first start left no cache of the quantised base")
    return {**round_all(figures), "problems": problems}


def sizes_of(setting: Setting) -> Sizes:
    """Give what is measured."""
    return ON_CARD if setting.device == "cuda" else ON_CPU


def full_config(setting: Setting, model: Path) -> Config:
    """Give the shipped config, over the random model and with the memory of a card of 24 GB."""
    if setting.device == "cuda":
        name = "qwen3-8b.toml"
        changes = ["engine.max_sequences=64", f"engine.memory_gib={choose_card(CARD).usable_gib}"]
    else:
        name = "tiny.toml"
        changes = ["engine.max_sequences=8", "engine.kv_bytes=67108864", "engine.weights=nf4"]
    if setting.eager:
        changes.append("engine.eager=true")
    return read_config(ROOT / "configs" / name, [f"model.path={model}", *changes, *setting.changes])


def longer_config(config: Config, sizes: Sizes, shape: ModelShape) -> Config:
    """Give what the plan proposes for a longer context."""
    longer = apply_changes(
        config, [f"engine.context={sizes.longest}", f"learn.micro_tokens={sizes.longest}"]
    )
    if config.engine.device == "cpu" or make_ledger(shape, read_budget(longer)).peak <= usable():
        return longer
    return apply_changes(longer, find_changes(longer, shape, choose_card(CARD)))


def usable() -> int:
    """Give the bytes that a run has of the card."""
    return int(choose_card(CARD).usable_gib * GIB)


def describe(config: Config) -> dict[str, Any]:
    """Give the settings that decide memory."""
    described: dict[str, Any] = msgspec.to_builtins(read_budget(config))
    return described


@asynccontextmanager
async def start(
    setting: Setting, config: Config, model: Path, speed: dict[str, float]
) -> AsyncIterator[FullSizeExam]:
    """Start the engine of a config."""
    timings: list[RequestTiming] = []
    folder = setting.scratch / "full-adapters"
    folder.mkdir(parents=True, exist_ok=True)
    idle, started_at = taken_of_card(), time.monotonic()
    async with VllmEngine(
        config.engine, trainer_spec(config, model), observer=timings.append
    ) as engine:
        started = time.monotonic() - started_at
        # Random weights end an answer at random; speeds need answers of one length.
        usual = engine._params
        exam = FullSizeExam(
            config=config,
            sizes=sizes_of(setting),
            shape=find_shape(str(model)),
            engine=engine,
            subject=Subject(engine, model, folder),
            folder=folder,
            speed=speed,
            started_s=started,
            idle=idle,
            timings=timings,
        )
        engine._params = partial(usual, ignore_eos=True)
        yield exam


async def check_load(exam: FullSizeExam) -> Figures:
    """Hold what the card holds against the ledger: after the start, and after the longest pass."""
    ledger = make_ledger(exam.shape, read_budget(exam.config))
    held = await held_bytes(exam)
    context = exam.config.engine.context
    await exam.ask(exam.prompt(context - 32), 8, adapter=None)
    await time_lengths(exam, (context,))
    after = await held_bytes(exam)
    figures = {
        "load_s": exam.started_s,
        "cached_bytes": count_cache(),
        "settings": describe(exam.config),
        "at_start": held,
        "after": after,
        "planned": {"peak": ledger.peak, "usable": usable(), **ledger.sizes()},
    }
    if exam.speed:
        problems = hold_against_plan(ledger, held, after)
    else:
        figures["counted"], problems = count_on_meta()
    return {**round_all(figures), "problems": problems}


async def held_bytes(exam: FullSizeExam) -> dict[str, int]:
    """Give what torch holds, and what the driver says is taken of the card."""
    held = await exam.engine.memory()
    return held | ({"card": taken_of_card() - exam.idle} if exam.speed else {})


def taken_of_card() -> int:
    """Give the bytes of the card that the driver calls taken; 0 without one."""
    card = read_card(0)
    return 0 if card is None else card.total - card.free


def count_cache() -> int:
    """Count the bytes of the cache of quantised bases."""
    root = Path(os.environ["TRUSTEE_CACHE"])
    return sum(path.stat().st_size for path in root.rglob("*.safetensors"))


def hold_against_plan(ledger: Ledger, held: dict[str, int], after: dict[str, int]) -> list[str]:
    """Say where measured bytes miss the planned ones; nothing without a card."""
    if not held["peak"]:
        return []
    always = [entry for entry in ledger.entries if entry.when == "always"]
    in_torch = sum(entry.bytes for entry in always if entry.name not in NOT_TORCH)
    later = sum(entry.bytes for entry in always if entry.name in LATER)
    pairs = {
        "held after the start": (held["allocated"], in_torch - later),
        "torch's peak": (after["peak"], in_torch + ledger.transient),
    }
    problems = [
        f"{name}: {found / GIB:.2f} GiB measured, {planned / GIB:.2f} planned"
        for name, (found, planned) in pairs.items()
        if abs(found / planned - 1) > TOLERANCE
    ]
    taken = after.get("card", 0)
    if taken > (1 + TOLERANCE) * ledger.peak:
        problems.append(f"{taken / GIB:.2f} GiB of the card taken, {ledger.peak / GIB:.2f} planned")
    return problems


def count_on_meta() -> tuple[dict[WeightFormat, int], list[str]]:
    """Count the parameters of the full-size model without memory, and hold the ledger to them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = find_shape(FULL)
    config = AutoConfig.for_model(**read_full())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    linears = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    whole = sum(parameter.nbytes for parameter in model.parameters())
    in_bf16 = sum(weight.nbytes for weight in linears)
    blocks = [weight.numel() // 64 for weight in linears]
    scales = sum(n + 4 * math.ceil(n / 256) + 4 + 4 * (16 + 256) for n in blocks)
    counted: dict[WeightFormat, int] = {
        "bf16": whole,
        "nf4": whole - in_bf16 + sum(weight.numel() // 2 for weight in linears) + scales,
    }
    problems = [
        f"{weights}: {size} bytes counted, {base_bytes(shape, weights=weights)} in the ledger"
        for weights, size in counted.items()
        if size != base_bytes(shape, weights=weights)
    ]
    return counted, problems


async def train_a_version(exam: FullSizeExam) -> None:
    """Publish a fresh version and one after a few steps, once."""
    if exam.state.get("trained"):
        return
    await exam.engine.publish(exam.subject.adapter(FRESH))
    await exam.subject.train(3, rate=2e-4)
    await exam.engine.publish(exam.trained)
    exam.state["trained"] = True


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


async def check_mismatch(exam: FullSizeExam) -> Figures:
    """Hold the engine's logprobs against the trainer's."""
    await train_a_version(exam)
    gaps = {
        str(version): await exam.subject.gap_sampled(version, tokens=exam.sizes.decoded)
        for version in (BASE, TRAINED)
    }
    return {**round_all({"mean_gap": gaps}), "problems": name_gaps(gaps)}


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
            **{f"torch_{name}": size for name, size in (await held_bytes(exam)).items()},
        }
        if exam.speed:
            found[str(length)]["share_of_product"] = flops / exam.speed["flops"]
    return found

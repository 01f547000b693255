"""Qwen3-8B with random weights as on a card of 24 GB: its settings, and one engine with all of it.

Without a card the small model goes the same way, and the ledger is held against counted parameters.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec

from gpu.full_memory import held_bytes, taken_of_card
from gpu.models import FULL, ROOT, make_full, make_small
from gpu.nf4 import measure_card
from gpu.report import Setting
from gpu.subject import FRESH, TRAINED, Subject
from trustee.config import Config, apply_changes, read_config
from trustee.engine import vllm_env
from trustee.engine.protocol import Sampling
from trustee.engine.timing import RequestTiming
from trustee.engine.vllm import VllmEngine
from trustee.jobs.assemble import trainer_spec
from trustee.planning.cards import choose_card
from trustee.planning.ledger import make_ledger
from trustee.planning.plan import find_changes, read_budget
from trustee.planning.shapes import ModelShape, find_shape
from trustee.types import GIB, Adapter

CARD = "RTX 3090"
"""Stands for 24 GB."""


@dataclass(frozen=True)
class Sizes:
    """What is measured, on a card or without one."""

    sequences: tuple[int, ...]
    decoded: int
    """Tokens of each answer."""
    profiled: tuple[int, ...]
    """Of the sequences, those of which a profile is made."""
    prompts: tuple[int, ...]
    lengths: tuple[int, ...]
    """Of training samples."""
    longest: int
    """Context of the second start."""


ON_CARD = Sizes(
    sequences=(1, 16, 32),
    decoded=96,
    profiled=(16, 32),
    prompts=(4096,),
    lengths=(4096, 16384),
    longest=32768,
)
ON_CPU = Sizes(
    sequences=(1, 4),
    decoded=8,
    profiled=(4,),
    prompts=(128,),
    lengths=(128, 256),
    longest=1024,
)


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

    async def held(self) -> dict[str, int]:
        """Give the bytes that are held now."""
        return await held_bytes(self.engine, idle=self.idle if self.speed else None)

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


async def prepare_model(setting: Setting) -> tuple[Path, dict[str, float]]:
    """Write the model if it is not there, and measure the card."""
    on_card = setting.device == "cuda"
    model = setting.scratch / ("full" if on_card else "small")
    await anyio.to_thread.run_sync(make_full if on_card else make_small, model)
    os.environ.setdefault("TRUSTEE_CACHE", str(setting.scratch / "cache"))
    # What vLLM says of loading and of graphs is worth having in the log.
    vllm_env.ALWAYS["VLLM_LOGGING_LEVEL"] = "INFO"
    return model, await anyio.to_thread.run_sync(measure_in_child) if on_card else {}


def measure_in_child() -> dict[str, float]:
    """Measure the card in a process that leaves it again."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure_card).result()


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
    config = read_config(
        ROOT / "configs" / name, [f"model.path={model}", *changes, *setting.changes]
    )
    if config.engine.kv_bytes != "auto":
        return config
    return apply_changes(config, find_changes(config, find_shape(FULL), choose_card(CARD)))


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


async def train_a_version(exam: FullSizeExam) -> None:
    """Publish a fresh version and one after a few steps, once."""
    if exam.state.get("trained"):
        return
    await exam.engine.publish(exam.subject.adapter(FRESH))
    await exam.subject.train(3, rate=2e-4)
    await exam.engine.publish(exam.trained)
    exam.state["trained"] = True

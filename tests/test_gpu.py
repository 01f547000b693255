"""Checks that need a card: what the CPU engine cannot show; `bench/gpu.py` runs them."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace
from test_vllm import Bench, engine_config, gap, trainer_spec

from trustee.engines.vllm import VllmEngine
from trustee.models import find_model
from trustee.rendering import Renderer

pytestmark = [pytest.mark.gpu, pytest.mark.anyio, pytest.mark.timeout(580)]

MODEL = os.environ.get("TRUSTEE_GPU_MODEL", "tiny")
"""A model folder; the built-in model where none is named."""


def note(figures: dict[str, object]) -> None:
    """Keep figures for the script that prints them."""
    path = os.environ.get("TRUSTEE_FIGURES")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


@pytest.fixture(scope="module", params=["graphs", "eager"])
async def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    """An NF4 engine on the card, with CUDA graphs and without."""
    folder = find_model(MODEL)
    config = replace(
        engine_config("nf4"),
        device="cuda",
        context=2048,
        kv_bytes=1 << 30,
        eager=request.param == "eager",
    )
    async with VllmEngine(config, replace(trainer_spec(), folder=str(folder))) as engine:
        bench = Bench(engine, tmp_path_factory.mktemp(f"adapters-{request.param}"))
        bench.renderer = Renderer.load(folder)
        bench.prompt = bench.render("please set the lamp in hall to level 7")
        bench.hash = await engine.hash_base()
        await engine.publish(bench.adapter(1))
        await bench.train(8)
        await engine.publish(bench.adapter(2))
        note({"check": "start", "mode": request.param, **await engine.memory()})
        yield bench


async def test_engine_and_trainer_agree(bench: Bench) -> None:
    """Mean |engine - trainer| logprob is at most 0.02 on a card, for base and adapter."""
    for version, adapter in ((None, False), (2, True)):
        gaps = []
        for seed in range(8):
            said = await bench.sample(version, temperature=1.0, seed=seed, tokens=64)
            ours = await bench.engine.trainer_logprobs(bench.as_sample(said), adapter=adapter)
            gaps.append(gap(said.logprobs, ours))
        note({"check": "mismatch", "adapter": adapter, "mean": sum(gaps) / len(gaps)})
        assert sum(gaps) / len(gaps) <= 0.02


async def test_a_mixed_batch_equals_solo_runs(bench: Bench) -> None:
    """Base and two versions in one batch say what each says alone."""
    solo = [await bench.sample(version) for version in (None, 1, 2)]
    mixed = {}

    async def ask(index: int, version: int | None) -> None:
        mixed[index] = await bench.sample(version)

    async with anyio.create_task_group() as tasks:
        for index, version in enumerate((None, 1, 2)):
            tasks.start_soon(ask, index, version)
    assert [said.ids for said in solo] == [mixed[index].ids for index in range(3)]


async def test_a_hundred_steps_under_decoding_leave_the_base_alone(bench: Bench) -> None:
    """Optimiser kernels on their own stream race with nothing that the engine reads."""
    async with anyio.create_task_group() as tasks:
        for seed in range(6):
            tasks.start_soon(keep_sampling, bench, seed)
        await bench.train(100, rate=1e-5)
        tasks.cancel_scope.cancel()
    assert bench.hash == await bench.engine.hash_base()
    base, fresh = await bench.sample(None), await bench.sample(1)
    assert base.ids == fresh.ids
    note({"check": "hundred_steps", **await bench.engine.memory()})


async def keep_sampling(bench: Bench, seed: int) -> None:
    """Keep the engine busy until cancelled."""
    while True:
        await bench.sample(2, temperature=1.0, seed=seed, tokens=200)

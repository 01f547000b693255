"""Whether the engine says the same however it computes, and keeps the base while it trains.

With and without CUDA graphs, under both of vLLM's model runners, with adapters mixed in one batch
and alone, and as the trainer says it.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread

from gpu import int4, nf4
from gpu.models import make_small
from gpu.report import Figures, Setting, report, round_all
from gpu.subject import (
    BASE,
    FRESH,
    TRAINED,
    VOICES,
    Heard,
    Subject,
    describe_gaps,
    name_gaps,
    subject,
)
from trustee.checks.agreement import AT_ONCE
from trustee.engine.vllm import VllmConfig

RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
"""vLLM takes its newer model runner unless this says 0."""
STEPS = {"cuda": 100, "cpu": 5}
SAMPLERS = 6


def small_config(setting: Setting, *, weights: Literal["nf4", "bf16"], eager: bool) -> VllmConfig:
    """Give an engine for the small model."""
    on_card = setting.device == "cuda"
    return VllmConfig(
        device=setting.device,
        weights=weights,
        context=2048 if on_card else 512,
        kv_bytes=(1 << 30) if on_card else (64 << 20),
        max_sequences=AT_ONCE,
        versions=4,
        eager=eager,
    )


async def check_parity(setting: Setting) -> None:
    """Check both kinds of weights."""
    for weights in ("nf4", "bf16"):
        name = f"parity_{weights}"
        kind: Literal["nf4", "bf16"] = "nf4" if weights == "nf4" else "bf16"
        await report(setting, name, partial(compare_modes, setting, weights=kind))


async def compare_modes(setting: Setting, *, weights: Literal["nf4", "bf16"]) -> Figures:
    """Compare an engine without graphs with one that has them; without a card there is but one."""
    model = make_small(setting.scratch / "small")
    modes = ("eager", "graphs") if setting.device == "cuda" else ("eager",)
    return await compare_engines(
        {mode: small_config(setting, weights=weights, eager=mode == "eager") for mode in modes},
        model=model,
        folder=setting.scratch / f"parity-{weights}",
    )


async def compare_engines(
    configs: dict[str, VllmConfig],
    *,
    model: Path,
    folder: Path,
    environments: dict[str, dict[str, str]] | None = None,
) -> Figures:
    """Start engines one after the other; each must agree with itself, its trainer and the first.

    Args:
        configs: by name.
        model: folder of the model.
        folder: where the adapter of the first is kept, which the others load.
        environments: variables to start an engine with, by name.
    """
    first: tuple[str, Heard] | None = None
    figures: Figures = {}
    problems: list[str] = []
    for name, config in configs.items():
        os.environ.update((environments or {}).get(name, {}))
        async with subject(config, model, folder / name) as one:
            await prepare(one, folder / "state", known=first is not None)
            heard = await one.listen()
            found = await judge(one, heard)
            sampled = {str(version): await one.gaps_sampled(version) for version in (BASE, TRAINED)}
            found += name_gaps(sampled)
            if first is not None:
                for version in VOICES:
                    differences = await one.compare(
                        version, first[1].solo[version], heard.solo[version]
                    )
                    found += [f"against {first[0]}: {text}" for text in differences]
        equal = None if first is None else count_equal(first[1], heard)
        first = first or (name, heard)
        figures[name] = {
            "mean_gap": describe_gaps(heard.gaps),
            "worst_gap": heard.worst,
            "mean_gap_sampled": describe_gaps(sampled),
            **({} if equal is None else {f"same_as_{first[0]}": equal}),
        }
        problems += [f"{name}: {text}" for text in found]
    return {**round_all(figures), "problems": problems}


async def prepare(one: Subject, state: Path, *, known: bool) -> None:
    """Publish a fresh adapter and a trained one; the first engine trains it for all."""
    await one.engine.publish(one.adapter(FRESH))
    if known:
        await one.engine.load(state)
    else:
        await one.train(8)
        await anyio.Path(state).mkdir(parents=True, exist_ok=True)
        await one.engine.save(state)
    await one.engine.publish(one.adapter(TRAINED))


async def judge(one: Subject, heard: Heard) -> list[str]:
    """Say what is wrong with an engine's own answers."""
    found = name_gaps({str(version): gap for version, gap in heard.gaps.items()})
    for version in VOICES:
        differences = await one.compare(version, heard.solo[version], heard.mixed[version])
        found += [f"in a mixed batch: {text}" for text in differences]
    differences = await one.compare(BASE, heard.solo[BASE], heard.solo[FRESH])
    found += [f"a fresh adapter: {text}" for text in differences]
    logprobs = [[said.logprobs for said in heard.solo[version]] for version in (BASE, TRAINED)]
    if logprobs[0] == logprobs[1]:
        found.append("the trained adapter changed nothing")
    return found


def count_equal(first: Heard, second: Heard) -> str:
    """Count the greedy answers that are the same to the last id."""
    pairs = [
        (a.ids, b.ids)
        for version in VOICES
        for a, b in zip(first.solo[version], second.solo[version], strict=True)
    ]
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)}"


async def check_products(setting: Setting) -> None:
    """Check the products with four-bit weights by themselves."""
    for name, check in (("nf4_op", nf4.check_op), ("int4_op", int4.check_op)):
        await report(setting, name, partial(anyio.to_thread.run_sync, check, setting.device))


async def check_runners(setting: Setting) -> None:
    """Check the NF4 operation under both of vLLM's model runners."""
    await report(setting, "nf4_graph", partial(compare_runners, setting))


async def compare_runners(setting: Setting) -> Figures:
    """Compare engines with CUDA graphs under the newer and the older model runner."""
    names = {"runner_2": "1", "runner_1": "0"}
    config = small_config(setting, weights="nf4", eager=False)
    try:
        return await compare_engines(
            dict.fromkeys(names, config),
            model=make_small(setting.scratch / "small"),
            folder=setting.scratch / "runners",
            environments={name: {RUNNER: value} for name, value in names.items()},
        )
    finally:
        os.environ.pop(RUNNER, None)


async def check_stream_race(setting: Setting) -> None:
    """Check that optimiser steps under decoding leave the base alone."""
    await report(setting, "stream_race", partial(race, setting))


async def race(setting: Setting) -> Figures:
    """Train while the engine decodes; base bytes, base answers and logprobs must hold."""
    model = make_small(setting.scratch / "small")
    config = small_config(setting, weights="nf4", eager=setting.eager)
    steps = STEPS[setting.device]
    async with subject(config, model, setting.scratch / "race") as one:
        before = await one.engine.hash_base()
        await prepare(one, setting.scratch / "race" / "state", known=False)
        alone = [await one.sample(BASE, prompt) for prompt in one.prompts]
        async with anyio.create_task_group() as tasks:
            for seed in range(SAMPLERS):
                tasks.start_soon(keep_sampling, one, seed)
            with anyio.fail_after(200):
                await one.train(steps, rate=1e-4)
            tasks.cancel_scope.cancel()
        newest = TRAINED + 1
        await one.engine.publish(one.adapter(newest))
        again = [await one.sample(BASE, prompt) for prompt in one.prompts]
        problems = [f"the base: {text}" for text in await one.compare(BASE, alone, again)]
        gaps = {str(version): await one.gaps_sampled(version) for version in (BASE, newest)}
        after = await one.engine.hash_base()
        memory = await one.engine.memory()
    if before != after:
        problems.append("the base's bytes have changed")
    problems += name_gaps(gaps)
    figures = {"steps": steps, "mean_gap": describe_gaps(gaps), **memory}
    return {**round_all(figures), "problems": problems}


async def keep_sampling(one: Subject, seed: int) -> None:
    """Keep the engine busy until cancelled."""
    round_number = 0
    while True:
        round_number += 1
        prompt = one.prompts[seed % len(one.prompts)]
        await one.sample(
            TRAINED, prompt, temperature=1.0, seed=1000 * round_number + seed, tokens=200
        )

"""The real engine's counters: they move while it works, and a process that is stopped is found."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from real_engine import engine_config, trainer_spec
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Sampling
from trustee.engine.vllm import VllmEngine
from trustee.engine.watchdog import Watchdog, WatchdogConfig
from trustee.errors import EngineDied

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]

PROMPT = tuple(range(5, 205))
LIMIT = 4.0


@pytest.fixture
async def engine() -> AsyncIterator[VllmEngine]:
    """Start an engine for one test."""
    async with VllmEngine(engine_config("bf16"), trainer_spec()) as started:
        yield started


async def test_a_stopped_engine_is_found_within_the_limit(
    engine: VllmEngine, tmp_path: Path
) -> None:
    """Loading, reading, sampling and training are counted; then the process is stopped."""
    loaded = engine.progress()
    assert loaded.to_load > loaded.loaded > 0.9 * loaded.to_load
    assert loaded.trained > 0
    completion = await engine.generate(
        PROMPT, Sampling(max_tokens=20, seed=1), adapter=None, request_id="policy-1"
    )
    done = engine.progress()
    count = len(completion.ids)
    assert (len(PROMPT), count, count) == (done.read, done.sampled, done.steps)
    assert done.moves > done.steps
    dog = Watchdog(
        engine,
        engine,
        config=WatchdogConfig(request_seconds=LIMIT),
        clock=EngineClock(),
        folder=tmp_path,
    )
    process = engine._process
    os.kill(process, signal.SIGSTOP)
    stopped_at = time.monotonic()
    try:
        async with dog.guard():
            with pytest.raises(EngineDied, match="an engine that did not move in 4 s"):
                await dog.generate(
                    PROMPT, Sampling(max_tokens=20), adapter=None, request_id="policy-2"
                )
        assert LIMIT > time.monotonic() - stopped_at
    finally:
        os.kill(process, signal.SIGCONT)
    await anyio.sleep(0.1)

"""Qwen3-8B with random weights as on a card of 24 GB: memory against the ledger, and every speed.

The one idea: starting costs minutes, so one engine serves all of it. A second start, from the cache
of the quantised base, takes the settings that the plan proposes for twice the context.
"""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from pathlib import Path

from gpu.full_exam import (
    FullSizeExam,
    describe,
    full_config,
    longer_config,
    prepare_model,
    sizes_of,
    start,
    train_a_version,
    usable,
)
from gpu.full_memory import count_cache, count_on_meta, hold_against_plan, hold_apart
from gpu.full_speed import (
    check_decode,
    check_prefill,
    check_profile,
    check_publish,
    check_random_gap,
    check_training,
    time_lengths,
)
from gpu.instruments import instruments
from gpu.report import Figures, Setting, report, round_all
from trustee.planning.ledger import make_ledger
from trustee.planning.plan import read_budget
from trustee.planning.shapes import find_shape

FIRST = (
    "load_8b",
    "decode_8b",
    "publish_8b",
    "random_gap_8b",
    "train_8b",
    "profile_8b",
    "prefill_8b",
)
"""What one start serves, what matters most first."""
SECOND = "reload_8b"


async def check_full(setting: Setting) -> None:
    """Make the checks of the first start."""
    model, speed = await prepare_model(setting)
    if setting.wants("load_8b"):
        shutil.rmtree(os.environ["TRUSTEE_CACHE"], ignore_errors=True)
    await check_first(setting, model, speed)


async def check_reload(setting: Setting) -> None:
    """Make the check of the second start."""
    model, speed = await prepare_model(setting)
    await report(setting, SECOND, partial(check_second, setting, model, speed))


async def check_first(setting: Setting, model: Path, speed: dict[str, float]) -> None:
    """Make all checks of one engine; where it does not start, the first of them says why."""
    config = full_config(setting, model)
    checks = {
        "load_8b": check_load,
        "decode_8b": check_decode,
        "publish_8b": check_publish,
        "random_gap_8b": check_random_gap,
        "train_8b": check_training,
        "profile_8b": check_profile,
        "prefill_8b": check_prefill,
    }
    started_at = time.monotonic()
    try:
        with instruments():
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
        held = await exam.held()
        trained = await time_lengths(exam, (exam.sizes.longest,))
        after = await exam.held()
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


async def check_load(exam: FullSizeExam) -> Figures:
    """Hold what the card holds against the ledger: after the start, and after the longest pass."""
    ledger = make_ledger(exam.shape, read_budget(exam.config))
    held, apart = await exam.held(), {"at_start": await exam.engine.call("watched_bytes")}
    context = exam.config.engine.context
    await exam.ask(exam.prompt(context - 32), 8, adapter=None)
    apart["after_sampling"] = await exam.engine.call("watched_bytes")
    await train_a_version(exam)
    apart["after_first_steps"] = await exam.engine.call("watched_bytes")
    await time_lengths(exam, (context,))
    after = await exam.held()
    figures = {
        "load_s": exam.started_s,
        "cached_bytes": count_cache(),
        "settings": describe(exam.config),
        "at_start": held,
        "after": after,
        "apart": apart,
        "planned": {"peak": ledger.peak, "usable": usable(), **ledger.sizes()},
    }
    if exam.speed:
        problems = hold_against_plan(ledger, held, after)
        problems += hold_apart(ledger, apart["after_first_steps"])
    else:
        figures["counted"], problems = count_on_meta()
    return {**round_all(figures), "problems": problems}

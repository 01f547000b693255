"""Memory that does not suffice: the trainer must give way, and the engine must go on speaking.

The one idea: a limit is set between what the engine alone needs and what the largest micro-batch
would take, both from the ledger. Without a card no allocator fails, so the trainer is told to
refuse what is longer than a number of ids; all that follows is the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from gpu.full_exam import FullSizeExam, full_config, prepare_model, start
from gpu.instruments import ROOM, instruments
from gpu.report import Figures, Setting, report, round_all
from gpu.subject import BASE
from trustee.algorithm.fallback import dry_run_largest
from trustee.config import Config, apply_changes
from trustee.jobs.assemble import make_memory_ladder
from trustee.planning.ledger import Ledger, make_ledger
from trustee.planning.plan import read_budget
from trustee.planning.shapes import find_shape
from trustee.types import GIB, Completion

SHORTAGE = "shortage_8b"


async def check_shortage(setting: Setting) -> None:
    """Start with too little memory."""
    await report(setting, SHORTAGE, partial(run_short, setting))


async def run_short(setting: Setting) -> Figures:
    """Let the ladder descend, and hear the engine before and after."""
    model, _ = await prepare_model(setting)
    config = full_config(setting, model)
    if setting.device == "cuda":
        ledger = make_ledger(find_shape(str(model)), read_budget(config))
        config = apply_changes(config, [f"engine.memory_gib={choose_limit(ledger)}"])
    else:
        # One id less than the largest sample has: the ladder keeps nothing much shorter.
        os.environ[ROOM] = str(config.engine.context - 1)
    try:
        with instruments():
            async with start(setting, config, model, {}) as exam:
                return await descend(exam, config)
    finally:
        os.environ.pop(ROOM, None)


def choose_limit(ledger: Ledger) -> float:
    """Choose GiB in the middle between sampling and the largest pass, without what may be lost.

    Lower and the engine's own step would fail; higher and nothing might.
    """
    least = ledger.total("always") + ledger.total("sampling")
    most = ledger.total("always") + ledger.transient
    return round((least + most) / 2 / GIB, 2)


async def descend(exam: FullSizeExam, config: Config) -> Figures:
    """Try the largest micro-batch until it fits; greedy answers before and after must agree."""
    subject, ladder = exam.subject, make_memory_ladder(config)
    before = [await subject.sample(BASE, prompt) for prompt in subject.prompts]
    length = await dry_run_largest(exam.engine, config.learn.loss, ladder=ladder)
    after = [await subject.sample(BASE, prompt) for prompt in subject.prompts]
    problems = judge_shortage(ladder.changes, before=before, after=after)
    problems += [f"afterwards: {text}" for text in await subject.compare(BASE, before, after)]
    figures = {
        "limit_gib": config.engine.memory_gib,
        "given_up": list(ladder.changes),
        "length": length,
        "bytes": await exam.engine.call("watched_bytes"),
    }
    return {**round_all(figures), "problems": problems}


def judge_shortage(
    changes: Sequence[str], *, before: Sequence[Completion], after: Sequence[Completion]
) -> list[str]:
    """Say what is wrong: nothing was given up, or the engine fell silent."""
    problems = []
    if not changes:
        problems.append("the largest micro-batch fitted, so nothing was tried")
    if any(first.ids and not second.ids for first, second in zip(before, after, strict=True)):
        problems.append("the engine says nothing any more")
    return problems

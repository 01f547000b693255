"""Which four-bit format of the base is the better one on this card: both are started and measured.

NF4 is the default, because int4's kernels have not been seen on a card by this program's authors.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

from trustee.checks.agreement import Gaps
from trustee.config import Config, apply_changes
from trustee.engine.clock import EngineClock
from trustee.engine.model_config import check_config, read_model_config
from trustee.engine.model_files import CONFIG
from trustee.engine.scratch import open_scratch
from trustee.errors import InputError
from trustee.jobs.assemble import open_watched
from trustee.jobs.engine_exam import EngineExam
from trustee.planning.machine import Finding
from trustee.rendering.renderer import Renderer
from trustee.types import Record

FASTER = 1.1
"""Ratio of speeds from which on the faster format is worth another setting."""

FourBits = Literal["nf4", "int4"]


class FormatFigures(Record, frozen=True):
    """What was measured of a format."""

    decoding: float
    """Sampled tokens per second, as many requests at once as a run has."""
    gaps: Gaps
    """Mean differences of engine and trainer."""


async def compare_formats(config: Config, model: Path, renderer: Renderer) -> Finding:
    """Start the engine in each format, one after the other, and say which one to take.

    Raises:
        TrusteeError: if an engine does not start or cannot continue.
    """
    name = "four bits"
    described = read_model_config(model / CONFIG)
    try:
        for weights in ("nf4", "int4"):
            check_config(described, name=config.model.path, weights=weights)
    except InputError as error:
        return Finding(name=name, state="ok", why=f"nothing to compare: {error}")
    nf4 = await measure_format(config, model, renderer, weights="nf4")
    int4 = await measure_format(config, model, renderer, weights="int4")
    return judge_formats(nf4=nf4, int4=int4, limit=config.watch.mismatch, used=_used(config))


def _used(config: Config) -> str:
    return str(getattr(config.engine, "weight_format", ""))


async def measure_format(
    config: Config, model: Path, renderer: Renderer, *, weights: FourBits
) -> FormatFigures:
    """Start the engine in a format and measure it, the second time that it decodes."""
    changed = apply_changes(config, [f"engine.weights={weights}"])
    async with AsyncExitStack() as stack:
        scratch = stack.enter_context(open_scratch())
        engine = await stack.enter_async_context(
            open_watched(changed, model, scratch, clock=EngineClock(), emit=lambda event: None)
        )
        exam = EngineExam(changed, engine, renderer, folder=scratch)
        await exam.sample_several()
        await exam.sample_several()
        return FormatFigures(decoding=exam.decoding, gaps=await exam.gaps(None))


def judge_formats(*, nf4: FormatFigures, int4: FormatFigures, limit: float, used: str) -> Finding:
    """Say which format to take: int4 where it is right and clearly faster.

    Args:
        nf4: figures of NF4.
        int4: figures of int4.
        limit: largest gap that a run allows.
        used: the format of the config at hand.
    """
    right = int4.gaps.judge(limit) != "fail"
    best: FourBits = "int4" if right and int4.decoding >= FASTER * nf4.decoding else "nf4"
    why = (
        f"decoding {nf4.decoding:.0f} tokens/s in nf4, {int4.decoding:.0f} in int4; engine and "
        f"trainer differ in nf4 by {nf4.gaps.describe()}, in int4 by {int4.gaps.describe()}, in "
        f"nats per token; take {best}"
    )
    if best == used:
        return Finding(name="four bits", state="ok", why=why)
    return Finding(name="four bits", state="warn", why=why, fix=f"--set engine.weights={best}")

"""`trustee doctor`: try every part of a run on this machine and report what is wrong.

The checks that need no model come first, then the real engine: a prompt of maximum length, the
largest micro-batch, a training step, a new version, and a comparison of the logprobs of engine
and trainer. Measured figures are shown next to planned ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.engine.scratch import open_scratch
from trustee.errors import InputError, RunError, TrusteeError
from trustee.events import Note
from trustee.jobs.assemble import (
    first_leaf,
    open_watched,
    prepare_model,
    restart_once,
)
from trustee.jobs.compare_formats import compare_formats
from trustee.jobs.engine_exam import EngineExam
from trustee.planning.machine import Finding, is_ready, look_at_machine
from trustee.rendering.renderer import Renderer
from trustee.sandbox.probe import probe_isolation
from trustee.types import Record

EmitFinding = Callable[[Finding], None]


STARTING = (RuntimeError, ValueError, OSError, ImportError)
"""Exceptions that vLLM and its libraries raise when an engine cannot start."""


class Examination(Record, frozen=True):
    """All findings of one examination."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether no finding failed."""
        return all(finding.state != "fail" for finding in self.findings)


async def examine(
    config: Config, *, extra: Sequence[Finding], soak: int, emit: EmitFinding
) -> Examination:
    """Check the machine, then the real engine, followed by `soak` further rounds.

    Args:
        config: the config that a run would be started with.
        extra: findings about GPU and plan.
        soak: number of further rounds of sampling, training and publishing.
        emit: receives each finding as it is made.
    """
    findings: list[Finding] = []

    def find(finding: Finding) -> None:
        findings.append(finding)
        emit(finding)

    device = config.engine.device
    for finding in (*look_at_machine(device=device, folder=Path(config.run.folder)), *extra):
        find(finding)
    if not is_ready(findings, device=device):
        return Examination(findings=tuple(findings))
    try:
        model, renderer = prepare_model(config)
    except InputError as error:
        fix = "name a model with --set model.path=DIR"
        find(Finding(name="model", state="fail", why=str(error), fix=fix))
        return Examination(findings=tuple(findings))
    find(Finding(name="model", state="ok", why=str(model)))
    style = renderer.call_format
    why = f"prefixes stay, marks cannot be forged, a call is read back ({style})"
    find(Finding(name="template", state="ok", why=why))
    find(await try_sandbox(config))
    try:
        await restart_once(
            lambda: try_engine(config, model, renderer, soak=soak, find=find),
            emit=lambda event: find(note_death(event)),
        )
        if device == "cuda":
            find(await compare_formats(config, model, renderer))
    except* TrusteeError as errors:
        fix = (
            "trustee plan says what fits; for a smaller trial add "
            f"--set engine.context={config.engine.context // 2}"
        )
        find(Finding(name="engine", state="fail", why=str(first_leaf(errors)), fix=fix))
    return Examination(findings=tuple(findings))


def note_death(event: Note) -> Finding:
    """Turn the note about an engine's death and restart into a finding."""
    fix = "look at the end of engine.log; a second death fails the examination"
    return Finding(name="engine", state="warn", why=event.text, fix=fix)


async def try_sandbox(config: Config) -> Finding:
    """Attempt forbidden actions in the sandbox; skipped if no world of the config runs code."""
    probe = await probe_isolation(config.sandbox.isolation)
    tried = len(probe.refused) + len(probe.allowed)
    seen = f"; visible: {', '.join(probe.visible)} of files" if probe.visible else ""
    return Finding(
        name="tools with code",
        state="ok" if probe.holds else "warn",
        why=f"{probe.isolation}: {len(probe.refused)} of {tried} forbidden attempts were refused"
        + seen
        if probe.isolation
        else probe.why,
        fix="" if probe.holds else "install sandlock or bubblewrap; see [sandbox] isolation",
    )


async def try_engine(
    config: Config, model: Path, renderer: Renderer, *, soak: int, find: EmitFinding
) -> None:
    """Start the engine and try everything that a run does with it.

    Raises:
        TrusteeError: if the engine does not start or cannot continue.
    """
    async with AsyncExitStack() as stack:
        scratch = stack.enter_context(open_scratch())
        started_at = time.monotonic()
        try:
            engine = await stack.enter_async_context(
                open_watched(config, model, scratch, clock=EngineClock(), emit=lambda event: None)
            )
        except TrusteeError:
            raise
        except STARTING as error:
            raise RunError(f"the engine does not start: {error}") from error
        why = f"engine and trainer are ready after {time.monotonic() - started_at:.0f} s"
        find(Finding(name="start", state="ok", why=why))
        exam = EngineExam(config, engine, renderer, folder=scratch)
        for attempt in exam.attempts():
            find(await attempt())
        for number in range(1, soak + 1):
            find(await exam.soak(number))


def finding_text(finding: Finding) -> str:
    """Return a finding as readable text."""
    text = f"{finding.state:<5} {finding.name:<18} {finding.why}"
    return f"{text}\n{'':<25}-> {finding.fix}" if finding.fix else text


def examination_json(examination: Examination) -> bytes:
    """Return an examination as JSON."""
    written = {"healthy": examination.healthy, "findings": list(examination.findings)}
    return msgspec.json.encode(written)

"""`trustee sft`: a file of demonstrations becomes an adapter, with which `trustee run` goes on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.errors import InputError
from trustee.events import Event
from trustee.jobs.assemble import make_ladder, open_watched, prepare_model
from trustee.jobs.run_metadata import describe_run
from trustee.rendering.renderer import Renderer
from trustee.runs.checkpoint import open_checkpoint
from trustee.runs.store import Store, keep_lines
from trustee.sft.demonstrations import (
    Lessons,
    find_demonstrations,
    make_lessons,
    read_demonstrations,
    show_refused,
)
from trustee.sft.train import ImitateConfig, Imitation, continue_imitation, hold_out, imitate
from trustee.types import Record

RECORD = "imitation.json"


class ImitationRecord(Record, frozen=True):
    """What a run of imitation was started with; the rest is in `run.json`."""

    imitation: ImitateConfig
    file: str
    sha256: str
    """Of the file."""


class Imitated(Record, frozen=True):
    """What a run of imitation ends with."""

    folder: Path
    adapter: Path
    steps: int
    demonstrations: int
    """Trained on."""
    held_out: int
    refused: int
    before: float | None
    """Loss of the held-out demonstrations before, in nats a token; None where none are held out."""
    after: float | None
    seconds: float


def read_imitation(folder: Path) -> ImitationRecord:
    """Read what a run of imitation was started with.

    Raises:
        InputError: if the folder is none of such a run.
    """
    path = folder / RECORD
    try:
        return msgspec.json.decode(path.read_bytes(), type=ImitationRecord)
    except OSError as error:
        raise InputError(f"{folder} is no run of trustee sft: {RECORD} cannot be read") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: {error}; this program cannot continue that run") from error


def describe_imitation(imitation: ImitateConfig, file: Path) -> ImitationRecord:
    """Describe a run of imitation for its record.

    Raises:
        InputError: if the file cannot be read.
    """
    found = find_demonstrations(file)
    try:
        digest = hashlib.sha256(found.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{found}: cannot be read ({error.strerror})") from error
    return ImitationRecord(imitation=imitation, file=str(found.absolute()), sha256=digest)


async def run_imitation(
    config: Config,
    imitation: ImitateConfig,
    file: Path,
    folder: Path,
    *,
    tell: Callable[[Event], None],
    resume: bool = False,
) -> Imitated:
    """Imitate the demonstrations of a file; on resuming, those that the run began with.

    Raises:
        InputError: if nothing can be imitated, or what was begun has changed since.
        EngineDied: if the engine dies; the run can be resumed.
    """
    begun = time.monotonic()
    model, renderer = prepare_model(config)
    record = read_imitation(folder) if resume else describe_imitation(imitation, file)
    if resume:
        check_unchanged(record)
    lessons = read_lessons(config, record, renderer, tell=tell)
    training, held_out = hold_out(lessons, share=record.imitation.held_out, seed=config.run.seed)
    async with Store(folder) as store:
        if resume:
            checkpoint = open_checkpoint(folder / "checkpoints")
        else:
            write_records(config, record, store, lessons)
        watched = open_watched(config, model, folder, clock=EngineClock(), tell=tell)
        async with watched as core:
            job = Imitation(
                core=core,
                config=record.imitation,
                learning=config.learn,
                training=training,
                held_out=held_out,
                ladder=make_ladder(config),
                store=store,
                seed=config.run.seed,
                keep_checkpoints=config.run.keep_checkpoints,
                tell=tell,
            )
            if resume:
                keep_lines(folder / "metrics.jsonl", checkpoint[1].step)
                await continue_imitation(job, *checkpoint)
            tell({"event": "stage", "name": f"imitating, {job.steps} steps"})
            adapter = await imitate(job)
    outcome = Imitated(
        folder=folder,
        adapter=adapter.path,
        steps=job.steps,
        demonstrations=len(training),
        held_out=len(held_out),
        refused=len(lessons.refused),
        before=job.before,
        after=job.last,
        seconds=time.monotonic() - begun,
    )
    (folder / "outcome.json").write_bytes(msgspec.json.encode(outcome, enc_hook=str))
    return outcome


def check_unchanged(record: ImitationRecord) -> None:
    """See that the file is still the one that the run began with.

    Raises:
        InputError: with both hashes, if it is not.
    """
    now = describe_imitation(record.imitation, Path(record.file))
    if now.sha256 != record.sha256:
        raise InputError(
            f"{record.file} has changed since the run began: its sha256 was {record.sha256[:12]} "
            f"and is {now.sha256[:12]}; bring the old one back, or start a new run"
        )


def read_lessons(
    config: Config,
    record: ImitationRecord,
    renderer: Renderer,
    *,
    tell: Callable[[Event], None],
) -> Lessons:
    """Read what can be imitated, and tell how much of the file that is."""
    reading = read_demonstrations(Path(record.file))
    lessons = make_lessons(reading, renderer, context=config.engine.context)
    text = f"{len(lessons.samples)} demonstrations can be imitated"
    if lessons.refused:
        text += f", {len(lessons.refused)} are refused: {show_refused(lessons.refused)}"
    tell({"event": "note", "text": text})
    return lessons


def write_records(config: Config, record: ImitationRecord, store: Store, lessons: Lessons) -> None:
    """Write down what the run begins with, and every row that it does not use.

    Raises:
        InputError: if the folder holds a run already.
    """
    folder = store.folder
    if (folder / "run.json").exists():
        raise InputError(
            f"{folder} holds a run already; continue it with --resume {folder} or name another"
        )
    for name, content in (("run.json", describe_run(config)), (RECORD, record)):
        text = msgspec.json.format(msgspec.json.encode(content), indent=2)
        (folder / name).write_bytes(text)
    if lessons.refused:
        store.append("refused.jsonl", lessons.refused)


def imitated_text(outcome: Imitated) -> str:
    """Say what imitation came to, and what to do next."""
    lines = [
        f"imitated {outcome.demonstrations} demonstrations in {outcome.steps} steps and "
        f"{outcome.seconds / 60:.1f} minutes; {outcome.refused} rows were refused"
    ]
    if outcome.before is not None and outcome.after is not None:
        lines.append(
            f"held-out loss {outcome.before:.4f} -> {outcome.after:.4f} nats a token "
            f"({outcome.held_out} demonstrations)"
        )
    lines += [
        f"adapter  {outcome.adapter}",
        f"next  trustee run --adapter {outcome.folder}",
    ]
    return "\n".join(lines)

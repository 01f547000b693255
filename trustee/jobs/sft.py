"""`trustee sft`: train an adapter on a file of demonstrations, for `trustee run` to start from."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from trustee.config import Config
from trustee.decoding import decode_json, read_file
from trustee.engine.clock import EngineClock
from trustee.errors import InputError
from trustee.events import Emit, Note, Stage
from trustee.jobs.assemble import make_memory_ladder, open_watched, prepare_model
from trustee.jobs.resume import cut_lines
from trustee.jobs.run_metadata import begin_record
from trustee.rendering.renderer import Renderer
from trustee.runs.checkpoint import open_checkpoint
from trustee.runs.files import write_json
from trustee.runs.inputs import StoredInput, check_inputs, hash_input, keep_input, place_of
from trustee.runs.store import Store
from trustee.sft.demonstration_files import find_demonstrations, read_demonstrations
from trustee.sft.demonstrations import show_mended_rows, show_refused_rows
from trustee.sft.samples import SftDataset, make_dataset
from trustee.sft.train import SftConfig, SftJob, SftState, continue_sft, hold_out, train_sft
from trustee.types import Record

SFT_FILE, DEMONSTRATIONS = "sft.json", "demonstrations"


class SftMetadata(Record, frozen=True):
    """What a supervised run was started with; the config is in `run.json`."""

    sft: SftConfig
    file: str
    sha256: str
    """SHA-256 of the file's bytes, in hex."""
    copy: str = ""
    """Name of its copy in `inputs/` of the run folder; empty if it is too large to be copied."""


class SftResult(Record, frozen=True):
    """Final result of a supervised run."""

    folder: Path
    adapter: Path
    steps: int
    demonstrations: int
    """Number of demonstrations trained on."""
    held_out: int
    refused: int
    before: float | None
    """Held-out loss before training, in nats per token; None without held-out demonstrations."""
    after: float | None
    seconds: float


def read_sft_metadata(folder: Path) -> SftMetadata:
    """Read what a supervised run was started with.

    Raises:
        InputError: if the folder is not one of such a run.
    """
    path = folder / SFT_FILE
    data = read_file(
        path,
        error=lambda why: InputError(f"{folder} is not a trustee sft run: {SFT_FILE} {why}"),
    )
    return decode_json(
        data,
        SftMetadata,
        error=lambda why: InputError(f"{path}: {why}; this program cannot continue that run"),
    )


def describe_sft(sft: SftConfig, file: Path) -> SftMetadata:
    """Return the metadata of a supervised run.

    Raises:
        InputError: if the file cannot be read.
    """
    found = find_demonstrations(file)
    return SftMetadata(sft=sft, file=str(found.absolute()), sha256=hash_input(found))


def input_of(record: SftMetadata) -> StoredInput:
    """Return the demonstrations of a supervised run as an input."""
    return StoredInput(origin=record.file, sha256=record.sha256, copy=record.copy)


async def run_sft(
    config: Config,
    sft: SftConfig,
    file: Path,
    folder: Path,
    *,
    emit: Emit,
    resume: bool = False,
) -> SftResult:
    """Train on the demonstrations of a file; when resuming, on those that the run started with.

    Raises:
        InputError: if no demonstration is usable, or the file has changed since the start.
        EngineDied: if the engine died; the run can be resumed.
    """
    started_at = time.monotonic()
    model, renderer = prepare_model(config)
    record = read_sft_metadata(folder) if resume else describe_sft(sft, file)
    if resume:
        check_inputs({DEMONSTRATIONS: input_of(record)}, folder)
    dataset = read_dataset(config, place_of(input_of(record), folder), renderer, emit=emit)
    training, held_out = hold_out(dataset, share=record.sft.held_out, seed=config.run.seed)
    async with Store(folder) as store:
        if resume:
            checkpoint = open_checkpoint(folder / "checkpoints", SftState)
        else:
            write_sft_metadata(config, record, store, dataset)
        watched = open_watched(config, model, folder, clock=EngineClock(), emit=emit)
        async with watched as engine:
            job = SftJob(
                engine=engine,
                config=record.sft,
                learning=config.learn,
                training=training,
                held_out=held_out,
                ladder=make_memory_ladder(config),
                store=store,
                seed=config.run.seed,
                keep_checkpoints=config.run.keep_checkpoints,
                emit=emit,
            )
            if resume:
                cut_lines(folder / "metrics.jsonl", checkpoint[1].step, emit=emit)
                await continue_sft(job, *checkpoint)
            emit(Stage(name=f"imitating, {job.steps} steps"))
            adapter = await train_sft(job)
    outcome = SftResult(
        folder=folder,
        adapter=adapter.path,
        steps=job.steps,
        demonstrations=len(training),
        held_out=len(held_out),
        refused=len(dataset.refused),
        before=job.before,
        after=job.last,
        seconds=time.monotonic() - started_at,
    )
    write_json(folder / "outcome.json", outcome)
    return outcome


def read_dataset(
    config: Config,
    file: Path,
    renderer: Renderer,
    *,
    emit: Emit,
) -> SftDataset:
    """Read the usable demonstrations and report how much of the file they are."""
    reading = read_demonstrations(file)
    dataset = make_dataset(reading, renderer, context=config.engine.context)
    text = f"{len(dataset.samples)} demonstrations are usable"
    if dataset.refused:
        text += f", {len(dataset.refused)} are refused: {show_refused_rows(dataset.refused)}"
    if dataset.mended:
        text += f"; used after a change: {show_mended_rows(dataset.mended)}"
    emit(Note(text=text))
    return dataset


def write_sft_metadata(
    config: Config, record: SftMetadata, store: Store, dataset: SftDataset
) -> None:
    """Write what the run starts with, and every row that it does not use or has changed.

    Raises:
        InputError: if the folder already holds a run.
    """
    folder = store.folder
    if (folder / "run.json").exists():
        raise InputError(
            f"{folder} already holds a run; continue it with --resume {folder} or name another"
        )
    kept = keep_input(DEMONSTRATIONS, Path(record.file), folder)
    write_json(folder / SFT_FILE, msgspec.structs.replace(record, copy=kept.copy), indent=2)
    begin_record(config, folder)
    if dataset.refused:
        store.append("refused.jsonl", dataset.refused)
    if dataset.mended:
        store.append("mended.jsonl", dataset.mended)


def sft_text(outcome: SftResult) -> str:
    """Return a readable summary of the result and the command to run next."""
    lines = [
        f"trained on {outcome.demonstrations} demonstrations in {outcome.steps} steps and "
        f"{outcome.seconds / 60:.1f} minutes; {outcome.refused} rows were refused"
    ]
    if outcome.before is not None and outcome.after is not None:
        lines.append(
            f"held-out loss {outcome.before:.4f} -> {outcome.after:.4f} nats per token "
            f"({outcome.held_out} demonstrations)"
        )
    lines += [
        f"adapter  {outcome.adapter}",
        f"next  trustee run --adapter {outcome.folder}",
    ]
    return "\n".join(lines)

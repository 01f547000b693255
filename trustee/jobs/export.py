"""`trustee export`: a run's model as files for other programs, each tested before it is named."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from trustee.config import Config
from trustee.events import Emit, Note
from trustee.export.card import CARD
from trustee.export.hub import list_uploads, push
from trustee.jobs.export_files import export_gguf, export_gguf_adapter, export_merged, export_ollama
from trustee.jobs.export_subject import Exported, Subject, Wanted, check_wanted, prepare_subject
from trustee.types import Record

T = TypeVar("T")


class Exports(Record, frozen=True):
    """All that one call has exported."""

    adapter: Path
    base: Path
    files: tuple[Exported, ...]
    pushed: str = ""
    """Address of the hub's commit; empty if nothing was pushed."""


async def export(
    config: Config, run: Path, wanted: Wanted, *, adapter: Path | None, emit: Emit
) -> Exports:
    """Write what is wanted, and test each through the file.

    Args:
        config: the run's config.
        run: the run's folder.
        wanted: what is to be written.
        adapter: PEFT or run folder; None is the run's own newest adapter.
        emit: receives progress events.

    Raises:
        InputError: if the run folder cannot be used, or a file is there already.
        RunError: if a file cannot be written or fails its test; then it is deleted.
    """
    check_wanted(wanted)
    subject = await in_thread(prepare_subject, config, run, adapter, wanted, emit)
    files = []
    if wanted.merged is not None:
        files.append(await in_thread(export_merged, subject, wanted.merged, emit))
    if wanted.gguf is not None:
        files.append(await in_thread(export_gguf, subject, wanted.gguf, wanted.quant, emit))
    if wanted.gguf_adapter is not None:
        files.append(await in_thread(export_gguf_adapter, subject, wanted.gguf_adapter, emit))
    if wanted.ollama is not None:
        files.append(await in_thread(export_ollama, subject, wanted.ollama, wanted.quant, emit))
    pushed = ""
    if wanted.push is not None:
        pushed = await in_thread(push_files, subject, wanted, files, emit)
    return Exports(
        adapter=subject.adapter.folder, base=subject.base, files=tuple(files), pushed=pushed
    )


async def in_thread(act: Callable[..., T], *given: object) -> T:
    """Run what computes or writes for long in a thread, to its end."""
    return await anyio.to_thread.run_sync(partial(act, *given))


def push_files(subject: Subject, wanted: Wanted, files: Sequence[Exported], emit: Emit) -> str:
    """List what was written, or else the adapter's files, and upload exactly that."""
    assert wanted.push is not None, "checked by the caller"
    places = [file.path for file in files] or [subject.adapter.folder]
    with tempfile.TemporaryDirectory() as scratch:
        if not any((place / CARD).is_file() for place in places) and subject.write_card:
            one = files[0] if files else None
            kind, agreement = (one.kind, one.agreement) if one else ("adapter", None)
            card = Path(scratch) / CARD
            card.write_text(subject.write_card(kind, places[0].name, agreement), encoding="utf-8")
            places.append(card)
        uploads = list_uploads(places)
        emit(Note(text=f"uploading to {wanted.push}, {'public' if wanted.public else 'private'}:"))
        for upload in uploads:
            emit(Note(text=f"  {upload.name}  {upload.size:,} bytes, {upload.path}"))
        if not files and Path(subject.adapter.base).is_absolute():
            emit(
                Note(
                    text=f"adapter_config.json names the base as {subject.adapter.base}, which "
                    "nobody else has; train with the base's hub id as model.path to name it"
                )
            )
        return push(wanted.push, uploads, public=wanted.public)


def export_text(exports: Exports) -> str:
    """Return what was exported as readable text."""
    lines = [_line(one) for one in exports.files]
    return "\n".join([*lines, f"pushed to {exports.pushed}"] if exports.pushed else lines)


def _line(one: Exported) -> str:
    found, played = one.agreement, one.played
    line = f"{one.kind:<12} {one.path}  not tested"
    if found is not None:
        line = (
            f"{one.kind:<12} {one.path}  prompts equal to the character, {found.equal} of "
            f"{found.tokens} greedy tokens equal, {found.ties} ties, at most {found.worst:.3f} "
            "nats off"
        )
    if played is not None:
        line += (
            f"\n  held-out success {played.through.value:.1%} through the file, "
            f"{played.before.value:.1%} in the run, on the same {played.before.count} tasks"
        )
    return line

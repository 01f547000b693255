"""A job whose figures go to the trackers of `run.report_to` too."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from trustee.config import Config
from trustee.decoding import decode_json, read_file
from trustee.errors import InputError
from trustee.events import Emit
from trustee.jobs.resume import flatten
from trustee.runs.files import write_json
from trustee.trackers.extras import require_trackers
from trustee.trackers.messages import Begin
from trustee.trackers.relay import open_trackers
from trustee.types import Record

TRACKERS = "trackers.json"

T = TypeVar("T")


class TrackedRun(Record, frozen=True):
    """The contents of `trackers.json`: how trackers know a run, so that they know it again."""

    id: Annotated[str, Meta(pattern=r"\A[0-9a-f]{8,32}\Z")]
    name: Annotated[str, Meta(max_length=100)]


async def run_tracked(
    config: Config, folder: Path, job: Callable[[Emit], Awaitable[T]], *, emit: Emit
) -> T:
    """Run a job and tell the trackers what it measures.

    Raises:
        InputError: if the package of a tracker is not installed.
    """
    names = config.run.report_to
    require_trackers(names)
    begin = begin_of(config, folder) if names else None
    async with open_trackers(names, begin, folder=folder, emit=emit) as tell:
        return await job(tell)


def begin_of(config: Config, folder: Path) -> Begin:
    """Return what trackers are told first; a run keeps the id that it got when it began."""
    folder.mkdir(parents=True, exist_ok=True)
    known = read_tracked(folder / TRACKERS)
    if known is None:
        known = TrackedRun(id=uuid.uuid4().hex[:12], name=folder.resolve().name[:100])
        write_json(folder / TRACKERS, known)
    table = decode_json(msgspec.json.encode(config), error=InputError)
    settings = {key: value for key, value in flatten(table) if value is not None}
    return Begin(folder=str(folder.resolve()), id=known.id, name=known.name, config=settings)


def read_tracked(path: Path) -> TrackedRun | None:
    """Return how trackers know a run; None if none has been told of it."""
    try:
        return decode_json(read_file(path, error=InputError), TrackedRun, error=InputError)
    except InputError:
        return None

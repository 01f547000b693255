"""The run folder, which records everything that happens in a run.

run.json         resolved config, versions, prompt hashes
metrics.jsonl    one line per step; equal for equal seeds, so it contains no times
timing.jsonl     one line per step: seconds and rates
tasks.jsonl      every task that was written, and every failure to write one
episodes.jsonl   every finished episode, written before it is used
checkpoints/     step-000010/: safetensors and JSON, manifest last
adapters/        policy-000017/: PEFT folders
log.jsonl        structlog

A run may add further files, such as held-out results, timelines, engine.log and stacks.txt; the
modules that write them describe them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import msgspec

from trustee.decoding import BadLine, decode_json, open_file, read_json_lines
from trustee.errors import InputError, RunError
from trustee.events import EpisodePlayed, TaskWritten
from trustee.runs.ownership import own_folder, refuse_unwritable
from trustee.types import Adapter, Failure, Record, RejectReason, Task, Trajectory

T = TypeVar("T")

TAIL = 1 << 16
"""Bytes read at a time to find the end of the last complete line."""


class TaskLine(Record, frozen=True):
    """A line of `tasks.jsonl`."""

    group: int
    version: int
    task: Task | None
    failure: Failure | None = None


class EpisodeLine(Record, frozen=True, omit_defaults=True):
    """A line of `episodes.jsonl`."""

    group: int
    member: int
    trajectory: Trajectory
    rejected: RejectReason | None = None
    """Why the episode is not kept; None where it is, and where nothing is collected."""


class Store:
    """Appends to the files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._encoder = msgspec.json.Encoder()
        self._own = ExitStack()

    async def __aenter__(self) -> Self:
        """Become the folder's only writer, and make what is in it.

        Raises:
            InputError: if the folder cannot be owned, see `own_folder`.
        """
        self._own.enter_context(own_folder(self.folder))
        try:
            for name in ("checkpoints", "adapters"):
                (self.folder / name).mkdir(exist_ok=True)
        except OSError as error:
            self._own.close()
            raise refuse_unwritable(self.folder, error) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files and give up the folder."""
        for file in self._files.values():
            file.close()
        self._own.close()

    def append(self, name: str, lines: Sequence[Any]) -> None:
        """Append lines to a file and wait until they are on disk.

        Raises:
            RunError: if they cannot be written; earlier lines stay as they were.
        """
        path = self.folder / name
        try:
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = open_lines(path)
            data = b"".join(self._encoder.encode(line) + b"\n" for line in lines)
            end = file.seek(0, os.SEEK_END)
            try:
                written = file.write(data)
                if written != len(data):
                    raise OSError(28, "No space left on device")
                os.fsync(file.fileno())
            except OSError:
                # Report the original error even if truncating the partial line fails too.
                with suppress(OSError):
                    file.truncate(end)
                raise
        except OSError as error:
            raise RunError(
                f"cannot write {path}: {error.strerror}; free some disk space, then continue with "
                f"trustee run --resume {self.folder}"
            ) from error

    def adapter(self, version: int) -> Adapter:
        """Return the adapter of a version, with its folder in this run."""
        return Adapter(version=version, path=self.folder / "adapters" / f"policy-{version:06d}")


def open_lines(path: Path) -> IO[bytes]:
    """Open a file of lines for appending; an incomplete last line, left by a kill, is removed."""
    file = path.open("a+b", buffering=0)
    try:
        whole = find_end(file)
        if whole < file.seek(0, os.SEEK_END):
            file.truncate(whole)
    except OSError:
        file.close()
        raise
    return file


def find_end(file: IO[bytes]) -> int:
    """Return the offset at which a file's last complete line ends, reading backwards."""
    start = end = file.seek(0, os.SEEK_END)
    while start:
        start = file.seek(max(0, start - TAIL))
        at = file.read(min(TAIL, end - start)).rfind(b"\n")
        if at >= 0:
            return start + at + 1
    return 0


def read_lines(path: Path, kind: Any = dict[str, Any]) -> list[Any]:
    """Read a file of JSON lines; an incomplete last line, left by a kill, is ignored.

    Raises:
        InputError: if the file cannot be read, or a complete line is not of this kind.
    """
    rows = []
    for line in read_json_lines(path, kind, error=lambda why: InputError(f"{path}: {why}")):
        if isinstance(line, BadLine):
            raise InputError(f"{path}:{line.number}: {line.why}")
        rows.append(line.value)
    return rows


class _Numbered(msgspec.Struct):
    """What every line of `metrics.jsonl` and `timing.jsonl` has."""

    step: int


class _Grouped(msgspec.Struct):
    """What every line of `tasks.jsonl` has."""

    group: int


def _scan(path: Path, kind: type[T]) -> Iterator[tuple[int, T]]:
    """Yield the complete lines of a kind with the offset at which each begins; skip others."""
    if not path.exists():
        return
    begin = 0
    with open_file(path, error=lambda why: InputError(f"{path}: {why}")) as file:
        for line in file:
            if line.endswith(b"\n"):
                with suppress(InputError):
                    yield begin, decode_json(line, kind, error=InputError)
            begin += len(line)


def keep_steps(path: Path, step: int) -> int:
    """Cut off what a file has from the first later step on; return how many steps are left."""
    if not path.exists():
        return 0
    steps = list(_scan(path, _Numbered))
    later = [begin for begin, line in steps if line.step > step]
    with path.open("r+b") as file:
        file.truncate(later[0] if later else find_end(file))
    return len({line.step for begin, line in steps if not later or begin < later[0]})


def count_groups(folder: Path) -> int:
    """Return the first number that no group of a run has, trained on or not."""
    return max((line.group + 1 for _, line in _scan(folder / "tasks.jsonl", _Grouped)), default=0)


def describe(entry: TaskLine | EpisodeLine) -> TaskWritten | EpisodePlayed:
    """Return the progress event of a finished task or episode."""
    if isinstance(entry, TaskLine):
        source = entry.failure.source if entry.failure else None
        return TaskWritten(group=entry.group, failed_by=source, failed=source is not None)
    return describe_episode(entry)


def describe_episode(entry: EpisodeLine) -> EpisodePlayed:
    """Return the progress event of an episode that ended."""
    trajectory = entry.trajectory
    return EpisodePlayed(
        group=entry.group,
        member=entry.member,
        reward=trajectory.reward,
        turns=len(trajectory.turns),
        tokens=sum(len(turn.completion.ids) for turn in trajectory.turns),
        failed_by=trajectory.failed_by,
        failed=trajectory.failure is not None,
    )

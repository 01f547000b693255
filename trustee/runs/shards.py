"""A job that is shared out: which share a shard does, and the record by which shards are joined.

A job is cut by the numbers of its places or tasks: shard K of N takes every N-th number, from K on.
Nothing in a share depends on another share, so shards need neither a network nor a common disk.

shard.json       in the folder of a shard: its share, what its results depend on, whether it is done
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from trustee.decoding import decode_json, read_file
from trustee.errors import InputError
from trustee.runs.files import write_json
from trustee.types import Record

SHARD = "shard.json"
MOST_SHARDS = 10_000
SHOWN_KEYS = 3
"""Number of differing settings that an error names."""
SHOWN_DIGITS = 12
"""Digits of a hash that an error shows."""

JobName = Literal["build", "collect", "eval"]


class Share(Record, frozen=True):
    """Which of all numbers from 0 a shard takes."""

    number: int
    """Number of the shard, from 1."""
    of: int
    """Number of all shards."""

    def takes(self, index: int) -> bool:
        """Whether a place or task belongs to the share."""
        return index % self.of == self.number - 1

    def count(self, total: int) -> int:
        """Return how many of so many places or tasks belong to the share."""
        return len(range(self.number - 1, total, self.of))

    def __str__(self) -> str:
        """Return the share as `--shard` takes it."""
        return f"{self.number}/{self.of}"


WHOLE = Share(number=1, of=1)
"""Everything: the share of a job that is not shared out."""


def read_share(text: str) -> Share:
    """Return the share that `--shard K/N` names.

    Raises:
        InputError: if it names none.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, of = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= number <= of <= MOST_SHARDS:
        raise InputError(
            f"--shard {text!r}: give K/N, the number of this shard and of all, such as 2/4; K is "
            f"at least 1 and at most N, N at most {MOST_SHARDS}"
        )
    return Share(number=number, of=of)


class Origin(Record, frozen=True):
    """A model or adapter that a shard used."""

    path: str
    """Where it was on that machine; only for readers."""
    sha256: str
    """Of its weights; empty if the engine reads none."""


class ShardRecord(Record, frozen=True):
    """The contents of `shard.json`."""

    job: JobName
    share: Share
    count: int
    """Number of places or tasks of the whole job."""
    trustee: str
    """Version of this program."""
    base: Origin
    adapters: dict[str, Origin] = {}
    """The adapters that played, by label."""
    settings: dict[str, Any] = {}
    """The settings that the results depend on, files by their hashes."""
    finished: bool = False

    def facts(self) -> dict[str, str]:
        """Return what must be the same in every shard of a job, as text by name."""
        return {
            "trustee": self.trustee,
            f"number of {'environments' if self.job == 'build' else 'tasks'}": str(self.count),
            "base model": self.base.sha256[:SHOWN_DIGITS],
            **{label: origin.sha256[:SHOWN_DIGITS] for label, origin in self.adapters.items()},
            **dict(flatten(self.settings)),
        }


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of nested tables as JSON, by their dotted keys."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", msgspec.json.encode(value).decode()


def check_share(share: Share, count: int) -> None:
    """Refuse shards of which some would have nothing to do.

    Raises:
        InputError: if there are more shards than places or tasks.
    """
    if share.of > count:
        raise InputError(
            f"--shard {share}: more shards than there is to share out ({count}); N is at most "
            f"{count}"
        )


@contextmanager
def noting(folder: Path, record: ShardRecord | None) -> Iterator[None]:
    """Note in a folder what a shard is, and after the block that it is done.

    Args:
        folder: the shard's own.
        record: what it is; None is the whole job, which a shard's folder does not take.

    Raises:
        InputError: if the folder holds another shard, or a shard where the whole job is wanted.
        RunError: if the note cannot be written.
    """
    check_folder(folder, record)
    if record is None:
        yield
        return
    write_json(folder / SHARD, record, indent=1)
    yield
    write_json(folder / SHARD, msgspec.structs.replace(record, finished=True), indent=1)


def check_folder(folder: Path, record: ShardRecord | None) -> None:
    """Check that a folder is not a shard's, or that of the shard that is wanted.

    Raises:
        InputError: if it holds another shard, or a shard where the whole job is wanted.
    """
    if not (folder / SHARD).exists():
        return
    before = read_shard(folder)
    if record is None:
        raise InputError(
            f"{folder} holds shard {before.share} of trustee {before.job}; continue it with "
            f"--shard {before.share}, or name another folder"
        )
    if before.job != record.job or before.share != record.share:
        raise InputError(
            f"{folder} holds shard {before.share} of trustee {before.job}; name another folder"
        )
    differing = tell_difference(before, record)
    if differing:
        raise InputError(
            f"{folder} holds a shard that was begun with something else: {differing}; repeat the "
            "call as it was, or name another folder"
        )


def read_shard(folder: Path) -> ShardRecord:
    """Read what a shard is.

    Raises:
        InputError: if the folder is not a shard's.
    """

    def refuse(why: str) -> InputError:
        return InputError(
            f"{folder} is not a shard: {SHARD} {why}; give folders that trustee build, collect or "
            "eval wrote with --shard"
        )

    record: ShardRecord = decode_json(
        read_file(folder / SHARD, error=refuse), ShardRecord, error=refuse
    )
    return record


def tell_difference(first: ShardRecord, second: ShardRecord) -> str:
    """Return what two shards do not have in common; empty if they belong together."""
    old, new = first.facts(), second.facts()
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    shown = [
        f"{key} is {old.get(key, 'nothing')} and {new.get(key, 'nothing')}"
        for key in differing[:SHOWN_KEYS]
    ]
    more = len(differing) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])])


def read_shards(folders: Sequence[Path]) -> dict[Path, ShardRecord]:
    """Return all shards of one job by their folders, in the order of their numbers.

    Raises:
        InputError: if a folder is not a shard's, a shard is missing, there twice or not finished,
            or they are not of one job.
    """
    records = {folder: read_shard(folder) for folder in folders}
    first, *others = folders
    for folder in others:
        one, other = records[first], records[folder]
        if (one.job, one.share.of) != (other.job, other.share.of):
            raise InputError(
                f"{first} is shard {one.share} of trustee {one.job} and {folder} is shard "
                f"{other.share} of trustee {other.job}; give the shards of one job"
            )
        differing = tell_difference(one, other)
        if differing:
            raise InputError(
                f"{first} and {folder} are not shards of one job: {differing}; make one of them "
                "again with the settings of the other"
            )
    check_complete(folders, records)
    return dict(sorted(records.items(), key=lambda entry: entry[1].share.number))


def check_complete(folders: Sequence[Path], records: Mapping[Path, ShardRecord]) -> None:
    """Check that each shard is there once, and finished.

    Raises:
        InputError: naming the shards that are not.
    """
    seen: dict[int, Path] = {}
    for folder in folders:
        share = records[folder].share
        if share.number in seen:
            raise InputError(
                f"{seen[share.number]} and {folder} are both shard {share}; give each shard once"
            )
        seen[share.number] = folder
    of = records[folders[0]].share.of
    missing = [f"{number}/{of}" for number in range(1, of + 1) if number not in seen]
    if missing:
        raise InputError(f"missing of the {of} shards: {', '.join(missing)}; give all of them")
    unfinished = [folder for folder in folders if not records[folder].finished]
    if unfinished:
        raise InputError(
            f"{unfinished[0]} holds shard {records[unfinished[0]].share}, which is not finished; "
            "repeat the command that made it, and merge then"
        )

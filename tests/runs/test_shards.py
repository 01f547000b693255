"""Shards: which numbers a share takes, and which folders are the shards of one job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from golden_errors import ErrorCheck
from trustee.errors import InputError
from trustee.runs.files import write_json
from trustee.runs.shards import (
    SHARD,
    WHOLE,
    Origin,
    ShardRecord,
    Share,
    check_folder,
    check_share,
    noting,
    read_shard,
    read_shards,
    read_share,
)


def make_record(number: int = 1, of: int = 2, **changes: Any) -> ShardRecord:
    """Return the record of a finished shard of a collection."""
    record = ShardRecord(
        job="collect",
        share=Share(number=number, of=of),
        count=6,
        trustee="1.0",
        base=Origin(path="/models/a", sha256="aaaa"),
        adapters={"adapter": Origin(path="/runs/a", sha256="bbbb")},
        settings={"engine": {"context": 8192}, "seed": 0},
        finished=True,
    )
    return replace(record, **changes)


def write_shards(folder: Path, *records: ShardRecord) -> list[Path]:
    """Write the records into folders of their own."""
    folders = [folder / f"part-{place}" for place in range(len(records))]
    for part, record in zip(folders, records, strict=True):
        part.mkdir()
        write_json(part / SHARD, record)
    return folders


@pytest.mark.parametrize("of", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 7, 20])
def test_shares_take_each_number_once(of: int, total: int) -> None:
    """All shares together take every number, none takes one of another's."""
    shares = [Share(number=number, of=of) for number in range(1, of + 1)]
    taken = [[index for index in range(total) if share.takes(index)] for share in shares]
    assert list(range(total)) == sorted(index for own in taken for index in own)
    assert [len(own) for own in taken] == [share.count(total) for share in shares]


def test_the_whole_takes_everything() -> None:
    """A job that is not shared out takes all numbers."""
    assert all(WHOLE.takes(index) for index in range(5))


def test_share_is_written_as_it_is_read() -> None:
    """`--shard` and what is shown are the same text."""
    assert Share(number=2, of=4) == read_share("2/4")
    assert "2/4" == str(read_share("2/4"))


@pytest.mark.parametrize("text", ["", "2", "0/4", "5/4", "1/0", "a/b", "1/4/2", "-1/4", "1/20000"])
def test_bad_share(check_error: ErrorCheck, text: str) -> None:
    """What is no share is refused with what is one."""
    with pytest.raises(InputError) as caught:
        read_share(text)
    check_error(caught, repr(text), "K/N", "2/4")


def test_more_shards_than_tasks(check_error: ErrorCheck) -> None:
    """A shard without any work is refused before it starts an engine."""
    check_share(Share(number=1, of=6), 6)
    with pytest.raises(InputError) as caught:
        check_share(Share(number=1, of=7), 6)
    check_error(caught, "1/7", "6")


def test_order_is_that_of_the_numbers(tmp_path: Path) -> None:
    """The folders may be given in any order."""
    second, first = write_shards(tmp_path, make_record(2), make_record(1))
    assert [first, second] == list(read_shards([second, first]))


def test_paths_and_places_do_not_count(tmp_path: Path) -> None:
    """Another machine has base and adapter elsewhere."""
    other = make_record(
        2,
        base=Origin(path="/elsewhere", sha256="aaaa"),
        adapters={"adapter": Origin(path="/elsewhere", sha256="bbbb")},
    )
    assert 2 == len(read_shards(write_shards(tmp_path, make_record(1), other)))


@pytest.mark.parametrize(
    ("records", "named"),
    [
        ((make_record(1),), ("2/2",)),
        ((make_record(2, 4), make_record(3, 4)), ("1/4, 4/4",)),
        ((make_record(1), make_record(1)), ("part-0", "part-1", "1/2", "once")),
        ((make_record(1), make_record(2, 3)), ("1/2", "2/3")),
        ((make_record(1), make_record(2, job="eval")), ("collect", "eval")),
        (
            (make_record(1), make_record(2, base=Origin(path="/models/a", sha256="cccc"))),
            ("base model", "aaaa", "cccc"),
        ),
        (
            (
                make_record(1),
                make_record(2, adapters={"adapter": Origin(path="/runs/a", sha256="cccc")}),
            ),
            ("adapter", "bbbb", "cccc"),
        ),
        ((make_record(1), make_record(2, adapters={})), ("adapter", "bbbb", "nothing")),
        (
            (make_record(1), make_record(2, settings={"engine": {"context": 4096}, "seed": 0})),
            ("engine.context", "8192", "4096"),
        ),
        ((make_record(1), make_record(2, count=8)), ("number of tasks", "6", "8")),
        ((make_record(1), make_record(2, trustee="2.0")), ("trustee", "1.0", "2.0")),
        ((make_record(1), make_record(2, finished=False)), ("part-1", "2/2", "not finished")),
    ],
    ids=[
        "missing",
        "two missing",
        "twice",
        "other number",
        "other job",
        "base",
        "adapter",
        "no adapter",
        "setting",
        "count",
        "version",
        "unfinished",
    ],
)
def test_what_is_not_all_of_one_job_is_refused(
    check_error: ErrorCheck,
    tmp_path: Path,
    records: tuple[ShardRecord, ...],
    named: tuple[str, ...],
) -> None:
    """Each refusal names folders or shards, and what they differ in."""
    folders = write_shards(tmp_path, *records)
    with pytest.raises(InputError) as caught:
        read_shards(folders)
    check_error(caught, *named)


def test_folder_without_a_shard(check_error: ErrorCheck, tmp_path: Path) -> None:
    """A folder of a whole job is no shard."""
    with pytest.raises(InputError) as caught:
        read_shards([tmp_path])
    check_error(caught, tmp_path, SHARD, "--shard")


def test_shard_is_finished_only_at_the_end(tmp_path: Path) -> None:
    """Who is killed leaves a shard that no merge takes."""
    record = make_record(finished=False)

    def die() -> None:
        with noting(tmp_path, record):
            assert record == read_shard(tmp_path)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        die()
    assert not read_shard(tmp_path).finished
    with noting(tmp_path, record):
        pass
    assert read_shard(tmp_path).finished


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (None, ("--shard 1/2",)),
        (make_record(2), ("shard 1/2",)),
        (make_record(1, count=8), ("number of tasks", "6", "8")),
    ],
    ids=["whole job", "other shard", "other settings"],
)
def test_folder_keeps_its_shard(
    check_error: ErrorCheck, tmp_path: Path, wanted: ShardRecord | None, named: tuple[str, ...]
) -> None:
    """Nothing else is played into the folder of a shard."""
    (folder,) = write_shards(tmp_path, make_record(1))
    check_folder(folder, make_record(1, finished=False))
    with pytest.raises(InputError) as caught:
        check_folder(folder, wanted)
    check_error(caught, folder, *named)

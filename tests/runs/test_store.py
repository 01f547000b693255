"""The run folder's lines: appended whole or not at all, and readable after any kill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_errors import ErrorCheck
from trustee.errors import InputError, RunError
from trustee.runs.store import (
    EpisodeLine,
    Store,
    TaskLine,
    count_groups,
    keep_steps,
    open_lines,
    read_lines,
)
from trustee.types import (
    Adapter,
    BadCall,
    Completion,
    Failure,
    Message,
    Role,
    Stop,
    Task,
    Tool,
    ToolCall,
    Trajectory,
    Turn,
)

pytestmark = pytest.mark.anyio

EPISODE = EpisodeLine(
    group=3,
    member=1,
    trajectory=Trajectory(
        id="3/1",
        task_id="t",
        turns=(
            Turn(
                rendered_ids=(1, 2),
                completion=Completion(
                    ids=(3,), logprobs=(-0.1,), stop="length", version=4, cached=1
                ),
                message=Message(
                    role="assistant",
                    content="é\u2028\n",
                    thinking="hm",
                    calls=(
                        ToolCall(id="a", name="f", arguments={"x": [1, None, {"y": "ü"}]}),
                        BadCall(id="b", text="{", reason="not JSON"),
                    ),
                ),
                replies=(Message(role="tool", content="{}", call_id="a"),),
            ),
        ),
        stop=Stop.TOKENS,
        rewards={"verdict": 0.1},
        notes={"facts": "none"},
    ),
)
TASK = TaskLine(
    group=3,
    version=2,
    task=Task(
        id="t",
        messages=(Message(role="user", content="hi"),),
        tools=(Tool(name="f", description="d", parameters={"type": "object"}),),
        difficulty=7,
        hidden={"intent": "x"},
    ),
)
FAILED = TaskLine(
    group=4,
    version=2,
    task=None,
    failure=Failure(source=Role.WRITER, kind="SimulatorError", message="gave nothing"),
)


async def test_lines_come_back_as_they_went(tmp_path: Path) -> None:
    """Everything that is stored is read back equal, calls of both kinds included."""
    async with Store(tmp_path) as store:
        store.append("episodes.jsonl", [EPISODE, EPISODE])
        store.append("tasks.jsonl", [TASK, FAILED])
    assert [EPISODE, EPISODE] == read_lines(tmp_path / "episodes.jsonl", EpisodeLine)
    assert [TASK, FAILED] == read_lines(tmp_path / "tasks.jsonl", TaskLine)


async def test_lines_are_synced_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has returned from `append` has its lines on disk, in the file and not in a buffer."""
    synced: list[int] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", watch)
    async with Store(tmp_path) as store:
        store.append("a.jsonl", [1, 2])
        store.append("a.jsonl", [3])
        assert ([4, 6], b"1\n2\n3\n") == (synced, (tmp_path / "a.jsonl").read_bytes())


async def test_stores_append_to_what_is_there(tmp_path: Path) -> None:
    """A second run in the folder adds to the files of the first."""
    for number in (1, 2):
        async with Store(tmp_path) as store:
            store.append("a.jsonl", [{"n": number}])
    assert [{"n": 1}, {"n": 2}] == read_lines(tmp_path / "a.jsonl")


@pytest.mark.parametrize("torn", [b"", b"{", b'{"n": 2}', b"x" * 200_000])
async def test_append_cuts_off_a_torn_line(tmp_path: Path, torn: bytes) -> None:
    """What a kill left of the last line does not spoil the first line after it."""
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\n' + torn)
    async with Store(tmp_path) as store:
        store.append("a.jsonl", [{"n": 3}])
    assert [{"n": 1}, {"n": 3}] == read_lines(tmp_path / "a.jsonl")


@given(
    lines=st.lists(st.integers(0, 9).map(lambda n: b"x" * n * n * n), max_size=4),
    torn=st.integers(0, 150_000),
)
@settings(max_examples=40)
def test_open_lines_keeps_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], torn: int
) -> None:
    """However long the torn end, what stays is exactly the whole lines."""
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    whole = b"".join(line + b"\n" for line in lines)
    path.write_bytes(whole + b"y" * torn)
    open_lines(path).close()
    assert whole == path.read_bytes()


FULL = """
import asyncio, resource, sys
from pathlib import Path
from trustee.errors import RunError
from trustee.runs.store import Store

async def main():
    async with Store(Path(sys.argv[1])) as store:
        store.append("a.jsonl", [{"n": n} for n in range(10)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
        for _ in range(2):
            try:
                store.append("a.jsonl", [{"text": "x" * 100}] * 5)
            except RunError as error:
                print(error)
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        store.append("a.jsonl", [{"n": 10}])

asyncio.run(main())
"""


@pytest.mark.parametrize("limit", [80, 81, 150, 500])
def test_full_disk_leaves_earlier_lines_intact(tmp_path: Path, limit: int) -> None:
    """A write that fails half way leaves no half, names the file, and can be done again later."""
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(limit)],
        capture_output=True,
        text=True,
        check=True,
    )
    printed = ran.stdout.splitlines()
    assert 2 == len(printed)
    assert all(line.startswith(f"cannot write {tmp_path / 'a.jsonl'}: ") for line in printed)
    assert all(line.endswith(f"trustee run --resume {tmp_path}") for line in printed)
    assert [{"n": n} for n in range(11)] == read_lines(tmp_path / "a.jsonl")


async def test_sync_that_fails_takes_the_lines_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that cannot be made durable are not left as if they were."""
    async with Store(tmp_path) as store:
        store.append("a.jsonl", [1])

        def fail(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(RunError, match=r"cannot write .*a\.jsonl: Input/output error"):
            store.append("a.jsonl", [2])
    assert b"1\n" == (tmp_path / "a.jsonl").read_bytes()


async def test_file_that_cannot_be_opened_is_named(check_error: ErrorCheck, tmp_path: Path) -> None:
    """A folder in the place of a file is the user's to mend: the message names it."""
    (tmp_path / "a.jsonl").mkdir()
    async with Store(tmp_path) as store:
        with pytest.raises(RunError) as caught:
            store.append("a.jsonl", [1])
    check_error(caught, tmp_path / "a.jsonl", "Is a directory", f"--resume {tmp_path}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b'{"n": 1}', []),
        (b'{"n": 1}\n', [{"n": 1}]),
        (b'{"n": 1}\n{"n', [{"n": 1}]),
        (b'{"n": 1}\n{"n": 2}', [{"n": 1}]),
    ],
)
def test_read_leaves_out_a_torn_line(
    tmp_path: Path, text: bytes, expected: list[dict[str, Any]]
) -> None:
    """Only lines with their end count, even where what is there would parse."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(text)
    assert expected == read_lines(path)


def test_read_names_a_broken_line(check_error: ErrorCheck, tmp_path: Path) -> None:
    """A whole line that is not of its kind is an error with file and line."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"group": 1, "version": 0, "task": null}\n{"group": "x"}\n')
    with pytest.raises(InputError) as caught:
        read_lines(path, TaskLine)
    check_error(caught, f"{path}:2", "$.group")


def test_read_of_no_file_is_an_error(check_error: ErrorCheck, tmp_path: Path) -> None:
    """A file that is not there is named."""
    path = tmp_path / "none.jsonl"
    with pytest.raises(InputError) as caught:
        read_lines(path)
    check_error(caught, path)


@pytest.mark.parametrize(
    ("steps", "step", "kept", "count"),
    [
        ([1, 2, 3], 2, [1, 2], 2),
        ([1, 2, 3], 9, [1, 2, 3], 3),
        ([1, 2, 3], 0, [], 0),
        ([6, 7], 5, [], 0),
        ([1, 4, 5, 6, 7], 5, [1, 4, 5], 3),
        ([1, 2, 3, 1, 2], 2, [1, 2], 2),
        ([], 3, [], 0),
    ],
)
def test_lines_of_later_steps_are_cut_off(
    tmp_path: Path, steps: list[int], step: int, kept: list[int], count: int
) -> None:
    """What is left belongs to the steps so far, and their number is told."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"step":{number}}}\n' for number in steps) + '{"step":1')
    assert count == keep_steps(path, step)
    assert "".join(f'{{"step":{number}}}\n' for number in kept) == path.read_text()


def test_steps_of_no_file(tmp_path: Path) -> None:
    """A file that is not there has no steps and is not made."""
    assert 0 == keep_steps(tmp_path / "none.jsonl", 3)
    assert [] == list(tmp_path.iterdir())


def test_lines_that_cannot_be_read_stay(tmp_path: Path) -> None:
    """A damaged line costs no other line."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step":1}\n\xff\n{"step":3}\n{"step":4}\n')
    assert 2 == keep_steps(path, 3)
    assert path.read_bytes().endswith(b'{"step":3}\n')


def test_group_numbers_go_on_after_the_last(tmp_path: Path) -> None:
    """A group has a number once its task is on disk, whatever came of it."""
    assert 0 == count_groups(tmp_path)
    (tmp_path / "tasks.jsonl").write_text('{"group":4}\n{"group":2}\nbroken\n{"group":9')
    assert 5 == count_groups(tmp_path)


def test_adapter_folders_sort_by_version(tmp_path: Path) -> None:
    """A version's folder and name carry its number with leading zeros."""
    expected = Adapter(version=17, path=tmp_path / "adapters" / "policy-000017")
    adapter = Store(tmp_path).adapter(17)
    assert (expected, "policy-000017") == (adapter, adapter.name)

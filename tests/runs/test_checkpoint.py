"""Checkpoints: whole or not there, whatever fails while they are written or afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import torch
from safetensors.torch import save_file

from golden_errors import ErrorCheck
from trustee.errors import InputError, RunError
from trustee.runs import checkpoint
from trustee.runs.checkpoint import (
    CheckpointState,
    find_checkpoints,
    hash_file,
    is_whole,
    open_checkpoint,
    write_checkpoint,
)
from trustee.runs.files import sync

pytestmark = pytest.mark.anyio

FILES = ("manifest.json", "state.json", "adapter.safetensors", "optimizer/moments.bin")


class Counted(CheckpointState, frozen=True):
    """The state of a run that counts."""

    drawn: int
    best: tuple[float, int] | None = None
    inner: msgspec.Raw = msgspec.Raw(b"{}")
    """What another part of the run reads."""


def state_at(step: int) -> Counted:
    """Make the state of a run after a step."""
    return Counted(
        step=step, drawn=8 * step, best=(0.5, 2), inner=msgspec.Raw(b'{"own": %d}' % step)
    )


def open_newest(folder: Path) -> tuple[Path, Counted]:
    """Open the newest checkpoint that can be continued."""
    return open_checkpoint(folder, Counted)


async def save(folder: Path) -> None:
    """Write what a trainer would: two files, one in a folder of its own."""
    (folder / "adapter.safetensors").write_bytes(b"weights" * 10)
    (folder / "optimizer").mkdir()
    (folder / "optimizer" / "moments.bin").write_bytes(b"moments")


async def write(folder: Path, step: int, *, keep: int = 5) -> Path:
    """Write the checkpoint of a step."""
    return await write_checkpoint(folder, state_at(step), save=save, keep=keep)


async def test_checkpoint_comes_back(tmp_path: Path) -> None:
    """What was written is found, whole, with its state and its files."""
    path = await write(tmp_path, 3)
    assert (tmp_path / "step-000003", True) == (path, is_whole(path))
    assert (path, state_at(3)) == open_newest(tmp_path)
    assert sorted(FILES) == sorted(
        str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()
    )


async def test_manifest_lists_every_other_file(tmp_path: Path) -> None:
    """Sizes and hashes of all files but itself, at any depth."""
    path = await write(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_bytes())["files"]
    assert sorted(set(FILES) - {"manifest.json"}) == sorted(manifest)
    assert {name: (path / name).stat().st_size for name in manifest} == {
        name: size for name, (size, _) in manifest.items()
    }


async def test_newest_few_are_kept(tmp_path: Path) -> None:
    """Older checkpoints go, the newest `keep` stay, in the order of their steps."""
    for step in (1, 2, 9, 10, 11):
        await write(tmp_path, step, keep=2)
    names = [path.name for path in find_checkpoints(tmp_path)]
    assert ["step-000011", "step-000010"] == names


async def test_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    """A resumed run may write a step again."""
    await write(tmp_path, 1)
    other = Counted(step=1, drawn=9)
    await write_checkpoint(tmp_path, other, save=save, keep=2)
    assert (tmp_path / "step-000001", other) == open_newest(tmp_path)


def delete(path: Path) -> None:
    """Lose a file."""
    path.unlink()


def empty(path: Path) -> None:
    """Lose a file's content."""
    path.write_bytes(b"")


def shorten(path: Path) -> None:
    """Lose a file's last byte."""
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    """Change one bit and no size."""
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [delete, empty, shorten, flip])
async def test_damaged_checkpoint_is_not_whole(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    """Any damage to any file is seen, and the next older whole checkpoint is taken."""
    older = await write(tmp_path, 1)
    newer = await write(tmp_path, 2)
    damage(newer / name)
    assert (True, False) == (is_whole(older), is_whole(newer))
    assert (older, state_at(1)) == open_newest(tmp_path)


async def test_walk_back_over_several(tmp_path: Path) -> None:
    """The newest whole one is taken, however many broken ones are newer."""
    for step in range(1, 5):
        await write(tmp_path, step)
    delete(tmp_path / "step-000004" / "manifest.json")
    shorten(tmp_path / "step-000003" / "adapter.safetensors")
    assert (tmp_path / "step-000002", state_at(2)) == open_newest(tmp_path)


async def test_no_whole_checkpoint(check_error: ErrorCheck, tmp_path: Path) -> None:
    """A folder without a whole checkpoint says so and what to do."""
    path = await write(tmp_path, 1)
    delete(path / "state.json")
    with pytest.raises(InputError) as caught:
        open_newest(tmp_path)
    check_error(caught, tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"step": 2}', "Object missing required field `drawn`"),
        ('{"step": 2, "drawn": 1, "watch": {}}', "Object contains unknown field `watch`"),
        ('{"step": 2, "drawn": "x"}', "Expected `int`, got `str` - at `$.drawn`"),
    ],
)
async def test_state_of_another_program_is_passed_over(tmp_path: Path, text: str, why: str) -> None:
    """A state with other fields, of an older or newer program, is named and passed over."""
    newer = await write(tmp_path, 2)
    write_state(newer, text)
    assert is_whole(newer)
    with pytest.raises(InputError) as caught:
        open_newest(tmp_path)
    assert (
        f"{tmp_path} holds no checkpoint that this program can continue (step-000002/state.json: "
        f"{why}); start a new run instead"
    ) == str(caught.value)
    older = await write(tmp_path, 1)
    assert (older, state_at(1)) == open_newest(tmp_path)


async def test_state_that_its_owner_refuses_is_passed_over(tmp_path: Path) -> None:
    """What only another part can read is shown to it; one that it refuses is not continued."""
    for step in (1, 2):
        await write(tmp_path, step)
    seen: list[int] = []

    def accept(state: Counted) -> None:
        seen.append(state.step)
        if bytes(state.inner) != b'{"own": 1}':
            raise InputError("not mine")

    path, state = open_checkpoint(tmp_path, Counted, accept=accept)
    assert (tmp_path / "step-000001", state_at(1), [2, 1]) == (path, state, seen)
    shutil.rmtree(tmp_path / "step-000001")
    with pytest.raises(InputError, match=r"can continue \(step-000002/state.json: not mine\)"):
        open_checkpoint(tmp_path, Counted, accept=accept)


async def test_checkpoint_with_weights_that_are_not_finite_is_passed_over(tmp_path: Path) -> None:
    """Training cannot go on from NaN; an older checkpoint is taken, or the tensor is named."""

    async def save(value: float, folder: Path) -> None:
        (folder / "adapter").mkdir()
        weights = {"b": torch.full((2, 2), value)}
        save_file(weights, folder / "adapter" / "adapter_model.safetensors")
        save_file({"rng": torch.zeros(3, dtype=torch.uint8)}, folder / "optimizer.safetensors")

    for step, value in ((1, 0.5), (2, float("nan"))):
        await write_checkpoint(tmp_path, state_at(step), save=partial(save, value), keep=5)
    assert (tmp_path / "step-000001", state_at(1)) == open_newest(tmp_path)
    shutil.rmtree(tmp_path / "step-000001")
    broken = tmp_path / "step-000002" / "adapter" / "adapter_model.safetensors"
    with pytest.raises(InputError) as caught:
        open_newest(tmp_path)
    assert f"can continue ({broken} holds numbers that are not finite" in str(caught.value)
    assert "the first in b;" in str(caught.value)


def write_state(path: Path, text: str) -> None:
    """Put another state into a checkpoint, which stays whole."""
    (path / "state.json").write_text(text)
    manifest = json.loads((path / "manifest.json").read_bytes())
    digest = hashlib.sha256(text.encode()).hexdigest()
    manifest["files"]["state.json"] = [len(text), digest]
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("bug")])
@pytest.mark.parametrize("written", [0, 1, 2])
async def test_save_that_fails_leaves_the_earlier_one(
    tmp_path: Path, error: Exception, written: int
) -> None:
    """A trainer that fails before, between or after its files makes no checkpoint."""
    older = await write(tmp_path, 1)

    async def fail(folder: Path) -> None:
        for name in ("a.bin", "b.bin")[:written]:
            (folder / name).write_bytes(b"x" * 100)
        raise error

    expected = RunError if isinstance(error, OSError) else KeyError
    with pytest.raises(expected):
        await write_checkpoint(tmp_path, state_at(2), save=fail, keep=1)
    assert [older] == find_checkpoints(tmp_path)
    assert (older, state_at(1)) == open_newest(tmp_path)


PLACES: list[tuple[Any, str]] = [
    (Path, "mkdir"),
    (Path, "write_bytes"),
    (hashlib, "file_digest"),
    (Path, "rename"),
    (os, "fsync"),
]


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=lambda value: str(value))
async def test_any_failing_call_leaves_whole_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """Whichever call of whichever kind fails: a named error, and a whole checkpoint to go on from.

    The second one is there only if it is whole, and after the fault is gone it can be written.
    """
    await write(tmp_path, 1)
    call = getattr(owner, name)
    messages: list[str] = []
    for allowed in range(20):
        left = iter(range(allowed))

        def fail(*given: Any, left: Any = left, **named: Any) -> Any:
            if next(left, None) is None:
                raise OSError(28, "No space left on device")
            return call(*given, **named)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            try:
                await write(tmp_path, 2)
            except RunError as error:
                messages.append(str(error))
            else:
                break
        assert all(is_whole(path) for path in find_checkpoints(tmp_path))
        assert open_newest(tmp_path)[1].step in (1, 2)
        shutil.rmtree(tmp_path / "step-000002", ignore_errors=True)
    assert 1 <= len(messages) < 19
    assert {f"cannot write checkpoint {tmp_path / 'step-000002'}: No space left on device"} == set(
        messages
    )
    assert (tmp_path / "step-000002", state_at(2)) == open_newest(tmp_path)


async def test_left_over_of_a_kill_is_no_checkpoint(tmp_path: Path) -> None:
    """What was being written when the process died is passed over, then written afresh."""
    await write(tmp_path, 1)
    partial = tmp_path / ".step-000002.partial"
    partial.mkdir()
    (partial / "stale.bin").write_bytes(b"x")
    assert state_at(1) == open_newest(tmp_path)[1]
    path = await write(tmp_path, 2)
    assert not (path / "stale.bin").exists()
    assert not partial.exists()


async def test_everything_is_synced_before_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file, the manifest last, is on disk before the folder gets its name."""
    events: list[str] = []
    rename = Path.rename

    def note_sync(path: Path) -> None:
        events.append(path.name)
        sync(path)

    def note_rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr("trustee.runs.checkpoint.sync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    await write(tmp_path, 1)
    assert [
        "adapter.safetensors",
        "moments.bin",
        "state.json",
        "manifest.json",
        ".step-000001.partial",
        "rename",
        tmp_path.name,
    ] == events


async def test_manifest_without_a_state_is_no_checkpoint(tmp_path: Path) -> None:
    """A manifest that lists nothing, or not the state, vouches for nothing."""
    older = await write(tmp_path, 1)
    newer = await write(tmp_path, 2)
    for files in ({}, {"adapter.safetensors": [0, ""]}):
        (newer / "manifest.json").write_text(json.dumps({"files": files}))
        (newer / "adapter.safetensors").write_bytes(b"")
        (newer / "state.json").unlink(missing_ok=True)
        assert not is_whole(newer)
        assert (older, state_at(1)) == open_newest(tmp_path)


async def test_passed_over_checkpoints_are_told(tmp_path: Path) -> None:
    """Each is named with what is wrong, newest first."""
    for step in range(1, 4):
        await write(tmp_path, step)
    shorten(tmp_path / "step-000003" / "state.json")
    write_state(tmp_path / "step-000002", '{"step": 2, "drawn": 1, "clock": 3}')
    told: list[str] = []
    assert state_at(1) == open_checkpoint(tmp_path, Counted, tell=told.append)[1]
    assert [
        f"{tmp_path / 'step-000003'} is damaged and passed over",
        f"{tmp_path / 'step-000002'} is passed over, because it cannot be continued: Object "
        "contains unknown field `clock`",
    ] == told


async def test_later_checkpoints_give_way(tmp_path: Path) -> None:
    """Those that a run went back behind count neither as the newest nor as kept."""
    for step in (1, 2, 7):
        await write(tmp_path, step)
    shorten(tmp_path / "step-000007" / "state.json")
    assert state_at(2) == open_newest(tmp_path)[1]
    await write(tmp_path, 3, keep=1)
    assert [tmp_path / "step-000003"] == find_checkpoints(tmp_path)


def hash_slowly(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Have hashing wait; return what is set when it begins, and what lets it end."""
    begun, ended = threading.Event(), threading.Event()

    def hash_waiting(path: Path) -> tuple[int, str]:
        begun.set()
        assert ended.wait(20)
        return hash_file(path)

    monkeypatch.setattr(checkpoint, "hash_file", hash_waiting)
    return begun, ended


async def test_other_work_goes_on_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing does not block the event loop."""
    begun, ended = hash_slowly(monkeypatch)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, tmp_path, 1)
        assert await anyio.to_thread.run_sync(begun.wait, 20)
        assert [] == find_checkpoints(tmp_path)
        ended.set()
    assert [tmp_path / "step-000001"] == find_checkpoints(tmp_path)


async def test_cancelled_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cancels waits until it has its name; no thread writes afterwards."""
    begun, ended = hash_slowly(monkeypatch)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, tmp_path, 1)
        assert await anyio.to_thread.run_sync(begun.wait, 20)
        tasks.cancel_scope.cancel()
        ended.set()
    assert state_at(1) == open_newest(tmp_path)[1]

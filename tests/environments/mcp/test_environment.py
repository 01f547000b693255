"""Episodes against MCP servers: what is offered, who is to blame, what is left behind."""

from __future__ import annotations

import json
import os
import random
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from golden_errors import ErrorCheck
from mcp_stage import Stage, call, calling, contents, write_rows
from mcp_stage import tasks as tasks
from trustee.environments.mcp.environment import Mcp, Played
from trustee.environments.protocol import Services
from trustee.errors import InputError, ServerError
from trustee.types import Message, Outcome, Role, Score, Stop, ToolCall, Trajectory

TESTS = Path(__file__).parents[2]
RAW = (sys.executable, str(TESTS / "raw_mcp_server.py"))
PLAIN: dict[str, Any] = {"reserve_one_in": 1000, "prompts": "tiny"}
"""Every row is for training, and the scripted judge knows the words."""
FILES = (sys.executable, "-m", "filesystem_mcp", "{folder}")

pytestmark = pytest.mark.anyio


class Checked(Mcp, frozen=True):
    """A world of the user's own: it pays for what the server has left in the episode's folder."""

    async def score_episode(self, played: Played, services: Services) -> Score:
        """Pay for the file that was asked for, as the server itself reads it."""
        assert played.folder is not None
        wanted = played.task.hidden["hidden"]
        path = played.folder / wanted["path"]
        there = path.is_file() and path.read_text() == wanted["text"]
        read = await played.session.call("read_file", {"path": str(path)})
        same = there and wanted["text"] in read.text
        return Score(rewards={"file": float(same)}, outcome=Outcome(success=same))


def row(query: str = "do it", call: str = "count") -> dict[str, Any]:
    """Write a row that a call solves."""
    return {"query": query, "calls": [{"name": call, "arguments": {}}]}


async def test_only_read_only_tools_are_offered(tmp_path: Path, tasks: TaskGroup) -> None:
    """What sounds like reading is not offered without the server's word, nor what writes."""
    world = Mcp(tasks=write_rows(tmp_path, row()), command=RAW, **PLAIN)
    task = await Stage(world, tasks, calling()).write()
    names = {tool.name for tool in task.tools}
    assert {"find_place", "count"} <= names
    assert not {"list_notes", "add_note", "get_rid_of"} & names


async def test_a_call_that_is_not_offered_never_reaches_the_server(
    tmp_path: Path, tasks: TaskGroup
) -> None:
    """The server counts its calls: those of tools outside the list are not among them."""
    world = Mcp(tasks=write_rows(tmp_path, row()), command=RAW, tools=("count",), **PLAIN)
    stage = Stage(
        world, tasks, calling(call("add_note", text="x"), call("count", x=1), call("count"))
    )
    played = await stage.play(await stage.write())
    assert played.failure is None
    refused, wrong, counted = contents(played)
    assert "no tool" in refused
    assert "does not take" in wrong
    assert counted == "1"


async def test_each_episode_has_a_server_of_its_own(tmp_path: Path, tasks: TaskGroup) -> None:
    """What one episode changes, no other one sees, whether one after the other or at once."""
    world = Mcp(
        tasks=write_rows(tmp_path, row()),
        command=RAW,
        tools=("add_note", "list_notes"),
        **PLAIN,
    )
    stage = Stage(world, tasks, calling(call("add_note", text="x"), call("list_notes")))
    task = await stage.write()
    found: list[Trajectory] = []

    async def play() -> None:
        found.append(await stage.play(task))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(play)
    assert [["done", '["x"]']] * 3 == [contents(played) for played in found]


@pytest.mark.parametrize(
    ("tool", "named"),
    [
        ("die", "no disk left"),
        ("hang", "did not answer"),
        ("flood", "8 MiB"),
        ("chatter", "rubbish"),
    ],
)
async def test_a_server_that_fails_is_to_blame(
    tool: str, named: str, tmp_path: Path, tasks: TaskGroup
) -> None:
    """The episode failed by the world: nothing in it is trained on, and its turns are kept."""
    world = Mcp(
        tasks=write_rows(tmp_path, row()),
        command=RAW,
        seconds=2 if tool == "hang" else 30,
        **PLAIN,
    )
    stage = Stage(world, tasks, calling(call("count"), call(tool)))
    before = processes()
    played = await stage.play(await stage.write())
    assert played.failure is not None
    assert (Role.WORLD, "ServerError") == (played.failure.source, played.failure.kind)
    assert named in played.failure.message
    assert (Stop.FAILED, {}, ["1"]) == (played.stop, played.rewards, contents(played))
    assert processes() == before


@pytest.mark.parametrize("mode", ["die", "hang", "nonsense"])
async def test_a_server_that_does_not_start_is_to_blame(
    mode: str, tmp_path: Path, tasks: TaskGroup
) -> None:
    """The task is not written, by the world's fault; the run goes on."""
    world = Mcp(
        tasks=write_rows(tmp_path, row()),
        command=(*RAW, mode),
        start_seconds=2 if mode == "hang" else 30,
        **PLAIN,
    )
    with pytest.raises(ServerError) as caught:
        await Stage(world, tasks, calling()).write()
    assert caught.value.source is Role.WORLD


async def test_a_long_answer_is_cut(tmp_path: Path, tasks: TaskGroup) -> None:
    """The policy sees the beginning and the end, and how much is left out."""
    world = Mcp(tasks=write_rows(tmp_path, row()), command=RAW, result_chars=100, **PLAIN)
    stage = Stage(world, tasks, calling(call("long"), call("refuse")))
    long, refused = contents(await stage.play(await stage.write()))
    assert long == "ab" * 25 + " [99900 characters cut] " + "ab" * 25
    assert json.loads(refused) == {"error": "not today"}


async def test_files_of_a_real_server(
    tmp_path: Path, tasks: TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server from the package index works in a copy, which is gone afterwards.

    The policy reads and writes paths under `/files`, and a checker of the user's pays for what is
    in the copy at the end.
    """
    # Other tests make such folders at the same time.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "a.txt").write_text("alpha")
    (tmp_path / "secret.txt").write_text("secret")
    (seed / "link.txt").symlink_to(tmp_path / "secret.txt")
    world = Checked(
        tasks=write_rows(
            tmp_path,
            {"query": "copy a.txt to b.txt", "hidden": {"path": "b.txt", "text": "alpha"}},
        ),
        command=FILES,
        files=str(seed),
        tools=("*",),
        **PLAIN,
    )
    assert world.judge_rules() is None, "the world scores by itself"
    before = left_folders()
    stage = Stage(
        world,
        tasks,
        calling(
            call("list_directory", path="/files"),
            call("read_file", path="/files/a.txt"),
            call("write_file", path="/files/b.txt", content="alpha"),
            call("write_file", path="/files/link.txt", content="gone"),
            call("read_file", path=str(tmp_path / "secret.txt")),
        ),
    )
    played = await stage.play(await stage.write())
    assert played.failure is None
    listed, read, written, _, outside = contents(played)
    assert {"a.txt", "link.txt"} == {entry["name"] for entry in json.loads(listed)["entries"]}
    assert json.loads(listed)["path"] == "/files"
    assert json.loads(read)["content"] == "alpha"
    assert json.loads(written)["path"] == "/files/b.txt"
    assert "not allowed" in json.loads(outside)["error"]
    assert (1.0, True) == (played.reward, played.success)
    assert {"a.txt", "link.txt"} == {path.name for path in seed.iterdir()}
    assert (tmp_path / "secret.txt").read_text() == "secret"
    assert left_folders() == before


async def test_nobody_else_s_episode_pays(tmp_path: Path, tasks: TaskGroup) -> None:
    """An episode that leaves the file unwritten gets nothing from the checker."""
    world = Checked(
        tasks=write_rows(tmp_path, {"query": "q", "hidden": {"path": "b.txt", "text": "x"}}),
        command=FILES,
        tools=("*",),
        **PLAIN,
    )
    stage = Stage(world, tasks, calling(call("write_file", path="/files/b.txt", content="y")))
    played = await stage.play(await stage.write())
    assert (None, 0.0, False) == (played.failure, played.reward, played.success)


@pytest.mark.parametrize("waits", [0.0, 0.3])
async def test_an_episode_that_is_cancelled_leaves_nothing(
    waits: float, tmp_path: Path, tasks: TaskGroup
) -> None:
    """Neither a process nor a folder outlives an episode, wherever it is broken off."""
    world = Mcp(tasks=write_rows(tmp_path, row()), command=RAW, **PLAIN)
    stage = Stage(world, tasks, calling(call("hang")))
    task = await stage.write()
    before = processes()
    environment = world.environment(task, stage.serve(random.Random(0)))
    with anyio.move_on_after(waits):
        await environment.open()
        hanging = ToolCall(id="c", name="hang", arguments={})
        await environment.reply(Message(role="assistant", calls=(hanging,)))
    await environment.aclose()
    assert processes() == before


def processes() -> set[str]:
    """Return the processes that this one has started."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def left_folders() -> set[Path]:
    """Return the folders of episodes that are there."""
    return set(Path(tempfile.gettempdir()).glob("trustee-files-*"))


def refuse(folder: Path, **changes: Any) -> InputError:
    """Return the error with which a world is refused before it is played."""
    settings: dict[str, Any] = {"command": RAW, **PLAIN, **changes}
    if "tasks" not in settings:
        settings["tasks"] = write_rows(folder, row())
    with pytest.raises(InputError) as caught:
        Mcp(**settings).check(seed=0)
    return caught.value


NO_CALLS: Sequence[dict[str, Any]] = [{"query": "q"}]
WRITES: Sequence[dict[str, Any]] = [row(call="add_note")]
UNKNOWN: Sequence[dict[str, Any]] = [{"query": "q", "cals": []}]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"command": ()}, "neither"),
        ({"url": "http://127.0.0.1:1/"}, "both"),
        ({"command": (), "url": "ftp://x"}, "http://"),
        ({"command": (), "url": "http://127.0.0.1:1/", "files": "x"}, "files"),
        ({"bearer": "TOKEN"}, "bearer"),
        ({"prompts": "published"}, "published"),
        ({"tools": ("no_such_*",)}, "no_such_*"),
        ({"command": (*RAW, "empty")}, "no tools"),
        ({"command": (*RAW, "writes")}, "read-only"),
        ({"command": (*RAW, "die")}, "no disk left"),
        ({"rows": NO_CALLS}, "calls is empty"),
        ({"rows": WRITES}, "add_note"),
        ({"rows": UNKNOWN}, "cals"),
        ({"rows": []}, "no rows"),
        ({"reserve_one_in": 1}, "reserve_one_in"),
        ({"tasks": "/no/such/file"}, "/no/such/file"),
    ],
)
def test_a_world_that_cannot_be_played_is_refused(
    changes: dict[str, Any], named: str, tmp_path: Path, check_error: ErrorCheck
) -> None:
    """Before anything is loaded, with the key and what to give."""
    if "rows" in changes:
        changes = {"tasks": write_rows(tmp_path, *changes["rows"])}
    message = str(refuse(tmp_path, **changes))
    message = re.sub(r"mcp:\S+ \S+raw_mcp_server.py", "{server}", message)
    check_error(message, named)


def test_a_check_says_what_is_not_offered(tmp_path: Path) -> None:
    """Before the run starts, its user reads which tools are kept back."""
    world = Mcp(tasks=write_rows(tmp_path, row()), command=RAW, **PLAIN)
    (text,) = world.check(seed=0)
    assert "get_rid_of, list_notes, add_note" in text

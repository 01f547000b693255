"""Episodes against servers from the package indexes, each in a folder of its own.

Two come with the tests' requirements. The protocol's own reference servers run on Node.js:

    npm install --prefix DIR @modelcontextprotocol/server-{filesystem,memory}
    TRUSTEE_NODE_SERVERS=DIR make quick ARGS="-k real_servers"
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from anyio.abc import TaskGroup

from mcp_stage import Stage, call, calling, contents, write_rows
from mcp_stage import tasks as tasks
from trustee.environments.mcp.environment import Mcp
from trustee.errors import InputError
from trustee.tools.files.notices import Notices
from trustee.tools.mcp.address import parse_server
from trustee.tools.mcp.listing import import_from_server
from trustee.tools.selection import Selection

pytestmark = pytest.mark.anyio

MEMORY = (sys.executable, "-m", "mcp_kb_sqlite.server")
NODE = os.environ.get("TRUSTEE_NODE_SERVERS", "")
on_node = pytest.mark.skipif(
    not NODE or shutil.which("node") is None, reason="TRUSTEE_NODE_SERVERS names no servers"
)


def node(name: str, *arguments: str) -> tuple[str, ...]:
    """Write the command of a server that runs on Node.js."""
    return ("node", f"{NODE}/node_modules/.bin/{name}", *arguments)


async def test_a_memory_server_forgets_between_episodes(tmp_path: Path, tasks: TaskGroup) -> None:
    """Its store lies in the episode's folder, so what one episode saves no other one finds."""
    world = Mcp(
        tasks=write_rows(
            tmp_path,
            {"query": "Remember the code.", "calls": [call("search", query="code")]},
        ),
        command=MEMORY,
        variables={"DB_PATH": "{folder}/kb.db"},
        tools=("save", "search"),
        reserve_one_in=1000,
        prompts="tiny",
    )
    stage = Stage(
        world,
        tasks,
        calling(
            call("search", query="code"),
            call("save", ns="a", key="k", title="The code is 7351"),
            call("search", query="code"),
        ),
    )
    task = await stage.write()
    assert {"save", "search"} == {tool.name for tool in task.tools}
    for _ in range(2):
        played = await stage.play(task)
        assert (None, 1.0) == (played.failure, played.reward)
        before, saved, after = contents(played)
        assert (before, saved.startswith("Created")) == ("No results.", True)
        assert "The code is 7351" in after


def test_a_server_without_hints_offers_nothing_by_itself(tmp_path: Path) -> None:
    """Its author did not say what is read-only, so the user has to."""
    world = Mcp(
        tasks=write_rows(tmp_path, {"query": "q", "calls": [call("search", query="x")]}),
        command=MEMORY,
        variables={"DB_PATH": "{folder}/kb.db"},
        reserve_one_in=1000,
    )
    with pytest.raises(InputError, match=r"read-only.*save, get, search"):
        world.check(seed=0)


@on_node
def test_tools_of_the_reference_servers() -> None:
    """All are read, with the effects that the servers declare."""
    command = " ".join(node("mcp-server-filesystem", "/tmp"))
    tools = import_from_server(parse_server(f"mcp:{command}"), Selection(), notices=Notices())
    effects = {tool.name: tool.effect for tool in tools}
    assert len(effects) >= 11
    assert {"read_text_file": "read", "write_file": "write", "edit_file": "write"}.items() <= (
        effects.items()
    )


@on_node
async def test_the_reference_file_server(tmp_path: Path, tasks: TaskGroup) -> None:
    """It reads and writes the copy, says where it is under one name, and cannot leave it."""
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "a.txt").write_text("alpha")
    (tmp_path / "secret.txt").write_text("secret")
    world = Mcp(
        tasks=write_rows(
            tmp_path, {"query": "q", "calls": [call("read_text_file", path="/files/a.txt")]}
        ),
        command=node("mcp-server-filesystem", "{folder}"),
        files=str(seed),
        tools=("list_allowed_*", "read_text_file", "write_file"),
        reserve_one_in=1000,
        prompts="tiny",
    )
    stage = Stage(
        world,
        tasks,
        calling(
            call("list_allowed_directories"),
            call("read_text_file", path="/files/a.txt"),
            call("read_text_file", path="a.txt"),
            call("write_file", path="/files/b.txt", content="beta"),
            call("read_text_file", path=str(tmp_path / "secret.txt")),
        ),
    )
    played = await stage.play(await stage.write())
    assert played.failure is None
    allowed, read, relative, written, outside = contents(played)
    assert allowed.endswith("/files")
    assert (read, relative) == ("alpha", "alpha")
    assert "/files/b.txt" in written
    assert "secret" not in json.loads(outside)["error"].replace("secret.txt", "")
    assert [path.name for path in seed.iterdir()] == ["a.txt"]


@on_node
async def test_the_reference_memory_server(tmp_path: Path, tasks: TaskGroup) -> None:
    """Its graph lies in the episode's folder."""
    entity = {"name": "Ada", "entityType": "person", "observations": ["likes tea"]}
    world = Mcp(
        tasks=write_rows(tmp_path, {"query": "q", "calls": [call("search_nodes", query="Ada")]}),
        command=node("mcp-server-memory"),
        variables={"MEMORY_FILE_PATH": "{folder}/memory.jsonl"},
        tools=("create_entities", "search_nodes"),
        reserve_one_in=1000,
        prompts="tiny",
    )
    stage = Stage(
        world,
        tasks,
        calling(
            call("search_nodes", query="Ada"),
            call("create_entities", entities=[entity]),
            call("search_nodes", query="Ada"),
        ),
    )
    task = await stage.write()
    for _ in range(2):
        before, _, after = contents(await stage.play(task))
        assert "tea" not in before
        assert "likes tea" in after

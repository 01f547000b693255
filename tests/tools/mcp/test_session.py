"""Sessions with the `mcp` package's own server, through pipes and HTTP, and with a bad one."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trustee.tools.files.notices import Notices
from trustee.tools.mcp.address import McpServer, parse_server
from trustee.tools.mcp.fate import ServerFailed
from trustee.tools.mcp.listing import import_from_server
from trustee.tools.mcp.session import Answer, Session, use_server
from trustee.tools.selection import Selection

TESTS = Path(__file__).parents[2]
RAW = McpServer(command=(sys.executable, str(TESTS / "raw_mcp_server.py")))
OWN = McpServer(command=(sys.executable, str(TESTS / "library_mcp_server.py")))
SECONDS = 60.0


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve the package's own server over HTTP; its socket listens before it starts."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [*OWN.command, str(listening.fileno())]
        process = subprocess.Popen(command, pass_fds=[listening.fileno()])
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        process.terminate()
        process.wait(20)


async def call_all(session: Session) -> list[Answer]:
    """Write, read, and make two calls that go wrong."""
    return [
        await session.call("put", {"parts": [{"name": "nut", "count": 2}]}),
        await session.call("look_up", {"name": "nut"}),
        await session.call("get_broken", {}),
        await session.call("look_up", {"nome": "nut"}),
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("over", ["pipes", "http"])
async def test_calls_of_the_package_s_own_server(over: str, request: pytest.FixtureRequest) -> None:
    """Answers come back as text, and what a server says of a bad call is an answer, too."""
    server = OWN if over == "pipes" else McpServer(url=request.getfixturevalue("address"))
    put, found, broken, wrong = await use_server(server, call_all, seconds=SECONDS)
    assert put == Answer(text="1 kinds put", failed=False)
    assert not found.failed
    assert '"count": 2' in found.text.replace('":2', '": 2')
    assert (True, True) == (broken.failed, wrong.failed)
    assert "get_broken" in broken.text


def test_schemas_of_pydantic_stay_whole(address: str) -> None:
    """Definitions, references, alternatives and hints come through, over HTTP as through pipes."""
    read = [
        import_from_server(server, Selection(), notices=Notices(), seconds=SECONDS)
        for server in (OWN, parse_server(address))
    ]
    assert read[0] == read[1]
    tools = {tool.name: tool for tool in read[0]}
    assert tools["put"].parameters["properties"]["parts"]["items"] == {"$ref": "#/$defs/Part"}
    assert tools["put"].parameters["$defs"]["Part"]["properties"]["count"]["minimum"] == 1
    assert {"type": "null"} in tools["look_up"].parameters["properties"]["near"]["anyOf"]
    effects = {name: tool.effect for name, tool in tools.items()}
    assert effects == {"look_up": "read", "put": "write", "get_broken": "read"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("tool", "named"),
    [
        ("die", "exit code 3.*no disk left"),
        ("hang", "did not answer the call of hang in 2 s"),
        ("flood", "8 MiB"),
        ("chatter", "rubbish"),
    ],
)
async def test_a_server_that_fails_in_a_call(tool: str, named: str) -> None:
    """Whatever happens while a call waits, it ends, and says why."""

    async def call(session: Session) -> Answer:
        return await session.call(tool, {})

    with pytest.raises(ServerFailed, match=named):
        await use_server(RAW, call, seconds=2.0 if tool == "hang" else SECONDS)


@pytest.mark.anyio
async def test_answers_that_are_no_text() -> None:
    """A picture is named, an error that the server gives is its answer, a refusal likewise."""

    async def call(session: Session) -> list[Answer]:
        return [await session.call(name, {}) for name in ("picture", "refuse", "broken")]

    picture, refused, broken = await use_server(RAW, call, seconds=SECONDS)
    assert picture.text == "[image of type image/png, 3 bytes]"
    assert refused == Answer(text="not today", failed=True)
    assert broken == Answer(text="no such tool", failed=True)


@pytest.mark.anyio
async def test_nobody_is_there() -> None:
    """An address without a server is an error of the session, not of the program."""

    async def call(session: Session) -> None:
        raise AssertionError("the session cannot begin")

    with pytest.raises(ServerFailed, match="cannot be reached"):
        await use_server(McpServer(url="http://127.0.0.1:1/mcp"), call, seconds=SECONDS)

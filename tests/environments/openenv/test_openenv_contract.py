"""The other side of the contract: servers of the package `openenv` itself.

Its dependencies are many and want another version of `mcp`, so it has an environment of its own:

    python -m venv DIR && DIR/bin/pip install openenv
    git clone https://github.com/huggingface/OpenEnv
    export TRUSTEE_OPENENV_PYTHON=DIR/bin/python TRUSTEE_OPENENV_ENVS=OpenEnv
    make quick ARGS="-k openenv_contract"
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from mcp_stage import call, calling, contents
from scripts import cast, make_player, make_simulator
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.openenv.environment import OpenEnv
from trustee.environments.protocol import Services
from trustee.types import Message, Stop, ToolCall, Trajectory

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("TRUSTEE_OPENENV_PYTHON", "")
ENVS = os.environ.get("TRUSTEE_OPENENV_ENVS", "")
SERVE = """
import importlib, sys, uvicorn
app = importlib.import_module(sys.argv[1]).app
uvicorn.run(app, fd=int(sys.argv[2]), log_level="error", ws_ping_interval=0.5, ws_ping_timeout=1.5)
"""
"""Pings come often and are waited for briefly: who does not answer them is cut off."""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not PYTHON, reason="TRUSTEE_OPENENV_PYTHON names no Python with openenv"),
]
with_envs = pytest.mark.skipif(not ENVS, reason="TRUSTEE_OPENENV_ENVS names no environments")


@contextmanager
def served(module: str) -> Iterator[str]:
    """Serve an app of the package; its socket listens before it starts."""
    paths = [str(ROOT / "examples"), ENVS, os.environ.get("PYTHONPATH", "")]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = subprocess.Popen(
            [PYTHON, "-c", SERVE, module, str(listening.fileno())],
            pass_fds=[listening.fileno()],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
async def tasks() -> AsyncIterator[TaskGroup]:
    """Open the tasks of a job."""
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


async def play(world: OpenEnv, tasks: TaskGroup, *calls: dict[str, Any]) -> Trajectory:
    """Play an episode of these calls."""
    engine = ScriptedEngine(cast(calling(*calls)))

    def serve(rng: random.Random) -> Services:
        return Services(simulator=make_simulator(engine), rng=rng, background=tasks)

    source = world.source(seed=0)
    spec = source.draw()
    assert spec is not None
    task = await source.write(spec, serve(random.Random(0)))
    player = make_player(world.environment, engine, serve=serve)
    return await player.play(task, trajectory_id="0/0", adapter=None, seed=0)


@with_envs
async def test_echo_env(tasks: TaskGroup) -> None:
    """Its tools are listed and called, and its first observation says nothing by itself."""
    with served("envs.echo_env.server.app") as url:
        world = OpenEnv(url=url, prompts="tiny", query="Say it back.", seconds=120)
        played = await play(
            world,
            tasks,
            call("echo_message", message="hello"),
            call("echo_with_length", message="four"),
            call("echo_message", text="wrong"),
        )
    assert (None, Stop.DONE) == (played.failure, played.stop)
    echoed, counted, wrong = contents(played)
    assert echoed == "hello"
    assert '"length":4' in counted.replace(" ", "")
    assert "echo_message" in wrong


@with_envs
async def test_grid_world_env(tasks: TaskGroup) -> None:
    """Its actions are no calls of tools, so they become one tool; the goal ends the episode."""
    moves = [call("act", action=move) for move in ("DOWN", "SIDEWAYS", *["DOWN"] * 3)]
    with served("envs.grid_world_env.server.app") as url:
        world = OpenEnv(url=url, prompts="tiny", pays="last", seconds=120)
        played = await play(world, tasks, *moves)
    assert played.failure is None
    first, wrong, *_ = contents(played)
    assert '"x": 1' in first
    assert "SIDEWAYS" in wrong
    assert played.reward == pytest.approx(-0.1)


async def test_lamps_pay_and_end(tasks: TaskGroup) -> None:
    """Splits, tools, rewards and the end of an environment with MCP tools."""
    with served("openenv_lamps") as url:
        world = OpenEnv(url=url, prompts="tiny", seconds=120)
        source = world.source(seed=0)
        spec = source.draw()
        assert spec is not None
        services = Services(
            simulator=make_simulator(ScriptedEngine(lambda request: "")),
            rng=random.Random(0),
            background=tasks,
        )
        task = await source.write(spec, services)
        words = task.messages[1].content.split(" and ")
        calls = [
            ToolCall(id=str(n), name="set_lamp", arguments={"room": w[2], "level": int(w[4])})
            for n, w in enumerate(part.split() for part in words)
        ]
        environment = world.environment(task, services)
        await environment.open()
        half = await environment.reply(Message(role="assistant", calls=tuple(calls[:2])))
        # Pings of the server go on meanwhile, as in a training step.
        await anyio.sleep(4)
        whole = await environment.reply(Message(role="assistant", calls=tuple(calls[2:])))
        score = await environment.score((), Stop.DONE)
        await environment.aclose()
    assert {"set_lamp", "read_lamp"} == {tool.name for tool in task.tools}
    assert (False, True) == (half.done, whole.done)
    assert (1.0, True) == (sum(score.rewards.values()), score.outcome.success)

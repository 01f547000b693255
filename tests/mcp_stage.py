"""What tests of episodes against MCP servers share: the tasks of a job, scripted policies."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from scripts import TURN, cast, make_player, make_simulator, write_calls
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.mcp.environment import Mcp
from trustee.environments.protocol import Services
from trustee.types import Task, Trajectory


@pytest.fixture
async def tasks() -> AsyncIterator[TaskGroup]:
    """Open the tasks of a job."""
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


def write_rows(folder: Path, *rows: dict[str, Any]) -> str:
    """Write a file of rows."""
    path = folder / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


class Stage:
    """A world, and what its episodes are played with."""

    def __init__(self, world: Mcp, tasks: TaskGroup, policy: Callable[[Request], str]) -> None:
        self.world = world
        self.tasks = tasks
        self.engine = ScriptedEngine(cast(policy))

    def serve(self, rng: random.Random) -> Services:
        """Give services of a job."""
        simulator = make_simulator(self.engine)
        return Services(simulator=simulator, rng=rng, background=self.tasks)

    async def write(self) -> Task:
        """Write the first task."""
        source = self.world.source(seed=0)
        spec = source.draw()
        assert spec is not None
        return await source.write(spec, self.serve(random.Random(0)))

    async def play(self, task: Task) -> Trajectory:
        """Play an episode."""
        player = make_player(self.world.environment, self.engine, serve=self.serve)
        return await player.play(task, trajectory_id="0/0", adapter=None, seed=0)


def calling(*calls: dict[str, Any]) -> Callable[[Request], str]:
    """Give a policy that makes these calls one after the other, then says the last answer."""

    def policy(request: Request) -> str:
        turns = TURN.findall(request.prompt)
        made = sum(role == "assistant" for role, _ in turns)
        return write_calls([calls[made]]) if made < len(calls) else f"It is {turns[-1][1]}."

    return policy


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """Write a call."""
    return {"name": name, "arguments": arguments}


def contents(played: Trajectory) -> list[str]:
    """Return what the tools answered."""
    return [reply.content for turn in played.turns for reply in turn.replies]

"""An OpenEnv server of one's own: lamps are to be set, and each that is set right pays.

    python -m venv .venv-openenv && .venv-openenv/bin/pip install openenv
    .venv-openenv/bin/python examples/openenv_lamps.py &
    trustee run --config examples/openenv_lamps.toml

It needs the package `openenv` alone, in an environment of its own: its dependencies are many.
"""

# mypy: ignore-errors
from __future__ import annotations

import os
import random

import uvicorn
from fastmcp import FastMCP
from openenv.core.env_server import create_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Observation, State

ROOMS = ("hall", "attic", "cellar", "porch", "study", "kitchen")
WANTED = 3
"""Lamps of a task."""
TASKS = {"train": 2000, "test": 200}


class Opening(Observation):
    """What the policy reads first."""

    text: str


class Lamps(MCPEnvironment):
    """Lamps in rooms."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        tools = FastMCP("lamps")
        self.wanted: dict[str, int] = {}
        self.levels: dict[str, int] = {}
        self._state = State()

        @tools.tool(description="write the level of the lamp")
        def set_lamp(room: str, level: int) -> str:
            self.levels[room] = level
            return f'{{"level": {level}}}'

        @tools.tool(description="read the level of the lamp")
        def read_lamp(room: str) -> str:
            return f'{{"level": {self.levels.get(room, 1)}}}'

        super().__init__(tools)

    def list_splits(self):
        """Name the splits."""
        return [{"name": name, "type": name} for name in TASKS]

    def num_tasks(self, split):
        """Count the tasks of a split."""
        return TASKS[split]

    def reset(self, seed=None, episode_id=None, split="train", index=0, **more):
        """Ask for lamps in some rooms."""
        rng = random.Random(f"{split} {index} {seed}")
        self.wanted = {room: rng.randint(1, 30) for room in rng.sample(ROOMS, WANTED)}
        self.levels = {}
        self.paid = set()
        asked = " and ".join(f"set lamp {room} level {n}" for room, n in self.wanted.items())
        return Opening(text=asked)

    def _step_impl(self, action, timeout_s=None, **more):
        return Observation()

    async def step_async(self, action, timeout_s=None, **more):
        """Pay a quarter for each lamp that is right for the first time, and one for all."""
        seen = await super().step_async(action, timeout_s=timeout_s, **more)
        right = {room for room, level in self.wanted.items() if self.levels.get(room) == level}
        new = right - self.paid
        self.paid |= new
        seen.done = len(self.paid) == WANTED
        seen.reward = 0.25 * (len(new) + (seen.done and bool(new)))
        return seen

    @property
    def state(self):
        """The environment's own state."""
        return self._state


app = create_app(
    Lamps, CallToolAction, CallToolObservation, env_name="lamps", max_concurrent_envs=256
)

if __name__ == "__main__":
    fd = os.environ.get("LISTEN_FD")
    settings = {"fd": int(fd)} if fd else {"port": 8000}
    uvicorn.run(app, host="127.0.0.1", log_level="warning", **settings)

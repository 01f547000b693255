"""A taskset for verifiers: lamps are to be set, and each that is set right pays.

    python -m venv .venv-verifiers && .venv-verifiers/bin/pip install "verifiers>=0.4,<0.5" uv
    trustee run --config examples/verifiers_lamps.toml

Its tools are a server that all episodes share; each keeps its lamps in a state of its own.
"""

# mypy: ignore-errors
import random

import verifiers.v1 as vf

ROOMS = ("hall", "attic", "cellar", "porch", "study", "kitchen")
WANTED = 2
"""Lamps of a task."""


class LampsData(vf.TaskData):
    """A task: the levels that are asked for, by room."""

    wanted: dict[str, int] = {}


class LampsState(vf.State):
    """The lamps of an episode."""

    levels: dict[str, int] = {}


class LampsTools(vf.Toolset[vf.SharedToolsetConfig, LampsState]):
    """What can be done with a lamp."""

    TOOL_PREFIX = None

    @vf.tool
    def set_lamp(self, room: str, level: int) -> str:
        """Write the level of the lamp."""
        self.state.levels = {**self.state.levels, room: level}
        return f'{{"level": {level}}}'

    @vf.tool
    def read_lamp(self, room: str) -> str:
        """Read the level of the lamp."""
        return f'{{"level": {self.state.levels.get(room, 1)}}}'


class LampsTask(vf.Task[LampsData, LampsState]):
    """Pays for each lamp that is right at the end."""

    @vf.reward
    async def lit(self, trace: vf.Trace) -> float:
        """Return the share of the lamps that are as wanted."""
        right = [trace.state.levels.get(room) == n for room, n in self.data.wanted.items()]
        return sum(right) / len(right)


class LampsConfig(vf.TasksetConfig):
    """Which tasks there are."""

    split: str = "train"
    count: int = 2000
    tools: vf.SharedToolsetConfig = vf.SharedToolsetConfig()


class LampsTaskset(vf.Taskset[LampsTask, LampsConfig]):
    """Lamps in rooms."""

    def load(self):
        """Ask for lamps in some rooms."""
        for index in range(self.config.count):
            rng = random.Random(f"{self.config.split} {index}")
            wanted = {room: rng.randint(1, 30) for room in rng.sample(ROOMS, WANTED)}
            asked = " and ".join(f"set lamp {room} level {n}" for room, n in wanted.items())
            yield LampsTask(LampsData(prompt=asked, wanted=wanted), self.config.task)

    @classmethod
    def toolsets(cls, config):
        """Return the servers that all episodes share."""
        return [LampsTools(config.tools)]


__all__ = ["LampsTaskset"]

if __name__ == "__main__":
    LampsTools.run()

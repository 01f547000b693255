"""`trustee view`: printing the trajectories of a run."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from trustee.decoding import BadLine, read_json_lines
from trustee.errors import InputError
from trustee.runs.store import EpisodeLine, TaskLine
from trustee.types import Record, Role, Task, ToolCall, Trajectory

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "": operator.eq,
}


class Filter(Record, frozen=True):
    """Which episodes to show; a condition of None matches every episode."""

    step: int | None = None
    """Episodes whose oldest turn was sampled by the version before this step."""
    group: int | None = None
    reward: str | None = None
    """A reward or a comparison, such as `1` or `>0`."""
    failed_by: str | None = None
    """Role at which the episode failed."""
    tool: str | None = None
    """Name of a tool that the episode called."""
    limit: int = 5
    """Maximum number of episodes; 0: no limit."""

    def __post_init__(self) -> None:
        """Refuse conditions that cannot match.

        Raises:
            InputError: for an unknown role or an unreadable reward.
        """
        if self.failed_by is not None and self.failed_by not in set(Role):
            raise InputError(f"--failed-by {self.failed_by!r}: give one of {', '.join(Role)}")
        if self.reward is not None:
            parse_reward(self.reward)

    def passes(self, line: EpisodeLine) -> bool:
        """Return whether an episode meets all conditions."""
        trajectory = line.trajectory
        return (
            (self.step is None or trajectory.version == self.step - 1)
            and (self.group is None or line.group == self.group)
            and (self.failed_by is None or trajectory.failed_by == self.failed_by)
            and (self.tool is None or self.tool in called_tools(trajectory))
            and (
                self.reward is None
                or (trajectory.failure is None and parse_reward(self.reward)(trajectory.reward))
            )
        )


def parse_reward(text: str) -> Callable[[float], bool]:
    """Turn a condition such as `1`, `-1`, `>0` or `<=0.5` into a predicate.

    Raises:
        InputError: if the text is neither a number nor a comparison.
    """
    match = re.fullmatch(r"\s*(>=|<=|>|<|=|)\s*([+-]?\d+(?:\.\d+)?)\s*", text)
    if match is None:
        raise InputError(f"--reward {text!r}: give a number or a comparison, such as 1 or '>0'")
    compare, bound = COMPARISONS[match.group(1)], float(match.group(2))
    return lambda value: compare(value, bound)


def called_tools(trajectory: Trajectory) -> set[str]:
    """Return the names of the tools that an episode called."""
    return {
        call.name
        for turn in trajectory.turns
        for call in turn.message.calls
        if isinstance(call, ToolCall)
    }


def find_episodes(folder: Path, wanted: Filter) -> Iterator[EpisodeLine | BadLine]:
    """Yield the episodes of a run that pass the filter, and the lines that cannot be read.

    Raises:
        InputError: if the folder has no readable episodes.
    """
    found = 0
    for line in read_json_lines(
        folder / "episodes.jsonl",
        EpisodeLine,
        error=lambda why: InputError(f"{folder / 'episodes.jsonl'} {why}; give a run folder"),
    ):
        if isinstance(line, BadLine):
            yield line
        elif wanted.passes(line.value):
            yield line.value
            found += 1
            if found == wanted.limit:
                return


def read_tasks(folder: Path, groups: set[int]) -> tuple[dict[int, Task], list[BadLine]]:
    """Return the tasks of some groups, by group, and the lines that cannot be read."""
    path = folder / "tasks.jsonl"
    tasks: dict[int, Task] = {}
    bad: list[BadLine] = []
    for line in read_json_lines(path, TaskLine, error=lambda why: InputError(f"{path}: {why}")):
        if isinstance(line, BadLine):
            bad.append(line)
        elif line.value.group in groups and line.value.task is not None:
            tasks[line.value.group] = line.value.task
    return tasks, bad

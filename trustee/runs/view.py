"""`trustee view`: printing the trajectories of a run."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.runs.store import EpisodeLine, TaskLine
from trustee.types import Message, Record, Role, Task, ToolCall, Trajectory

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


def find_episodes(folder: Path, wanted: Filter) -> Iterator[EpisodeLine]:
    """Yield the episodes of a run that pass the filter.

    Raises:
        InputError: if the folder has no readable episodes, or a line is broken.
    """
    path = folder / "episodes.jsonl"
    found = 0
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if not text.endswith(b"\n"):
                    return
                try:
                    line = decode_json(text, EpisodeLine, error=InputError)
                except InputError as error:
                    raise InputError(f"{path}:{number}: {error}") from error
                if wanted.passes(line):
                    yield line
                    found += 1
                    if found == wanted.limit:
                        return
    except OSError as error:
        raise InputError(
            f"{folder} has no readable episodes.jsonl ({error.strerror}); give a run folder"
        ) from error


def read_tasks(folder: Path, groups: set[int]) -> dict[int, Task]:
    """Return the tasks of some groups, by group."""
    tasks: dict[int, Task] = {}
    try:
        with (folder / "tasks.jsonl").open("rb") as file:
            for text in file:
                if text.endswith(b"\n"):
                    line = decode_json(text, TaskLine, error=InputError)
                    if line.group in groups and line.task is not None:
                        tasks[line.group] = line.task
    except (OSError, InputError) as error:
        raise InputError(f"{folder / 'tasks.jsonl'} cannot be read: {error}") from error
    return tasks


MOST_SHOWN = 400
"""Maximum number of characters shown of a hidden value or note."""


def show_trajectories(folder: Path, wanted: Filter, *, out: TextIO, as_json: bool) -> None:
    """Print the episodes that pass the filter, with hidden values and the judge's reasons."""
    episodes = list(find_episodes(folder, wanted))
    tasks = read_tasks(folder, {line.group for line in episodes})
    if as_json:
        for line in episodes:
            row: dict[str, Any] = {
                "task": tasks.get(line.group),
                "reward": line.trajectory.reward,
                "episode": line,
            }
            out.write(msgspec.json.encode(row).decode() + "\n")
        return
    console = Console(file=out, highlight=False, soft_wrap=True)
    for line in episodes:
        show_episode(console, line, tasks.get(line.group))
    if not episodes:
        console.print(f"no episode of {escape(str(folder))} matches; relax the filters")


def show_episode(console: Console, line: EpisodeLine, task: Task | None) -> None:
    """Print one episode."""
    trajectory = line.trajectory
    failed_by = trajectory.failed_by
    reward = "no reward" if trajectory.failure else f"reward {trajectory.reward:+g}"
    title = f"episode {trajectory.id}  {reward}  version {trajectory.version}  {trajectory.stop}"
    console.print(Rule(title + (f"  failed by {failed_by}" if failed_by else ""), align="left"))
    if task is not None:
        tools = ", ".join(tool.signature for tool in task.tools)
        console.print(f"[dim]difficulty {task.difficulty}, tools: {escape(tools)}[/dim]")
        for key, value in task.hidden.items():
            console.print(f"[dim]hidden {key}: {escape(shorten_value(value))}[/dim]")
        for message in task.messages:
            show_message(console, message)
    trial = trajectory.outcome.trial
    phases = trial.phases if trial else ()
    # A phase is printed where it changes; turns beyond the recorded phases have none.
    for turn, (before, phase) in zip(
        trajectory.turns, pairwise(["", *phases, *[""] * len(trajectory.turns)]), strict=False
    ):
        if phase not in ("", before):
            console.print(f"  [cyan]{phase}[/cyan]")
        show_message(console, turn.message)
        for reply in turn.replies:
            show_message(console, reply)
    if trajectory.failure is not None:
        console.print(f"[red]no reward: {escape(trajectory.failure.message)}[/red]")
    for key, value in told_of(line).items():
        console.print(f"[cyan]{key}[/cyan]: {escape(shorten_value(value))}")


def told_of(line: EpisodeLine) -> dict[str, Any]:
    """Return all that is known of an episode's end besides its reward, by name."""
    known: dict[str, Any] = msgspec.to_builtins(line.trajectory.outcome) | line.trajectory.notes
    return known if line.rejected is None else known | {"rejected": str(line.rejected)}


def shorten_value(value: object) -> str:
    """Write a value, or the beginning of a long one; `--json` has it whole."""
    text = str(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} … ({len(text)} characters)"


def show_message(console: Console, message: Message) -> None:
    """Print one message."""
    if message.thinking:
        console.print(f"  [dim]thinking: {escape(message.thinking)}[/dim]")
    if message.content or not message.calls:
        console.print(f"  [bold]{message.role}[/bold]: {escape(message.content)}")
    for call in message.calls:
        if isinstance(call, ToolCall):
            arguments = msgspec.json.encode(call.arguments).decode()
            console.print(f"  [bold]calls[/bold] {escape(call.name)} {escape(arguments)}")
        else:
            console.print(f"  [red]bad call[/red] ({escape(call.reason)}): {escape(call.text)}")

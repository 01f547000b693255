"""Showing recorded episodes to people, or as JSON."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import msgspec

from trustee.cli.terminal import Page, complain, say_json
from trustee.decoding import BadLine
from trustee.runs.store import EpisodeLine
from trustee.runs.view import Filter, find_episodes, read_tasks
from trustee.types import Message, Task, ToolCall

MOST_SHOWN = 400
"""Maximum number of characters shown of a hidden value or note."""


def show_trajectories(
    folder: Path,
    wanted: Filter,
    *,
    as_json: bool,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Print the episodes that pass the filter, with hidden values and the judge's reasons.

    Returns:
        the number of lines that cannot be read; each is named.
    """
    found = list(find_episodes(folder, wanted))
    episodes = [line for line in found if not isinstance(line, BadLine)]
    tasks, bad_tasks = read_tasks(folder, {line.group for line in episodes})
    page = Page(out)
    for line in episodes:
        task = tasks.get(line.group)
        if as_json:
            row = {"task": task, "reward": line.trajectory.reward, "episode": line}
            say_json(msgspec.json.encode(row), to=out)
        else:
            show_episode(page, line, task)
    if not episodes and not as_json:
        page.line(f"no episode of {folder} matches; relax the filters")
    bad_episodes = [line for line in found if isinstance(line, BadLine)]
    for name, bad in (("episodes.jsonl", bad_episodes), ("tasks.jsonl", bad_tasks)):
        for broken in bad:
            complain(f"{folder / name}:{broken.number}: {broken.why}", to=err)
    return len(bad_episodes) + len(bad_tasks)


def show_episode(page: Page, line: EpisodeLine, task: Task | None) -> None:
    """Print one episode."""
    trajectory = line.trajectory
    failed_by = trajectory.failed_by
    reward = "no reward" if trajectory.failure else f"reward {trajectory.reward:+g}"
    title = f"episode {trajectory.id}  {reward}  version {trajectory.version}  {trajectory.stop}"
    page.rule(title + (f"  failed by {failed_by}" if failed_by else ""))
    if task is not None:
        tools = ", ".join(tool.signature for tool in task.tools)
        page.line((f"difficulty {task.difficulty}, tools: {tools}", "dim"))
        for key, value in task.hidden.items():
            if not is_empty(value):
                page.line((f"hidden {key}: {shorten_value(value)}", "dim"))
        for message in task.messages:
            show_message(page, message)
    trial = trajectory.outcome.trial
    phases = trial.phases if trial else ()
    # A phase is printed where it changes; turns beyond the recorded phases have none.
    for turn, (before, phase) in zip(
        trajectory.turns, pairwise(["", *phases, *[""] * len(trajectory.turns)]), strict=False
    ):
        if phase not in ("", before):
            page.line((phase, "cyan"), indent="  ")
        show_message(page, turn.message)
        for reply in turn.replies:
            show_message(page, reply)
    if trajectory.failure is not None:
        page.line((f"no reward: {trajectory.failure.message}", "red"))
    known = told_of(line)
    criteria = known.pop("criteria", None)
    if isinstance(criteria, dict) and criteria:
        met = "  ".join(f"{'✓' if holds else '✗'} {name}" for name, holds in criteria.items())
        page.line(("criteria", "cyan"), f": {met}")
    for key, value in known.items():
        if not is_empty(value):
            page.line((key, "cyan"), f": {shorten_value(value)}")


def told_of(line: EpisodeLine) -> dict[str, Any]:
    """Return all that is known of an episode's end besides its reward, by name."""
    known: dict[str, Any] = msgspec.to_builtins(line.trajectory.outcome) | line.trajectory.notes
    return known if line.rejected is None else known | {"rejected": str(line.rejected)}


def is_empty(value: object) -> bool:
    """Return whether a value says nothing."""
    return value is None or value in ("", [], {}, ())


def shorten_value(value: object) -> str:
    """Write a value as a person reads it, or the beginning of a long one; `--json` has it whole."""
    match value:
        case str():
            text = value
        case bool():
            text = "yes" if value else "no"
        case [*parts] if all(isinstance(part, str) for part in parts):
            text = ", ".join(map(str, parts))
        case _:
            text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} … ({len(text)} characters)"


def show_message(page: Page, message: Message) -> None:
    """Print one message."""
    if message.thinking:
        page.line((f"thinking: {message.thinking}", "dim"), indent="  ")
    if message.content or not message.calls:
        page.line((message.role, "bold"), f": {message.content}", indent="  ")
    for call in message.calls:
        if isinstance(call, ToolCall):
            arguments = ", ".join(
                f"{name}={msgspec.json.encode(value).decode()}"
                for name, value in call.arguments.items()
            )
            page.line(("calls", "bold"), f" {call.name}({arguments})", indent="  ")
        else:
            page.line(("bad call", "red"), f" ({call.reason}): {call.text}", indent="  ")

"""`trustee merge`: from the shards of a job to what the whole job would have made.

A merge reads, compares and numbers; no model plays. What it writes is what one machine would have
written, if the engine answers the same request alike everywhere. Only a build may have to go on
after it, because which environments are double is seen nowhere else.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trustee.config import decode_stored
from trustee.decoding import read_file
from trustee.environments.executable.building.joining import Joined, join_builds
from trustee.environments.executable.building.report import report_text
from trustee.errors import InputError, RunError
from trustee.jobs.collect import COLLECTION_FILE, CollectionMetadata, counts_text
from trustee.jobs.comparison import store_played
from trustee.jobs.eval_shard import SHARED_TASKS, PlacedTask
from trustee.jobs.evaluate import Comparison, compare_played, compare_text
from trustee.jobs.held_out import evaluation_world
from trustee.jobs.policies import PolicyTable, table_text, tabulate
from trustee.jobs.run_metadata import read_metadata
from trustee.runs.files import write_lines
from trustee.runs.inputs import INPUTS
from trustee.runs.ownership import LOCK, own_folder
from trustee.runs.shards import ShardRecord, read_shards
from trustee.runs.store import read_lines
from trustee.sft.collect import Counts, Played, read_played, write_results
from trustee.types import Task, Trajectory

Result = Joined | Counts | Comparison | PolicyTable


@dataclass(frozen=True, slots=True)
class Merged:
    """A whole job, joined from its shards."""

    result: Result
    text: str
    """The result for readers."""
    complete: bool = True
    """Whether there is as much as was wanted."""


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Join all shards of a build, a collection or an evaluation in a new folder.

    Args:
        folders: the shards' folders, in any order.
        out: the new folder.

    Raises:
        UntrustedWorld: if the shards' world is code that this call does not allow.
        InputError: if a shard is missing, unfinished, there twice or of another job, or the folder
            is not new.
        RunError: if the folder cannot be written, or there is nothing in the shards.
    """
    shards = read_shards(folders)
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {LOCK}):
        raise InputError(f"{out} is not empty; name a new folder for what is merged")
    record = next(iter(shards.values()))
    with own_folder(out):
        if record.job == "build":
            return merge_build(list(shards), record, out)
        if record.job == "collect":
            return merge_collection(list(shards), out)
        return merge_eval(list(shards), record, out)


def merge_build(folders: Sequence[Path], record: ShardRecord, out: Path) -> Merged:
    """Join the environments; of double ones that of the lower place stays."""
    attempts = int(record.settings["build"]["attempts"])
    joined = join_builds(folders, out, count=record.count, attempts=attempts)
    report = joined.report
    lines = [report_text(report), f"environments  {out / 'blueprints'}"]
    if joined.unfilled:
        seed, scenario = record.settings["seed"], record.settings["scenario"]
        chosen = f" --scenario {scenario}" if scenario else ""
        lines.append(
            f"double between parts: {len(joined.unfilled)}; build others in their places with the "
            f"same config:  trustee build --resume --out {out} --count {record.count} --seed {seed}"
            f"{chosen}"
        )
    return Merged(result=joined, text="\n".join(lines), complete=report.accepted >= report.wanted)


def merge_collection(folders: Sequence[Path], out: Path) -> Merged:
    """Join the episodes, and make demonstrations and states of all of them."""
    first = folders[0]
    data = read_file(first / COLLECTION_FILE, error=InputError)
    collection = decode_stored(data, CollectionMetadata)
    config = read_metadata(first).config
    parts = [read_played(folder) for folder in folders]
    played = Played(
        tasks={number: line for part in parts for number, line in part.tasks.items()},
        episodes={key: line for part in parts for key, line in part.episodes.items()},
    )
    copy_record(first, out, COLLECTION_FILE)
    write_lines(out / "tasks.jsonl", (played.tasks[key] for key in sorted(played.tasks)))
    write_lines(out / "episodes.jsonl", (played.episodes[key] for key in sorted(played.episodes)))
    counts = write_results(
        out,
        played,
        config=collection.collect,
        shows=collection.player.shows,
        states_of=config.env.cut_states,
    )
    return Merged(result=counts, text=counts_text(counts, out))


def merge_eval(folders: Sequence[Path], record: ShardRecord, out: Path) -> Merged:
    """Join the tasks and episodes, number them as one evaluation does, and compare."""
    config = read_metadata(folders[0]).config
    name, repeats = str(record.settings["tasks_file"]), int(record.settings["repeats"])
    parts = [(folder, read_placed(folder)) for folder in folders]
    placed = dict(sorted((place, task) for _, part in parts for place, task in part.items()))
    if not placed:
        raise RunError("none of the shards could write a held-out task, so there is no success")
    numbers = {place: number for number, place in enumerate(placed)}
    adapters = {"base": None} | {label: Path(a.path) for label, a in record.adapters.items()}
    played = {
        label: join_episodes(parts, label, numbers=numbers, repeats=repeats) for label in adapters
    }
    tasks = tuple(placed.values())
    copy_record(folders[0], out)
    write_lines(out / name, tasks)
    for label, episodes in played.items():
        store_played(out, f"eval-{label}", episodes, tasks=len(tasks))
    if adapters.keys() == {"base", "adapter"} and repeats == 1:
        comparison = compare_played(
            tasks,
            played,
            world=evaluation_world(config),
            adapter=Path(record.adapters["adapter"].path),
        )
        return Merged(result=comparison, text=compare_text(comparison))
    table = tabulate(adapters, played, tasks=len(tasks), repeats=repeats)
    return Merged(result=table, text=table_text(table))


def read_placed(folder: Path) -> dict[int, Task]:
    """Return the tasks of a shard by their places; a shard may have been unable to write any."""
    lines = read_lines(folder / SHARED_TASKS, PlacedTask)
    return {line.place: line.task for line in lines}


def join_episodes(
    parts: Sequence[tuple[Path, Mapping[int, Task]]],
    label: str,
    *,
    numbers: Mapping[int, int],
    repeats: int,
) -> tuple[Trajectory, ...]:
    """Return the episodes of a policy in the order of one evaluation, first attempts in front.

    Raises:
        InputError: if a shard does not have the episodes of its tasks.
    """
    joined: dict[tuple[int, int], Trajectory] = {}
    for folder, placed in parts:
        episodes: list[Trajectory] = read_lines(folder / f"eval-{label}.jsonl", Trajectory)
        if repeats > 1 and placed:
            episodes += read_lines(folder / f"eval-{label}-repeats.jsonl", Trajectory)
        wanted = [task.id for task in placed.values()] * repeats
        if [episode.task_id for episode in episodes] != wanted:
            raise InputError(
                f"{folder} does not have the {len(wanted)} episodes of {label} that its tasks ask "
                "for; play that shard again"
            )
        for index, episode in enumerate(episodes):
            repeat, own = divmod(index, len(placed))
            place = tuple(placed)[own]
            again = f"/{repeat}" if repeat else ""
            joined[repeat, place] = rename(
                episode,
                old=f"{label}/{place}{again}",
                new=f"{label}/{numbers[place]}{again}",
            )
    return tuple(joined[key] for key in sorted(joined))


def rename(episode: Trajectory, *, old: str, new: str) -> Trajectory:
    """Return an episode with another name, which its calls' ids begin with.

    Names count written tasks, and a shard does not know which tasks the others could not write.
    """
    if old == new:
        return episode
    renamed: Trajectory = msgspec.convert(
        rename_ids(msgspec.to_builtins(episode), old=old, new=new), Trajectory
    )
    return renamed


def rename_ids(value: Any, *, old: str, new: str) -> Any:
    """Return nested tables with the ids of an episode and its calls renamed.

    Arguments of calls may have keys of the same name, and stay as the policy wrote them.
    """
    if isinstance(value, list | tuple):
        return [rename_ids(item, old=old, new=new) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: inner
        if key == "arguments"
        else new + inner.removeprefix(old)
        if key in ("id", "call_id") and isinstance(inner, str) and f"{inner}/".startswith(f"{old}/")
        else rename_ids(inner, old=old, new=new)
        for key, inner in value.items()
    }


def copy_record(folder: Path, out: Path, *names: str) -> None:
    """Copy what a shard was started with, which is the same in all of them.

    Raises:
        RunError: if it cannot be written.
    """
    try:
        for name in ("run.json", *names):
            shutil.copyfile(folder / name, out / name)
        if (folder / INPUTS).is_dir():
            shutil.copytree(folder / INPUTS, out / INPUTS)
    except OSError as error:
        raise RunError(
            f"cannot copy {folder} to {out}: {error}; free some disk space, empty {out} and merge "
            "again"
        ) from error

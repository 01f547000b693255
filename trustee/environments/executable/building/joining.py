"""Joining the folders of a build that was shared out by places.

The joined folder is that of one build, so it is continued like one: places whose environment was
double, which only the joining sees, are then filled with their next attempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from trustee.environments.executable.blueprint import Blueprint
from trustee.environments.executable.blueprint_files import write_blueprint
from trustee.environments.executable.building.folder import Folder, Recipe, read_file
from trustee.environments.executable.building.report import BuildCost, BuildReport, Rejection
from trustee.errors import InputError
from trustee.runs.files import write_json, write_lines
from trustee.runs.store import read_lines
from trustee.types import Record


class Joined(Record, frozen=True):
    """What a joined build has."""

    report: BuildReport
    unfilled: tuple[int, ...]
    """Empty places with attempts left; the build can be continued with them."""


class Part(Record, frozen=True):
    """The results in the folder of a part."""

    recipe: Recipe
    blueprints: tuple[Blueprint, ...]
    rejections: tuple[Rejection, ...]
    report: BuildReport


def read_part(folder: Path) -> Part:
    """Read the results of a part.

    Raises:
        InputError: if a file is missing or damaged.
    """
    rejected = folder / "rejected.jsonl"
    return Part(
        recipe=read_file(folder / "build.json", Recipe),
        blueprints=tuple(
            read_file(file, Blueprint) for file in sorted((folder / "blueprints").glob("*.json"))
        ),
        rejections=tuple(read_lines(rejected, Rejection)) if rejected.exists() else (),
        report=read_file(folder / "report.json", BuildReport),
    )


def join_builds(parts: Sequence[Path], out: Path, *, count: int, attempts: int) -> Joined:
    """Join the folders of all parts of a build into a new one.

    Args:
        parts: the folders.
        out: the new folder.
        count: number of places of the whole build.
        attempts: candidates for a place before it stays empty.

    Raises:
        InputError: if a part is damaged, or the parts are of unlike builds.
        RunError: if the folder cannot be written.
    """
    found = [read_part(part) for part in parts]
    recipe, cost = found[0].recipe, BuildCost()
    for folder, part in zip(parts, found, strict=True):
        if part.recipe != recipe:
            raise InputError(
                f"{parts[0]} and {folder} were built with unlike settings: build.json differs; "
                "give the parts of one build"
            )
        cost = cost.plus(part.report.cost)
    out.mkdir(parents=True, exist_ok=True)
    for part in found:
        for blueprint in part.blueprints:
            write_blueprint(blueprint, out / "blueprints")
    rejections = [rejection for part in found for rejection in part.rejections]
    if rejections:
        rejections.sort(key=lambda rejection: (rejection.place, rejection.attempt))
        write_lines(out / "rejected.jsonl", rejections)
    write_json(out / "report.json", msgspec.structs.replace(found[0].report, cost=cost))
    write_json(out / "build.json", recipe, indent=1)
    joined = Folder(out, recipe, wanted=count)
    joined.open(resume=True)
    empty = sorted(set(range(count)) - joined.accepted.keys())
    return Joined(
        report=joined.report(BuildCost()),
        unfilled=tuple(place for place in empty if joined.attempts(place) < attempts),
    )

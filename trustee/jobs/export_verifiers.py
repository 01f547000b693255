"""`trustee export --verifiers`: a world's tasks and tools as a package for verifiers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from trustee.config import Config
from trustee.environments.executable.environment import Executable
from trustee.environments.protocol import World
from trustee.errors import InputError
from trustee.export.verifiers_package import write_package
from trustee.types import Record, Task

SPLITS: Mapping[str, bool] = {"train": False, "test": True}
"""Whether a split holds what training never sees."""


class ExportedPackage(Record, frozen=True):
    """A package that was written."""

    path: Path
    taskset: str
    """Id of its taskset."""
    tasks: dict[str, int]
    """Number of tasks by split."""


def find_executable(world: World) -> Executable:
    """Return the world that can be exported.

    Raises:
        InputError: if it is of another kind.
    """
    if not isinstance(world, Executable) or world.unit != "episode":
        given = f"{type(world).__name__}, unit {getattr(world, 'unit', 'episode')}"
        raise InputError(
            f'only worlds of env.kind = "executable" with env.unit = "episode" can be exported for '
            f"verifiers, whose tasks are fixed and whose tools are code; got {given}"
        )
    return world


def export_verifiers(config: Config, place: Path) -> ExportedPackage:
    """Write a package with the tasks of both sides.

    Raises:
        InputError: if the world or the place cannot be used.
        RunError: if the package cannot be written.
    """
    world = find_executable(config.env)
    splits = {
        split: build_tasks(world, seed=config.run.seed, held_out=held_out)
        for split, held_out in SPLITS.items()
    }
    taskset = write_package(place, splits, variant=world.variant, published=world.published)
    counts = {split: len(tasks) for split, tasks in splits.items()}
    return ExportedPackage(path=place, taskset=taskset, tasks=counts)


def build_tasks(world: Executable, *, seed: int, held_out: bool) -> tuple[Task, ...]:
    """Return the tasks of one side, each environment once, in the order of their names.

    Raises:
        InputError: if there is none.
    """
    source = world.source(seed=seed, held_out=held_out)
    built: dict[str, Task] = {}
    while (spec := source.draw()) is not None:
        name = spec.id.partition("@")[0]
        if name in built:
            break
        built[name] = replace(source.build(spec), id=name)
    return tuple(built[name] for name in sorted(built))


def package_text(package: ExportedPackage) -> str:
    """Return what was written, and how to go on."""
    counts = ", ".join(f"{count} tasks in {split}" for split, count in package.tasks.items())
    return (
        f"verifiers    {package.path}  {counts}\n"
        f"  pip install {package.path}, then vf-eval {package.taskset}; see its README.md"
    )

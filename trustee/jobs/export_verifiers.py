"""`trustee export --verifiers`: a world's tasks and tools as a package for verifiers."""

from __future__ import annotations

from pathlib import Path

from trustee.config import Config
from trustee.errors import InputError
from trustee.export.verifiers_package import write_package
from trustee.types import Record


class ExportedPackage(Record, frozen=True):
    """A package that was written."""

    path: Path
    taskset: str
    """Id of its taskset."""
    tasks: dict[str, int]
    """Number of tasks by split."""


def export_verifiers(config: Config, place: Path) -> ExportedPackage:
    """Write a package with the tasks of both sides.

    Raises:
        InputError: if the world or the place cannot be used.
        RunError: if the package cannot be written.
    """
    package = config.env.package(seed=config.run.seed)
    if package is None:
        raise InputError(
            f"the tasks of the world {type(config.env).__name__} are not fixed, or its tools are "
            'no code; give a config with env.kind = "executable" and env.unit = "episode"'
        )
    taskset = write_package(place, package)
    counts = {split: len(tasks) for split, tasks in package.splits.items()}
    return ExportedPackage(path=place, taskset=taskset, tasks=counts)


def package_text(package: ExportedPackage) -> str:
    """Return what was written, and how to go on."""
    counts = ", ".join(f"{count} tasks in {split}" for split, count in package.tasks.items())
    return (
        f"verifiers    {package.path}  {counts}\n"
        f"  pip install {package.path}, then vf-eval {package.taskset}; see its README.md"
    )

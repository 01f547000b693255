"""The wheel: it holds every file of the package, and works in a folder of nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trustee"
LEFT_OUT = {"__pycache__"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, because building leaves folders behind."""
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(PACKAGE, source / "trustee", ignore=ignore)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    run(
        [
            *("-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet"),
            *("--disable-pip-version-check", "--wheel-dir", str(out)),
        ],
        folder=source,
    )
    (built,) = out.glob("trustee-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel beside everything else."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(words: list[str], *, folder: Path, path: Path | None = None) -> str:
    """Run Python in a folder and return what it said; it sees the repository only if told to."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    """Prompts, templates, configs, examples, pages, the built-in model."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    there = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*")
        if path.is_file() and not LEFT_OUT & set(path.parts)
    }
    assert set() == there - packed
    assert {"trustee/configs/tiny.toml", "trustee/configs/examples/dice.py"} <= packed


@pytest.mark.parametrize("name", ["tiny", "configs/tiny.toml", "dice", "examples/dice.toml"])
def test_configs_and_examples_are_found_from_an_empty_folder(
    installed: Path, tmp_path: Path, name: str
) -> None:
    """By name, without the repository."""
    said = run(
        ["-m", "trustee", "run", "--config", name, "--dry-run"], folder=tmp_path, path=installed
    )
    assert "nothing was started; tiny is trained for " in said
    assert [] == list(tmp_path.iterdir())


def test_an_example_is_played_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """With the scripted engine, from the installed files alone."""
    words = ["-m", "trustee", "run", "--config", "dice", "--steps", "1", "--out", "run"]
    changes = ["engine.kind=scripted", "eval.tasks=2", "rollout.limits.tokens=90"]
    for change in changes:
        words += ["--set", change]
    said = run(words, folder=tmp_path, path=installed)
    assert "run folder  run" in said
    assert (tmp_path / "run" / "outcome.json").is_file()


def test_a_config_is_written_to_start_from(installed: Path, tmp_path: Path) -> None:
    """`trustee init` needs the packaged files too."""
    run(["-m", "trustee", "init", "mine.toml"], folder=tmp_path, path=installed)
    assert "[model]" in (tmp_path / "mine.toml").read_text()

"""What all tests share: async tests run on asyncio, and GPU tests need a GPU."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from golden_errors import ErrorCheck
from sharing_out import KeepTogether
from trustee.engine import script
from trustee.environments import registry

LEFT_OUT = pytest.StashKey[int]()
# As in the engine: small tensors gain nothing from more, and threads of several workers wait for
# each other. Must be said before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# An example may take long on a busy machine; how long says nothing about what is tested.
settings.register_profile("trustee", deadline=None)
settings.load_profile("trustee")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio only: vLLM knows no other loop."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the quantised bases of tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUSTEE_CACHE", str(tmp_path_factory.mktemp("bases")))
        yield


@pytest.fixture
def check_error(request: pytest.FixtureRequest) -> ErrorCheck:
    """Compare a test's error messages with the golden file; paths have names there."""
    names_by_path = {str(Path(__file__).parents[1]): "{root}"}
    if "tmp_path" in request.fixturenames:
        names_by_path = {str(request.getfixturevalue("tmp_path")): "{tmp_path}"} | names_by_path
    return ErrorCheck(request.node.nodeid, names_by_path)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test see the worlds, servers and scripts that another test has named."""
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(registry, "_allowed", set())
    monkeypatch.setattr(script, "_found", set())


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> KeepTogether | None:
    """Share out tests by what they have in common, not by whole files."""
    return KeepTogether(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Look for no garbage while all modules are imported, nor in them while their tests run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """Give `-n auto` one more worker than there are cores: a test often waits for an engine.

    All cores count, where xdist counts two threads of one as one.
    """
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked `gpu` where there is none; several workers begin with slow ones.

    Then they end with short ones, and none waits long for another.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    chosen = [item for item in items if item.get_closest_marker("gpu") is not None]
    if not chosen:
        return
    import torch

    if torch.cuda.is_available():
        return
    config.hook.pytest_deselected(items=chosen)
    items[:] = [item for item in items if item not in chosen]
    config.stash[LEFT_OUT] = len(chosen)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say why tests were left out."""
    count = config.stash.get(LEFT_OUT, 0)
    if count:
        terminalreporter.write_line(f"{count} deselected: marked gpu, and torch sees no GPU")

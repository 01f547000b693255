"""The few names of verifiers that an exported package uses, without its machinery."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import pytest


class Fields:
    """Takes its fields by name; what is not given is the class's own value."""

    def __class_getitem__(cls, item: Any) -> type[Self]:
        return cls

    def __init__(self, **given: Any) -> None:
        vars(self).update(given)


class Toolset(Fields):
    """A server of tools with one state."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.state: Any = None
        self._exit_stack = AsyncExitStack()

    def _with_state(self, act: Callable[..., Any]) -> Callable[..., Any]:
        return act


class Plain(Fields):
    """A task, or a set of them."""

    def __init__(self, data: Any, config: Any = None) -> None:
        self.data = self.config = data


def load_package(package: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the module of an exported package, with these names in place of verifiers."""
    stub: Any = ModuleType("verifiers.v1")
    stub.TaskData = stub.State = stub.TasksetConfig = stub.SharedToolsetConfig = Fields
    stub.Toolset, stub.Task, stub.Taskset = Toolset, Plain, Plain
    stub.reward = stub.metric = lambda act: act
    stub.Trace = stub.Runtime = object
    monkeypatch.setitem(sys.modules, "verifiers", SimpleNamespace(v1=stub))
    monkeypatch.setitem(sys.modules, "verifiers.v1", stub)
    (world,) = package.glob("*/world.py")
    spec = importlib.util.spec_from_file_location(f"exported_{package.name}", world)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

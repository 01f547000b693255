"""The shape of the package: who may import whom, who may touch what, and how long things are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trustee"

LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "types",
        "errors",
    ),
    (
        "adapter_files",
        "advantage",
        "batch",
        "blueprint",
        "curriculum",
        "deadlines",
        "engine",
        "learner",
        "loss",
        "matching",
        "parsing",
        "prefix_tree",
        "prompts",
        "published",
        "rendering",
        "sandbox",
        "splits",
        "states",
        "tokenizer",
    ),
    (
        "arguments",
        "blueprint_files",
        "chat",
        "demonstrations",
        "environment",
        "facts",
        "roles",
        "store",
        "timeline",
        "tiny.world",
        "tool_files",
        "tools",
        "transforms",
        "trial_metrics",
        "versions",
    ),
    (
        "building",
        "endpoint",
        "engines",
        "environments",
        "hints",
        "rollout",
        "sifting",
        "teacher",
        "tiny.lessons",
        "tiny.trials",
        "worker",
    ),
    (
        "canaries",
        "checkpoint",
        "collecting",
        "evaluate",
        "ftrl_suite",
        "gates",
        "imitate",
        "ladder",
        "learn",
        "run",
        "step",
        "train",
        "watch",
        "watchdog",
    ),
    ("config",),
    (
        "outcome",
        "record",
    ),
    (
        "cli",
        "collect",
        "commands",
        "compare",
        "doctor",
        "launch",
        "machine",
        "models",
        "noise",
        "planning",
        "progress",
        "sft",
        "staged",
        "tiny.build",
        "view",
        "watched",
    ),
)
"""Modules and packages by layer; a module imports from its own layer or from below."""

FREE = ("", "__main__", "tiny")
"""The version, the way into the command line, and a package without a line of code."""

ONLY_VLLM = {
    "engines.vllm",
    "worker.cpu_lora",
    "worker.cpu_norm",
    "worker.packing",
    "worker.sharing",
}
LONG = {"rendering": 430, "roles": 480, "tiny.lessons": 480}
"""Modules over the limit, with limits of their own: each holds one idea that does not split."""

MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60


def read_modules() -> dict[str, ast.Module]:
    """Parse every module of the package, by dotted name below `trustee`."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        modules[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return modules


MODULES = read_modules()
EVERY_MODULE = pytest.mark.parametrize("name", sorted(MODULES))


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Give every import of a tree, wherever it stands: the module, and the name taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield from ((node.module or "", alias.name) for alias in node.names)


def own_imports(name: str) -> set[str]:
    """Give the modules of the package that a module imports, wherever the import stands."""
    found = set()
    for module, taken in imports(MODULES[name]):
        if module == "trustee" or module.startswith("trustee."):
            inner = module.removeprefix("trustee").removeprefix(".")
            deeper = f"{inner}.{taken}".strip(".")
            found.add(deeper if deeper in MODULES else inner)
    return found - {name}


def foreign_imports(name: str) -> set[str]:
    """Give the names of the other packages that a module imports."""
    return {module.partition(".")[0] for module, _ in imports(MODULES[name])} - {"trustee"}


def layer_of(name: str) -> int:
    """Find a module's layer."""
    layers = [
        number
        for number, members in enumerate(LAYERS)
        for member in members
        if name == member or name.startswith(f"{member}.")
    ]
    assert len(layers) == 1, f"{name} must stand in exactly one layer, not in {layers}"
    return layers[0]


@EVERY_MODULE
def test_imports_go_down(name: str) -> None:
    """A module imports its own layer and those below, also inside its functions."""
    if name in FREE:
        return
    own = layer_of(name)
    higher = [other for other in own_imports(name) if other not in FREE and layer_of(other) > own]
    assert [] == higher


def test_layers_name_only_what_there_is() -> None:
    """No layer names a module that is gone."""
    known = {*MODULES, *(name.partition(".")[0] for name in MODULES)}
    assert [] == [name for members in LAYERS for name in members if name not in known]


def test_no_import_goes_in_a_circle() -> None:
    """Modules can be read in an order in which each needs only those before it."""
    graph = {name: own_imports(name) - {name} for name in MODULES}
    assert len(MODULES) == len(tuple(TopologicalSorter(graph).static_order()))


def test_few_modules_touch_vllm() -> None:
    """The engine has one door on each side of its process border, and two mended parts."""
    assert {name for name in MODULES if "vllm" in foreign_imports(name)} == ONLY_VLLM


@EVERY_MODULE
def test_environments_touch_no_machinery(name: str) -> None:
    """An environment knows messages: neither tensors nor engines nor the loop."""
    if not name.startswith("environments"):
        return
    assert set() == foreign_imports(name) & {"torch", "vllm", "transformers", "peft"}
    forbidden = {"train", "engine", "step", "learner", "batch", "rendering", "versions"}
    assert set() == {
        other for other in own_imports(name) if other in forbidden or other.startswith("engines")
    }


def test_top_level_imports_no_torch() -> None:
    """Outside the worker no module loads torch by being imported."""
    loading = {
        name
        for name, tree in MODULES.items()
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module, _ in imports(node)
        if module.partition(".")[0] in {"torch", "vllm", "transformers", "peft", "bitsandbytes"}
    }
    assert set() == {name for name in loading if not name.startswith(("worker", "tiny.build"))}


def catchers(*wanted: str) -> set[str]:
    """Name the modules that catch one of these errors; a bare `except` catches everything."""
    return {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        for caught in ast.walk(node.type or ast.Name(id="BaseException"))
        if isinstance(caught, ast.Name) and caught.id in wanted
    }


def test_spoiled_episodes_are_caught_where_one_is_played_or_written() -> None:
    """Nobody else may take a spoiled episode for something that went well."""
    assert {"rollout", "train", "evaluate", "collecting"} == catchers(
        "EpisodeError", "EngineError"
    ) - {"engines.vllm"}


def test_nobody_catches_bugs() -> None:
    """A bug ends the run; only the engine passes by, to stop its child on the way out."""
    assert {"engines.vllm"} >= catchers("Exception", "BaseException")


def count_lines(name: str) -> int:
    """Count the lines of a module's file."""
    path = PACKAGE.joinpath(*filter(None, name.split(".")))
    file = path.with_suffix(".py")
    return len((file if file.is_file() else path / "__init__.py").read_text().splitlines())


@EVERY_MODULE
def test_module_is_short(name: str) -> None:
    """A file that holds one idea fits into 400 lines; the exceptions are named above."""
    assert count_lines(name) <= LONG.get(name, MOST_LINES)


def test_long_modules_are_long() -> None:
    """A module that has become short loses its exception."""
    assert [] == [name for name in LONG if count_lines(name) <= MOST_LINES]


@EVERY_MODULE
def test_functions_are_short(name: str) -> None:
    """A function fits on a screen."""
    long = [
        (node.name, length)
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION
    ]
    assert [] == long


@EVERY_MODULE
def test_module_says_what_it_is_for(name: str) -> None:
    """Every module with code begins with a docstring."""
    tree = MODULES[name]
    assert not tree.body or ast.get_docstring(tree)


def test_no_module_has_a_name_for_anything() -> None:
    """Names that fit any module fit none."""
    vague = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}
    assert [] == [name for name in MODULES if vague & set(name.split("."))]

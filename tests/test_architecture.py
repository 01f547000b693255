"""The shape of the package: who may import whom, who may touch what, and how long things are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import get_args

from trustee.environments.registry import PACKAGED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trustee"

ORDER = (
    ("types",),
    ("errors", "events", "decoding"),
    ("tools",),
    ("rendering", "sandbox", "runs"),
    ("algorithm",),
    ("trainer",),
    ("engine",),
    ("environments",),
    ("rollout", "checks", "tiny"),
    ("rl", "sft", "evaluation"),
    ("config",),
    ("planning",),
    ("export", "endpoint", "trackers"),
    ("jobs",),
    ("pages",),
    ("cli",),
    ("__main__",),
)
"""What lies in the package's folder, from the vocabulary up; siblings share a floor and do not
import each other, but for what `rollout` plays and `checks` looks at."""

ONLY_VLLM = {
    "engine.vllm",
    "trainer",
    "trainer.cpu_lora",
    "trainer.cpu_norm",
    "trainer.host_embedding",
    "trainer.int4_layers",
    "trainer.online_linear",
    "trainer.packing",
    "trainer.shared_weights",
    "trainer.smollm3",
    "trainer.vllm_layers",
}
LONG = {
    "rendering.renderer": 430,
    "environments.trial.environment": 455,
}
"""Modules over the limit, with limits of their own: each holds one idea that does not split."""

MOST_ENTRIES = 31
"""Files and folders at the top of the package, which a reader takes in at a glance."""
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60


def read_modules() -> dict[str, ast.Module]:
    """Parse every module of the package, by dotted name below `trustee`.

    The examples travel with it as files to copy, and are no part of it.
    """
    modules = {}
    for path in sorted(set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("configs/**/*.py"))):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        modules[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return modules


MODULES = read_modules()


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


def floor_of(name: str) -> int:
    """Find the floor of the file or folder that a module lies in."""
    top = name.partition(".")[0]
    return next(number for number, members in enumerate(ORDER) if top in members)


def test_the_order_is_the_folder_list() -> None:
    """Every file and folder of the package has its place, and nothing else has one."""
    there = {name.partition(".")[0] for name in MODULES} - {""}
    assert there == {member for members in ORDER for member in members}


def test_the_folder_list_is_short() -> None:
    """The architecture is read off one listing."""
    assert MOST_ENTRIES >= len([p for p in PACKAGE.iterdir() if p.name != "__pycache__"])


def test_imports_go_down() -> None:
    """A module imports from its own folder and from floors below, also inside its functions."""
    assert [] == [
        f"{name} imports {other}"
        for name in sorted(MODULES)
        for other in sorted(own_imports(name) - {""})
        if name.partition(".")[0] != other.partition(".")[0]
        and floor_of(other) >= floor_of(name or "__main__")
    ]


def test_no_import_goes_in_a_circle() -> None:
    """Modules can be read in an order in which each needs only those before it."""
    graph = {name: own_imports(name) - {name} for name in MODULES}
    assert len(MODULES) == len(tuple(TopologicalSorter(graph).static_order()))


def test_few_modules_touch_vllm() -> None:
    """The engine has one door on each side of its process border, and parts that ours replace."""
    assert {name for name in MODULES if "vllm" in foreign_imports(name)} == ONLY_VLLM


def test_a_world_answers_for_itself() -> None:
    """Nothing asks of which kind a world is: that is what its methods are for."""
    worlds = {world.__name__ for world in get_args(PACKAGED)}
    assert [] == [
        f"{name} asks for {kind}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        for kind in asked_kinds(node)
        if kind in worlds
    ]


def asked_kinds(node: ast.AST) -> Iterator[str]:
    """Yield the names of the classes that `isinstance`, `type(...) is` or `case` test for."""
    match node:
        case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kinds]):
            asked: ast.AST = kinds
        case ast.MatchClass(cls=kind):
            asked = kind
        case ast.Compare(left=ast.Call(func=ast.Name(id="type"))):
            asked = node
        case _:
            return
    for part in ast.walk(asked):
        if isinstance(part, ast.Name):
            yield part.id


MACHINERY = ("rl", "algorithm", "trainer", "rendering", "engine")


def test_environments_touch_no_machinery() -> None:
    """An environment knows messages: neither tensors nor engines nor the loop; a simulator asks."""
    assert [] == [
        f"{name} imports {other}"
        for name in sorted(MODULES)
        if name.startswith("environments") and name != "environments.simulator"
        for other in sorted(own_imports(name) | foreign_imports(name))
        if other.startswith((*MACHINERY, "torch", "vllm", "transformers", "peft"))
    ]


def test_top_level_imports_no_torch() -> None:
    """Outside the trainer no module loads torch by being imported."""
    loading = {
        name
        for name, tree in MODULES.items()
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module, _ in imports(node)
        if module.partition(".")[0] in {"torch", "vllm", "transformers", "peft", "bitsandbytes"}
    }
    assert set() == {name for name in loading if not name.startswith(("trainer", "tiny.build"))}


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


def test_failed_episodes_are_caught_where_one_is_played_or_written() -> None:
    """No other module may take a failed episode for something that went well."""
    assert {"rollout"} == catchers("EpisodeError", "EngineError") - {"engine.vllm"}


def test_nobody_catches_bugs() -> None:
    """A bug ends the run; the engine passes by, to stop its child, and a library has no other."""
    known = {"engine.vllm", "pages.tokens", "trackers.child", "evaluation.tau2.child"}
    known |= {"environments.verifiers.child"}
    assert known >= catchers("Exception", "BaseException")


WRITES_JSON = {
    "engine.scripted": "a checkpoint",
    "environments.executable.compile_source": "an answer, in a process without the package",
    "environments.executable.published_rows": "what a hash is taken of",
    "environments.executable.source_check": "a request to that process",
    "environments.verifiers.child": "a line, in a process without the package",
    "sft.endpoint": "a request",
    "sft.forms.prompted_tools": "a literal on its way to the decoder",
    "sft.secrets": "a form in which a secret is looked for",
    "tiny.build": "a filter of templates",
    "tools.arguments": "any value, cut",
    "tools.values": "render_json itself, and keys",
}
"""Modules near models that write JSON by `json.dumps`, and what; none of it is read by a model."""
NEAR_MODELS = ("environments", "rendering", "engine", "checks", "sft", "tiny", "tools")


def test_models_read_letters_not_escapes() -> None:
    """JSON that a model reads is written by `render_json`, which escapes no letters."""
    assert [] == [
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "json.dumps"
        if name.startswith(NEAR_MODELS) and not name.startswith("tools.files")
        if name not in WRITES_JSON
    ]


DECODERS = {
    *("json.loads", "json.load", "json.JSONDecoder", "msgspec.json.decode"),
    *("msgspec.json.Decoder", "tomllib.loads", "tomllib.load", "yaml.load", "yaml.safe_load"),
}
READERS = {"read_text", "read_bytes"}
DECODE_THEMSELVES = {
    "decoding": "the one place",
    "environments.executable.compile_source": "runs in a process of its own, without the package",
    "evaluation.tau2.child": "runs under another Python, without the package",
    "environments.verifiers.child": "likewise",
    "sandbox.worker": "runs in the locked process, without the package",
    "sandbox.inside": "runs in the locked process, without the package",
    "rendering.call_parser": "tells the policy where its call breaks; bounds the depth first",
    "environments.prompts": "the package's own files",
    "pages.server": "the package's own files",
    "pages.report.page": "the package's own file",
    "cli.commands.init": "the package's own files",
    "trainer.host_memory": "the kernel's figures",
}
"""Modules that decode or read files without `trustee.decoding`, and why they may."""


def decoders_in(name: str) -> Iterator[str]:
    """Yield what a module decodes or reads files with, under whatever name it imports it."""
    renamed = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    } | {
        alias.asname: alias.name
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname
    }
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Attribute | ast.Name):
            first, dot, rest = ast.unparse(node).partition(".")
            called = f"{renamed.get(first, first)}{dot}{rest}"
            if called in DECODERS or (isinstance(node, ast.Attribute) and node.attr in READERS):
                yield called


def test_one_module_decodes() -> None:
    """Whatever was written elsewhere goes through the decoder, so no text of it is a bug."""
    found = {name: sorted(set(decoders_in(name))) for name in MODULES}
    assert {} == {
        name: used for name, used in found.items() if used and name not in DECODE_THEMSELVES
    }
    assert [] == [name for name in DECODE_THEMSELVES if not found[name]], "no exception needed"


SCREENS = {"sys.stdout", "sys.stderr", "print", "sys.__stdout__", "sys.__stderr__"}
SPEAK_THEMSELVES = {
    "cli.terminal": "the one place",
    "cli.capture": "takes the streams away from libraries and gives them back",
    "tiny.build": "a tool for developers",
    "evaluation.bfcl.child": "answers its parent through a pipe, and keeps tools' prints off it",
    "evaluation.tau2.child": "answers its parent through a pipe, and keeps tools' prints off it",
    "environments.executable.compile_source": "answers its parent through a pipe",
}
"""Modules that touch the screen without `trustee.cli.terminal`, and why they may."""


def screens_in(name: str) -> Iterator[str]:
    """Yield the ways in which a module writes to the screen."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node) in SCREENS:
            yield ast.unparse(node)
        if (
            name.startswith("cli")
            and isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"write", "writelines", "print"}
        ):
            yield ast.unparse(node.func)
    yield from (
        module for module, _ in imports(MODULES[name]) if module in {"rich.console", "rich.markup"}
    )


def test_one_module_writes_to_the_screen() -> None:
    """Whatever a command shows goes through the function that lets nothing act on a terminal."""
    assert {"cli.progress": ["self._console.print"]} == {
        name: sorted(set(used))
        for name in MODULES
        if name not in SPEAK_THEMSELVES and (used := list(screens_in(name)))
    }


def count_lines(name: str) -> int:
    """Count the lines of a module's file."""
    path = PACKAGE.joinpath(*filter(None, name.split(".")))
    file = path.with_suffix(".py")
    return len((file if file.is_file() else path / "__init__.py").read_text().splitlines())


def test_modules_are_short() -> None:
    """A file that holds one idea fits into 400 lines; the exceptions are named above."""
    assert {} == {
        name: count_lines(name)
        for name in MODULES
        if count_lines(name) > LONG.get(name, MOST_LINES)
    }


def test_long_modules_are_long() -> None:
    """A module that has become short loses its exception."""
    assert [] == [name for name in LONG if count_lines(name) <= MOST_LINES]


def test_functions_are_short() -> None:
    """A function fits on a screen."""
    assert {} == {
        f"{name}.{node.name}": length
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION
    }


def test_modules_say_what_they_are_for() -> None:
    """Every module with code begins with a docstring."""
    assert [] == [
        name for name, tree in MODULES.items() if tree.body and not ast.get_docstring(tree)
    ]


def test_no_module_has_a_name_for_anything() -> None:
    """Names that fit any module fit none."""
    vague = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}
    assert [] == [name for name in MODULES if vague & set(name.split("."))]

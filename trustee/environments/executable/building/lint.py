"""Static checks of a function's source, before it runs anywhere.

The source must be one top-level function with the tool's name and parameters, which imports only
from a list of modules that compute. Hostile code is contained by the sandbox; these checks find
careless code early.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

from trustee.environments.executable.building.candidate import Flaw
from trustee.tools.schema import properties_of, required_of
from trustee.types import Tool

MODULES = frozenset(
    (
        *("bisect", "calendar", "collections", "datetime", "decimal", "difflib", "fractions"),
        *("functools", "heapq", "itertools", "json", "math", "operator", "re", "statistics"),
        *("string", "textwrap", "typing", "unicodedata"),
    )
)
FORBIDDEN = frozenset(
    (
        *("open", "exec", "eval", "compile", "input", "breakpoint", "globals", "locals", "vars"),
        *("getattr", "setattr", "delattr", "exit", "quit"),
    )
)
MOST_CHARACTERS = 8000


def check_source(source: str, tool: Tool) -> Flaw | None:
    """Return a flaw if a source is not one plain function for a tool."""
    if len(source) > MOST_CHARACTERS:
        return Flaw(
            kind="long_source",
            text=f"the source has {len(source)} characters; allowed are {MOST_CHARACTERS}",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            # Only the compiler knows some errors, such as a starred expression that stands alone.
            compile(tree, "source", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Flaw(kind="syntax", text=f"the source is not Python: {error}")
    function = tree.body[0] if len(tree.body) == 1 else None
    if not isinstance(function, ast.FunctionDef) or function.name != tool.name:
        return Flaw(
            kind="not_one_function",
            text=f"the source must be one function {tool.name} and nothing else; put imports "
            "inside it",
        )
    if function.decorator_list:
        return Flaw(kind="not_one_function", text=f"{tool.name} has a decorator")
    return check_signature(function, tool) or next(find_forbidden(function), None)


def check_signature(function: ast.FunctionDef, tool: Tool) -> Flaw | None:
    """Return a flaw if parameters differ from the tool's, or defaults from what is optional."""
    taken = function.args
    plain = [*taken.posonlyargs, *taken.args]
    has_default = {argument.arg for argument in plain[len(plain) - len(taken.defaults) :]}
    has_default |= {
        argument.arg
        for argument, default in zip(taken.kwonlyargs, taken.kw_defaults, strict=True)
        if default is not None
    }
    names = {argument.arg for argument in [*taken.args, *taken.kwonlyargs]}
    properties = properties_of(tool.parameters)
    if taken.vararg or taken.kwarg or taken.posonlyargs or names != properties.keys():
        return Flaw(
            kind="signature",
            text=f"{tool.name} must take exactly {', '.join(properties)}; no * and no **",
        )
    required = {*required_of(tool.parameters)}
    if names - has_default != required:
        return Flaw(
            kind="signature",
            text=f"{tool.name} must give a default to all but {', '.join(sorted(required))}",
        )
    return None


def find_forbidden(function: ast.FunctionDef) -> Iterator[Flaw]:
    """Yield flaws for imports and names that no lookup needs."""
    for node in ast.walk(function):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=module, level=level):
                modules = ["." * level + (module or "")]
            case _:
                modules = []
        for module in modules:
            if module.partition(".")[0] not in MODULES:
                yield Flaw(
                    kind="import",
                    text=f"{function.name} imports {module}; allowed are "
                    f"{', '.join(sorted(MODULES))}",
                )
        name = node.id if isinstance(node, ast.Name) else ""
        name = node.attr if isinstance(node, ast.Attribute) else name
        if name.startswith("__") or (isinstance(node, ast.Name) and name in FORBIDDEN):
            yield Flaw(kind="forbidden", text=f"{function.name} uses {name}")
        if isinstance(node, ast.Global | ast.Nonlocal):
            yield Flaw(kind="forbidden", text=f"{function.name} changes names outside itself")

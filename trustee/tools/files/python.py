"""Finding the tools of a Python module, which is parsed and never executed.

Marked functions and schemas that are written out are tools, wherever they stand. Where there are
none, the public functions with hints are, and where there are none either, the public methods of
classes. What is left out is said.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from trustee.errors import InputError
from trustee.tools.files.functions import Function, find_mark, literal_fields, read_function
from trustee.tools.files.hints import MOST_DEFINITIONS, HintReader, last_name
from trustee.tools.files.lists import read_tool
from trustee.tools.files.notices import Notices
from trustee.tools.files.rules import Found

UNMARKED = "functions that are not marked as tools, left out"
_REGISTERING = frozenset(("tool", "add_tool", "from_function"))
"""Calls that make a tool of the function that they are given."""
_DECLARING = frozenset(("Tool", "FunctionDeclaration", "FunctionTool"))
"""Calls whose keywords are a tool, written out."""
_SCHEMAS = ("parameters", "input_schema", "inputSchema")
_NO_TOOLS = frozenset(("main", "setup", "teardown", "run_server", "create_server"))
_OTHER_MARKS = frozenset(
    (
        *("prompt", "resource", "custom_route", "route", "get", "post", "put", "patch", "delete"),
        *("fixture", "command", "call_tool", "list_tools", "overload", "contextmanager"),
        *("asynccontextmanager", "event", "middleware", "validator", "field_validator"),
    )
)
"""Decorators that make something else of a function."""
_DATA = frozenset(("BaseModel", "TypedDict", "NamedTuple", "Struct", "Protocol", "Exception"))
"""Bases of classes that hold data."""


def read_functions(text: str, *, source: str, notices: Notices) -> Iterator[Found]:
    """Yield the tools of a module.

    Raises:
        InputError: if the text is not Python; strict notices also refuse a function that cannot be
            read.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        raise InputError(
            f"{source}: neither JSON, YAML nor Python,{f' line {line}:' if line else ''}"
            f" {error.args[0] if error.args else 'too large'}; give a JSON, JSONL, YAML or Python"
            " file"
        ) from error
    return _Module(tree, source=source, notices=notices).read()


class _Module:
    """A module whose tools are looked for."""

    def __init__(self, tree: ast.Module, *, source: str, notices: Notices) -> None:
        self._tree = tree
        self._source = source
        self._notices = notices
        self._names: dict[str, ast.ClassDef | ast.expr] = {}
        for inner in ast.walk(tree):
            if isinstance(inner, ast.ClassDef):
                self._names.setdefault(inner.name, inner)
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._names[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self._names |= {node.target.id: node.value} if node.value else {}

    def read(self) -> Iterator[Found]:
        """Yield the tools, those of the clearest sort alone."""
        functions = _last_ones(node for node in self._tree.body if isinstance(node, Function))
        registered = set(_registered(self._tree))
        methods = {
            function
            for node in ast.walk(self._tree)
            if isinstance(node, ast.ClassDef)
            for function in node.body
        }
        marked = [
            node
            for node in ast.walk(self._tree)
            if isinstance(node, Function)
            and (find_mark(node) or (node in functions and node.name in registered))
        ]
        declared = list(_declared(self._tree))
        if marked or declared:
            yield from self._read_all(sorted(marked, key=lambda node: node.lineno), methods=methods)
            yield from self._read_declared(declared)
            for function in functions:
                if function not in marked and function.name[0] != "_":
                    self._notices.add(UNMARKED, function.name)
            return
        public = [function for function in functions if self._may_be_tool(function)]
        found = list(self._read_all(_documented(public, self._notices)))
        yield from found or self._read_classes()

    def _may_be_tool(self, function: Function) -> bool:
        """Return whether a function is public and not marked as something else."""
        if function.name.startswith(("_", "test_")) or function.name in _NO_TOOLS:
            return False
        called = (m.func if isinstance(m, ast.Call) else m for m in function.decorator_list)
        if not _OTHER_MARKS.intersection(map(last_name, called)):
            return True
        self._notices.add("functions that are marked as no tools, left out", function.name)
        return False

    def _read_all(
        self, functions: Sequence[Function], *, methods: set[ast.stmt] | None = None
    ) -> Iterator[Found]:
        for function in functions:
            where = f"{self._source}: line {function.lineno} {function.name}"
            hints = HintReader(self._names, where, [MOST_DEFINITIONS])
            with self._notices.leaving_out():
                try:
                    tool = read_function(
                        function, hints, method=methods is not None and function in methods
                    )
                except RecursionError as error:
                    raise InputError(f"{where}: its hints nest too deeply") from error
                yield where, tool

    def _read_classes(self) -> Iterator[Found]:
        """Yield the public methods of the classes that are not data."""
        for node in self._tree.body:
            if not isinstance(node, ast.ClassDef) or node.name[0] == "_" or _is_data(node):
                continue
            methods = _last_ones(part for part in node.body if isinstance(part, Function))
            public = [m for m in methods if m.name[0] != "_" and not _is_property(m)]
            for where, tool in self._read_all(
                _documented(public, self._notices), methods=set(node.body)
            ):
                yield where, msgspec.structs.replace(tool, category=node.name)

    def _read_declared(self, declared: Sequence[ast.Dict | ast.Call]) -> Iterator[Found]:
        for node in declared:
            where = f"{self._source}: line {node.lineno}"
            with self._notices.leaving_out():
                try:
                    entry = _literal(node)
                except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
                    raise InputError(
                        f"{where}: a tool's schema is not written out ({error}); only literals are"
                        " read"
                    ) from error
                yield where, read_tool(entry, where=where)


def _last_ones(functions: Iterator[Function]) -> list[Function]:
    """Return functions without those that are defined again, as Python has it."""
    return list({function.name: function for function in functions}.values())


def _documented(functions: Sequence[Function], notices: Notices) -> list[Function]:
    """Return the functions with docstrings, or all if none has one."""
    documented = [function for function in functions if ast.get_docstring(function)]
    if not documented:
        return list(functions)
    for function in functions:
        if function not in documented:
            notices.add("functions without docstrings, left out", function.name)
    return documented


def _registered(tree: ast.Module) -> Iterator[str]:
    """Yield the names of functions that a call such as `server.add_tool(f)` makes tools of."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last_name(node.func) in _REGISTERING:
            yield from (part.id for part in node.args if isinstance(part, ast.Name))


def _declared(tree: ast.AST) -> Iterator[ast.Dict | ast.Call]:
    """Yield the outermost literals that are a tool."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Dict | ast.Call) and _is_declared(node):
            yield node
        else:
            yield from _declared(node)


def _is_declared(node: ast.Dict | ast.Call) -> bool:
    if isinstance(node, ast.Call):
        keys = {keyword.arg for keyword in node.keywords}
        return last_name(node.func) in _DECLARING and "name" in keys and _has_schema(keys)
    named = {key.value: value for key, value in _pairs(node)}
    inner = named.get("function")
    if isinstance(inner, ast.Dict) and _is_declared(inner):
        return True
    return "name" in named and _has_schema(set(named))


def _has_schema(keys: set[Any]) -> bool:
    return any(key in keys for key in _SCHEMAS)


def _pairs(node: ast.Dict) -> Iterator[tuple[ast.Constant, ast.expr]]:
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant):
            yield key, value


def _literal(node: ast.Dict | ast.Call) -> Any:
    """Evaluate a literal; of a call its keywords that are literals, and the name and schema."""
    if isinstance(node, ast.Dict):
        return ast.literal_eval(node)
    entry: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg in ("name", "description", *_SCHEMAS):
            entry[keyword.arg] = ast.literal_eval(keyword.value)
        elif keyword.arg == "annotations":
            entry["annotations"] = literal_fields(keyword.value)
    return entry


def _is_data(node: ast.ClassDef) -> bool:
    bases = [last_name(base) for base in node.bases]
    made = [
        last_name(mark.func if isinstance(mark, ast.Call) else mark) for mark in node.decorator_list
    ]
    return "dataclass" in made or any(
        base in _DATA or base.endswith(("Enum", "Error", "Exception")) for base in bases
    )


def _is_property(function: Function) -> bool:
    marks = {last_name(mark) for mark in function.decorator_list}
    return bool(marks & {"property", "cached_property", "setter", "overload", "abstractmethod"})

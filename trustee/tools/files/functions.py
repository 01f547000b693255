"""One Python function as a tool: its decorator, hints, defaults and docstring."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any

from docstring_parser import Docstring, ParseError, google, parse

from trustee.errors import InputError
from trustee.tools.files.hints import (
    ALLOWED_HINTS,
    HintReader,
    is_needed,
    last_name,
    with_default,
)
from trustee.tools.files.rules import (
    Schema,
    add_property,
    first_paragraph,
    guess_effect,
    object_schema,
)
from trustee.tools.type_words import read_type
from trustee.types import Tool

Function = ast.FunctionDef | ast.AsyncFunctionDef
MARKS = frozenset(("tool", "kernel_function", "ai_function", "ai_callable", "tool_plain"))
"""Names of decorators that make a tool of a function, as are all that end in `_tool`."""
_NO_MARKS = frozenset(("call_tool", "list_tools"))
"""Decorators of servers' own handlers."""
INJECTED = frozenset(
    (
        *("Context", "RunContext", "RunContextWrapper", "ToolContext", "ToolRuntime"),
        *("CallbackContext", "InvocationContext", "ReadonlyContext", "Progress", "Kernel"),
    )
)
"""Types of parameters that a framework fills in."""
_INJECTING = frozenset(
    (
        *("Depends", "CurrentContext", "Inject", "Injected", "InjectedToolArg", "InjectedState"),
        *("InjectedStore", "InjectedToolCallId", "ToolDependency", "Progress"),
    )
)
"""Defaults and notes of parameters that a framework fills in."""
_HANDED = frozenset(("ctx", "context", "run_context", "tool_context"))
"""Names of such parameters where they have no type."""


def find_mark(function: Function) -> ast.expr | None:
    """Return the decorator that makes a tool of a function, or None."""
    for decorator in function.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = last_name(called)
        if name in MARKS or (name.endswith("_tool") and name not in _NO_MARKS):
            return decorator
    return None


def read_function(function: Function, hints: HintReader, *, method: bool = False) -> Tool:
    """Turn a function into a tool, using its decorator, hints, defaults and docstring.

    Raises:
        InputError: if a parameter has no hint, or one that cannot be read.
    """
    mark = find_mark(function)
    told = _read_mark(mark)
    docstring = _read_docstring(function)
    schema = object_schema()
    for argument, default in _list_arguments(function, hints.where, method=method):
        if _is_injected(argument, default, hints.names):
            continue
        described = next((p for p in docstring.params if p.arg_name == argument.arg), None)
        written = _read_hint(
            argument,
            hints._replace(where=f"{hints.where}({argument.arg})"),
            word=(described and described.type_name) or "",
            marked=mark is not None,
        )
        words = " ".join(((described and described.description) or "").split())
        add_property(
            schema,
            argument.arg,
            schema=with_default(written, default) | ({"description": words} if described else {}),
            needed=is_needed(default),
        )
    if function.args.kwarg is not None and mark is None:
        others = function.args.kwarg.annotation
        schema["additionalProperties"] = others is None or hints.read(others)
    name = told.get("name") or function.name
    return Tool(
        name=name,
        description=first_paragraph(told.get("description") or docstring.description or ""),
        parameters=schema,
        effect=told.get("effect") or guess_effect(name),
    )


def _list_arguments(
    function: Function, where: str, *, method: bool
) -> list[tuple[ast.arg, ast.expr | None]]:
    """Return the parameters with their defaults, without the object of a method."""
    taken = function.args
    if taken.vararg is not None:
        raise InputError(
            f"{where}: *{taken.vararg.arg} cannot be passed by name; use a list parameter"
        )
    listed = [*taken.posonlyargs, *taken.args]
    defaults: list[ast.expr | None] = [
        *[None] * (len(listed) - len(taken.defaults)),
        *taken.defaults,
        *taken.kw_defaults,
    ]
    static = any(last_name(mark) == "staticmethod" for mark in function.decorator_list)
    pairs = list(zip((*listed, *taken.kwonlyargs), defaults, strict=True))
    return pairs[1:] if method and not static else pairs


def _read_hint(argument: ast.arg, hints: HintReader, *, word: str, marked: bool) -> Schema:
    if argument.annotation is not None:
        return hints.read(argument.annotation)
    # Without a hint the docstring may say the type.
    if schema := read_type(word):
        return schema
    if marked:
        return {}
    raise InputError(f"{hints.where}: has no type hint; use one of {ALLOWED_HINTS}")


def _is_injected(argument: ast.arg, default: ast.expr | None, names: Mapping[str, Any]) -> bool:
    """Return whether a framework fills a parameter in, so that no caller gives it."""
    if argument.arg in ("self", "cls"):
        return argument.annotation is None
    if isinstance(default, ast.Call) and last_name(default.func) in _INJECTING:
        return True
    if argument.annotation is None:
        return argument.arg in _HANDED
    return any(_is_filled_in(part, names) for part in _alternatives(argument.annotation))


def _alternatives(hint: ast.expr) -> list[ast.expr]:
    """Return the members of a union, and what `Annotated` notes of a hint."""
    match hint:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return [*_alternatives(left), *_alternatives(right)]
        case ast.Subscript(value=base, slice=index):
            inner = index.elts if isinstance(index, ast.Tuple) else [index]
            if last_name(base) in ("Optional", "Union", "Annotated"):
                return [part for item in inner for part in _alternatives(item)]
            return [base]
        case ast.Constant(value=str(text)):
            try:
                return _alternatives(ast.parse(text, mode="eval").body)
            except SyntaxError:
                return []
    return [hint]


def _is_filled_in(part: ast.expr, names: Mapping[str, Any]) -> bool:
    called = part.func if isinstance(part, ast.Call) else part
    name = last_name(called)
    return name in _INJECTING or (name in INJECTED and name not in names)


def _read_docstring(function: Function) -> Docstring:
    """Read a docstring in Google's style, or any other; else only its text is used."""
    text = ast.get_docstring(function, clean=False) or ""
    try:
        docstring = google.parse(text)
        return docstring if docstring.params else parse(text)
    except ParseError:
        plain = Docstring()
        plain.short_description = first_paragraph(inspect.cleandoc(text))
        return plain


def _read_mark(mark: ast.expr | None) -> dict[str, Any]:
    """Return the name, description and effect that a decorator gives."""
    if not isinstance(mark, ast.Call):
        return {}
    given = {keyword.arg or "": keyword.value for keyword in mark.keywords}
    if mark.args:
        given.setdefault("name", mark.args[0])
    told: dict[str, Any] = {}
    for key in ("name", "description"):
        value = given.get(key, given.get(f"{key}_override"))
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            told[key] = value.value
    hints = literal_fields(given.get("annotations"))
    if isinstance(hints.get("readOnlyHint"), bool):
        told["effect"] = "read" if hints["readOnlyHint"] else "write"
    elif "destructiveHint" in hints:
        told["effect"] = "write"
    return told


def literal_fields(node: ast.expr | None) -> dict[str, Any]:
    """Return the fields of a literal dict, or of a call with keywords, that are literals."""
    if isinstance(node, ast.Call):
        return {
            str(keyword.arg): keyword.value.value
            for keyword in node.keywords
            if isinstance(keyword.value, ast.Constant)
        }
    if not isinstance(node, ast.Dict):
        return {}
    pairs = zip(node.keys, node.values, strict=True)
    return {
        str(key.value): value.value
        for key, value in pairs
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
    }

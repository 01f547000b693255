"""Reading tools from the user's files, and writing them.

Whatever its format, every tool becomes a `Tool` record whose parameters are a checked JSON Schema,
so other packages never need to know where a tool came from. The format is recognised by content.
OpenAI JSON, in which tools are also written, is read here; each other format has its own module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trustee.decoding import decode_json, decode_text, read_file
from trustee.errors import InputError
from trustee.tools.arguments import shorten
from trustee.tools.files.notices import Notices
from trustee.tools.files.openapi import read_operations
from trustee.tools.files.python import read_functions
from trustee.tools.files.rules import Found, check_effect, guess_effect, select_tools
from trustee.tools.files.yaml_text import decode_yaml, is_yaml
from trustee.tools.selection import Selection
from trustee.types import Tool

ALL = Selection()
"""Every tool of a file."""
MOST_TOOL_BYTES = 64 << 20
"""Size of the largest file of tools."""


def import_tools(
    path: Path, selection: Selection = ALL, *, notices: Notices | None = None
) -> tuple[Tool, ...]:
    """Read the wanted tools of a file; its format is recognised by content.

    A text that begins with a brace or bracket is JSON: OpenAI tools, bare functions, JSON lines of
    either, or an OpenAPI 3 or Swagger 2 document. One that begins with a key or a dash is the same
    in YAML. Any other text is a Python module of functions with type hints and Google docstrings.
    If the effect is not declared by `x-effect`, it follows from an operation's HTTP method, or from
    the first word of the name (`READ_VERBS`).

    A tool that cannot be used is left out, which `notices` then says.

    Raises:
        InputError: if the file cannot be read, or no tool in it can be used.
    """
    notices = Notices() if notices is None else notices
    data = read_file(
        path,
        error=lambda why: InputError(f"{path}: {why}; give a JSON, JSONL, YAML or Python file"),
        most=MOST_TOOL_BYTES,
    )
    found = read_tools(data, source=str(path), selection=selection, notices=notices)
    tools = select_tools(found, selection, notices=notices)
    if tools:
        return tools
    if notices.left_out:
        raise _refuse_all(notices.left_out)
    if selection.only or selection.skip:
        raise InputError(f"{path}: no tool is left by {selection.describe()}")
    raise InputError(
        f"{path}: no tools found; give OpenAI tools, an OpenAPI document with operations, or"
        " public Python functions"
    )


def _refuse_all(left_out: list[InputError]) -> InputError:
    others = len(left_out) - 1
    if not others:
        return left_out[0]
    return InputError(f"{left_out[0]}; {others:,} more cannot be used, and nothing is left")


def dump_tools(tools: Iterable[Tool]) -> bytes:
    """Return tools as OpenAI JSON, which `import_tools` reads back unchanged."""
    entries = [
        {**tool.schema, "x-effect": tool.effect, "x-category": tool.category} for tool in tools
    ]
    return (json.dumps(entries, ensure_ascii=False, indent=1) + "\n").encode()


def read_tools(
    data: bytes, *, source: str, selection: Selection = ALL, notices: Notices | None = None
) -> Iterator[Found]:
    """Read tools from a file's bytes, without the checks of `check_tools`.

    Raises:
        InputError: if the bytes cannot be read; without notices also if a tool in them cannot.
    """
    notices = Notices(strict=True) if notices is None else notices
    text = decode_text(
        data, error=lambda why: InputError(f"{source}: {why}; save the file as UTF-8")
    )
    if not text.lstrip().startswith(("{", "[")):
        if not is_yaml(text):
            return read_functions(text, source=source)
        documents = decode_yaml(
            text,
            notices=notices,
            error=lambda why: InputError(
                f"{source}: not YAML, {why}; give a JSON, JSONL, YAML or Python file"
            ),
        )
        return _read_documents(documents, source=source, selection=selection, notices=notices)
    try:
        document = decode_json(text, error=_NotJson)
    except _NotJson as error:
        if "trailing characters" not in str(error):
            raise _refuse_text(source, error) from error
        return _read_lines(text, source=source, notices=notices)
    return _read_documents([document], source=source, selection=selection, notices=notices)


def _read_documents(
    documents: list[Any], *, source: str, selection: Selection, notices: Notices
) -> Iterator[Found]:
    for number, document in enumerate(documents, start=1):
        where = f"{source}: document {number}" if len(documents) > 1 else source
        with notices.leaving_out():
            if isinstance(document, dict) and ("openapi" in document or "swagger" in document):
                yield from read_operations(
                    document, source=where, selection=selection, notices=notices
                )
            else:
                yield from _read_document(document, source=where, notices=notices)


class _NotJson(ValueError):
    """A text is no JSON document."""


def _refuse_text(source: str, error: _NotJson) -> InputError:
    return InputError(f"{source}: {error}; give one JSON document, or one JSON object per line")


def _read_lines(text: str, *, source: str, notices: Notices) -> Iterator[Found]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            where = f"{source}: line {number}"
            with notices.leaving_out():
                try:
                    entry = decode_json(line, error=_NotJson)
                except _NotJson as error:
                    raise _refuse_text(where, error) from error
                yield where, _read_entry(entry, where=where)


def _read_document(document: Any, *, source: str, notices: Notices) -> Iterator[Found]:
    key = ""
    if isinstance(document, dict):
        key = next((key for key in ("tools", "functions") if key in document), "")
        document = document[key] if key else [document]
    if not isinstance(document, list):
        raise InputError(f"{source}: {key} must be a list of tools, got {shorten(document)}")
    for index, entry in enumerate(document):
        where = f"{source}: {key}[{index}]"
        with notices.leaving_out():
            yield where, _read_entry(entry, where=where)


def _read_entry(entry: Any, *, where: str) -> Tool:
    """Read one OpenAI tool or bare function."""
    function = entry.get("function", entry) if isinstance(entry, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise InputError(
            f"{where}: not a tool, got {shorten(entry)}; a tool is"
            ' {"type": "function", "function": {…}} or {"name": …, "parameters": {…}}'
        )
    marks = {**function, **entry}
    texts = {
        "name": function["name"],
        "description": function.get("description") or "",
        "category": marks.get("x-category", marks.get("category", "")),
    }
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InputError(f"{where}.{key}: must be a string, got {shorten(value)}")
    parameters = function.get("parameters")
    effect = marks.get("x-effect", marks.get("effect"))
    return Tool(
        **texts,
        parameters={"type": "object", "properties": {}} if parameters is None else parameters,
        effect=guess_effect(texts["name"]) if effect is None else check_effect(effect, where=where),
    )

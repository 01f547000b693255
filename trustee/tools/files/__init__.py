"""Reading tools from the user's files, and writing them.

Whatever its format, every tool becomes a `Tool` record whose parameters are a checked JSON Schema,
so other packages never need to know where a tool came from. The format is recognised by content.
OpenAI JSON, in which tools are also written, is one of the lists; each form has its own module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from trustee.decoding import decode_json, decode_text, read_file
from trustee.errors import InputError
from trustee.tools.files.lists import read_document, read_line
from trustee.tools.files.notices import Notices
from trustee.tools.files.openapi import read_operations
from trustee.tools.files.python import read_functions
from trustee.tools.files.rules import Found, select_tools
from trustee.tools.files.yaml_text import decode_yaml, is_yaml
from trustee.tools.selection import Selection
from trustee.types import Tool

ALL = Selection()
"""Every tool of a file."""
ENDINGS = frozenset((".json", ".jsonl", ".snap", ".yaml", ".yml", ".py"))
"""Endings of the files that are read from a folder."""
MOST_TOOL_BYTES = 64 << 20
"""Size of the largest file of tools."""


def import_tools(
    path: Path, selection: Selection = ALL, *, notices: Notices | None = None
) -> tuple[Tool, ...]:
    """Read the wanted tools of a file or folder; the format is recognised by content.

    A text that begins with a brace or bracket is JSON: a list of tools as OpenAI, Anthropic, MCP
    servers and data sets write it, one tool, JSON lines of either, or an OpenAPI 3 or Swagger 2
    document. One that begins with a key or a dash is the same in YAML. Any other text is a Python
    module of functions with type hints and Google docstrings. If the effect is not declared by
    `x-effect` or a server's hints, it follows from an operation's HTTP method, or from the first
    word of the name (`READ_VERBS`).

    A tool that cannot be used is left out, which `notices` then says.

    Raises:
        InputError: if the file cannot be read, or no tool in it can be used.
    """
    notices = Notices() if notices is None else notices
    read = _read_folder if path.is_dir() else _read_path
    found = read(path, selection=selection, notices=notices)
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


def _read_path(path: Path, *, selection: Selection, notices: Notices) -> Iterator[Found]:
    data = read_file(
        path,
        error=lambda why: InputError(f"{path}: {why}; give a JSON, JSONL, YAML or Python file"),
        most=MOST_TOOL_BYTES,
    )
    return read_tools(data, source=str(path), selection=selection, notices=notices)


def _read_folder(folder: Path, *, selection: Selection, notices: Notices) -> Iterator[Found]:
    """Read every file of a folder that may hold tools; one with several names their category."""
    for path in sorted(folder.iterdir()):
        if path.suffix not in ENDINGS or not path.is_file():
            continue
        with notices.leaving_out():
            found = list(_read_path(path, selection=selection, notices=notices))
            for where, tool in found:
                category = tool.category or (path.stem if len(found) > 1 else "")
                yield where, msgspec.structs.replace(tool, category=category)


def _refuse_all(left_out: list[InputError]) -> InputError:
    others = len(left_out) - 1
    if not others:
        return left_out[0]
    return InputError(f"{left_out[0]}; {others:,} more cannot be used, and nothing is left")


def dump_tools(tools: Iterable[Tool]) -> bytes:
    """Return tools as OpenAI JSON, which `import_tools` reads back unchanged."""
    entries = [
        {**tool.schema, "x-effect": tool.effect, "x-category": tool.category}
        | ({"x-toolset": tool.toolset} if tool.toolset else {})
        for tool in tools
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
            return read_functions(text, source=source, notices=notices)
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
                yield from read_document(document, source=where, notices=notices)


class _NotJson(ValueError):
    """A text is not a JSON document."""


def _refuse_text(source: str, error: _NotJson) -> InputError:
    return InputError(f"{source}: {error}; give one JSON document, or one JSON object per line")


def _read_lines(text: str, *, source: str, notices: Notices) -> Iterator[Found]:
    # Other ends of lines, such as U+2028, may stand inside a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            with notices.leaving_out():
                try:
                    entry = decode_json(line, error=_NotJson)
                except _NotJson as error:
                    raise _refuse_text(f"{source}: line {number}", error) from error
                yield from read_line(entry, number, source=source, notices=notices)

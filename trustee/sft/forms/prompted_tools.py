"""Tools that a system prompt lists in words, which a chat template would write itself.

Hermes lists them in `<tools>`, ToolACE after a sentence. The list is read and taken out of the
prompt, with the sentences that say how another program wants calls written; all else stays.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.tools.chat import read_offered_tools
from trustee.types import Tool

BLOCK = re.compile(r"<tools>\s*([\[{].*?)\s*</tools>", re.DOTALL)
LISTED = re.compile(r"Here is a list of functions in JSON format[^\n\[]*[:.]\s*(?=\[)")
SENTENCES = re.compile(r"(?<=[.!?])(?=\s)|(?<=\n)")
ABOUT_CALLS = re.compile(
    r"</?tools>|</?tool_call>|</?tool_response>|pydantic model json schema|"
    r"should you decide to return the function call|in the format of \[|"
    r"(?:should not include any|no) other text",
    re.IGNORECASE,
)
"""What a sentence holds that says how calls are to be written."""
EXAMPLE = re.compile(r"<tool_call>\s*\{.*?\}\s*</tool_call>", re.DOTALL)
COLON = re.compile(r":\s*\Z")
HEADING = re.compile(r"^#+ Tools\s*$", re.MULTILINE)
WORDS = {"true": True, "false": False, "null": None, "none": None}
MOST_LITERAL = 30_000
"""Characters of the longest Python value that is read."""


def take_tools(prompt: str) -> tuple[str, tuple[Tool, ...]] | None:
    """Return a system prompt without its list of tools, and the tools; None where it has none.

    Raises:
        InputError: if there is a list that cannot be read.
    """
    if (block := BLOCK.search(prompt)) is not None:
        tools = _read_list(block.group(1))
        # The mark stays for a moment, so that the sentence that leads up to the list goes too.
        before = COLON.sub(": ", prompt[: block.start()])
        return _tidy(f"{before}<tools>\n{prompt[block.end() :]}"), tools
    if (listed := LISTED.search(prompt)) is not None:
        end = _end_of_list(prompt, listed.end())
        tools = _read_list(prompt[listed.end() : end])
        return _tidy(f"{prompt[: listed.start()]}\n{prompt[end:].removeprefix('.')}"), tools
    return None


def read_value(text: str, *, where: str) -> Any:
    """Read JSON, or the Python literal that some files have in its place.

    Raises:
        InputError: naming `where`.
    """
    try:
        return decode_json(text, error=InputError)
    except InputError as error:
        reason = str(error)
    try:
        return read_literal(text)
    except ValueError:
        raise InputError(f"{where}: {reason}") from None


def read_literal(text: str) -> Any:
    """Read a Python literal, in which `true`, `false` and `null` may stand too, as a JSON value.

    Raises:
        ValueError: if it is not one, or nothing that JSON can hold.
    """
    if len(text) > MOST_LITERAL:
        raise ValueError(f"it has more than {MOST_LITERAL:,} characters")
    try:
        tree = _name_constants(ast.parse(text.strip(), mode="eval"))
        written = json.dumps(ast.literal_eval(tree))
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return decode_json(written, error=ValueError)


def _name_constants(tree: ast.Expression) -> ast.Expression:
    for node in ast.walk(tree):
        for field, child in ast.iter_fields(node):
            if isinstance(child, list):
                child[:] = [_as_constant(one) for one in child]
            else:
                setattr(node, field, _as_constant(child))
    return tree


def _as_constant(node: Any) -> Any:
    word = node.id.lower() if isinstance(node, ast.Name) else ""
    return ast.Constant(WORDS[word]) if word in WORDS else node


def _read_list(text: str) -> tuple[Tool, ...]:
    """Read a list of tools, or tools one a line."""
    lines = [line for line in text.splitlines() if line.strip()]
    if text.startswith("{") and len(lines) > 1 and all(line.startswith("{") for line in lines):
        text = f"[{','.join(lines)}]"
    return read_offered_tools(
        read_value(text, where="the tools in the system prompt"),
        where="the tools in the system prompt",
    )


def _end_of_list(text: str, start: int) -> int:
    """Return where the list at `start` ends, judging by brackets outside strings."""
    depth, quoted, at = 0, False, start
    while at < len(text):
        letter = text[at]
        if quoted and letter == "\\":
            at += 1
        elif letter == '"':
            quoted = not quoted
        elif not quoted:
            depth += (letter == "[") - (letter == "]")
            if depth == 0:
                return at + 1
        at += 1
    return len(text)


def _tidy(prompt: str) -> str:
    """Return a prompt without the sentences and examples that say how calls are to be written."""
    sentences = SENTENCES.split(EXAMPLE.sub("", prompt))
    kept = "".join(one for one in sentences if ABOUT_CALLS.search(one) is None)
    return re.sub(r"\n{3,}", "\n\n", HEADING.sub("", kept)).strip()

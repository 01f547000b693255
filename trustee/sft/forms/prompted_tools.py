"""Tools that a system prompt lists in words, which a chat template would write itself.

Hermes lists them in `<tools>`, ToolACE after a sentence. The list is read and taken out of the
prompt, with the sentences that say how another program wants calls written; all else stays.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.tools.chat import read_offered_tools
from trustee.types import Tool

BLOCK = re.compile(r"<tools>\s*([\[{].*?)\s*</tools>", re.DOTALL)
LISTED = re.compile(r"Here is a list of functions in JSON format[^\n\[]*:\s*(?=\[)")
WRITTEN_AS = re.compile(r"[\s.]*Should you decide to return the function call.*\Z", re.DOTALL)
SENTENCES = re.compile(r"(?<=[.!?])(?=\s)|(?<=\n)")
ABOUT_CALLS = re.compile(
    r"</?tools>|</?tool_call>|</?tool_response>|pydantic model json schema", re.IGNORECASE
)
EXAMPLE = re.compile(r"<tool_call>\s*\{.*?\}\s*</tool_call>", re.DOTALL)
HEADING = re.compile(r"^#+ Tools\s*$", re.MULTILINE)
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
        rest = EXAMPLE.sub("", f"{prompt[: block.start()]}<tools>\n{prompt[block.end() :]}")
        kept = [one for one in SENTENCES.split(rest) if ABOUT_CALLS.search(one) is None]
        return _tidy(HEADING.sub("", "".join(kept))), tools
    if (listed := LISTED.search(prompt)) is not None:
        end = _end_of_list(prompt, listed.end())
        tools = _read_list(prompt[listed.end() : end])
        return _tidy(prompt[: listed.start()] + WRITTEN_AS.sub("", prompt[end:])), tools
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
    if len(text) <= MOST_LITERAL:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
    raise InputError(f"{where}: not JSON ({reason})")


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


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip()

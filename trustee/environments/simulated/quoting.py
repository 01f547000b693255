"""Quoting what the policy can shape, so that it is evidence in a prompt and nothing else.

A quote is one line of visible characters without marks of chat templates, JSON or a judge's keys.
Of a long text its beginning and its end are shown. Nothing else is hidden: a text with forbidden
parts is shown with `[mark]` in their place.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

from trustee.decoding import decode_json
from trustee.environments.simulated.criteria import Criterion
from trustee.tools.values import call_line, render_json
from trustee.types import ToolCall

ROLE_MARKERS = re.compile(
    r"<\|[^|<>]{0,40}\|>|</?(?:tool_call|tool_response|tools|think|function|parameter)\b[^<>]{0,80}>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS)\]|<</?SYS>>"
)
"""Marks of chat templates: `<|…|>` tokens, tags of calls, results, tools and thoughts, and names in
square brackets. Lengths are bounded so that a long text without a closing bracket costs no
quadratic time."""
LOOKALIKES = str.maketrans({"{": "(", "}": ")", '"': "'", "<": "‹", ">": "›", "`": "'"})
"""Harmless replacements for the characters of which JSON and tags are made."""
MARK = "[mark]"
"""What is shown in place of a forbidden part."""
HEAD = 800
"""Number of characters that are shown of the beginning of a long text."""
TAIL = 400
"""Number of characters that are shown of its end."""
MAX_QUOTE = HEAD + TAIL
"""Maximum number of characters of a text that is shown as a whole; an 8B judge makes no use of
more."""

_KEYS = "|".join(re.escape(key).replace("_", "[ _-]?") for key in ("evidence", *Criterion))
_QUOTES = r"[\"'`\u00b4\u00ab\u00bb\u2018-\u201f\u2039\u203a\u3008-\u300f*_~|\\]{0,4}"
VERDICT_KEYS = re.compile(
    rf"(?<!\w){_QUOTES}(?:{_KEYS}){_QUOTES}\s{{0,4}}[:=](?:\s{{0,4}}(?:true|false)\b)?"
    rf"|‹/?(?:{_KEYS})(?:[^‹›\w][^‹›]{{0,20}})?›",
    re.IGNORECASE,
)
"""A key of a verdict, its colon and its truth, in any quotes or none; or a tag of its name."""
_VERDICT_KEY = re.compile(rf"\W*(?:{_KEYS})\W*", re.IGNORECASE)
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
"""Letters, marks and selectors without a shape, besides controls and what only formats."""


def quote(text: str) -> str:
    """Return text from the dialogue that is harmless in a prompt: one line, no markers, no JSON."""
    text = "\n".join(show_visible(line).strip() for line in text.splitlines())
    text = VERDICT_KEYS.sub(MARK, ROLE_MARKERS.sub(MARK, text).translate(LOOKALIKES))
    text = " / ".join(part.strip() for part in text.splitlines() if part.strip())
    if len(text) <= MAX_QUOTE:
        return text
    cut = f"{text[:HEAD]} [{len(text) - MAX_QUOTE} characters cut] {text[-TAIL:]}"
    # The end may begin within a word, and so with a key.
    return VERDICT_KEYS.sub(MARK, cut)


def show_visible(line: str) -> str:
    """Return a line in the usual letters, without characters that a reader does not see."""
    if line.isascii() and line.isprintable():
        return line
    plain = unicodedata.normalize("NFKC", "".join(map(_show_character, line)))
    # Some letters without a shape are made by the normal form.
    return "".join(map(_show_character, plain))


@lru_cache(maxsize=4096)
def _show_character(character: str) -> str:
    if character == "\t":
        return " "
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co")
    return "" if hidden or _INVISIBLE.match(character) else character


def quote_result(content: str) -> str:
    """Return a tool's JSON with harmless strings, because they may echo the policy's call."""
    try:
        value = decode_json(content, error=ValueError)
    except ValueError:
        return quote(content)
    return render_json(_quote_value(value))


def quote_call(call: ToolCall) -> str:
    """Return a policy's call as one line with harmless string values."""
    return call_line(quote(call.name), _quote_object(call.arguments))


def _quote_value(value: Any) -> Any:
    match value:
        case str():
            return quote(value)
        case list():
            return [_quote_value(item) for item in value]
        case dict():
            return _quote_object(value)
        case _:
            return value


def _quote_object(value: dict[str, Any]) -> dict[str, Any]:
    """Return an object without a verdict's keys; keys that look alike are counted."""
    quoted: dict[str, Any] = {}
    for key, item in value.items():
        shown = MARK if _VERDICT_KEY.fullmatch(show_visible(str(key))) else quote(str(key))
        if shown in quoted:
            shown = f"{shown} ({len(quoted)})"
        quoted[shown] = _quote_value(item)
    return quoted

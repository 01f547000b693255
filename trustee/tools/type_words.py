"""Types that are words of another language, as JSON Schema.

People's function lists say `dict`, `float` or `List[int], optional` where JSON Schema says
`object`, `number` or an array of integers.
"""

from __future__ import annotations

import re
from typing import Any

_LISTED = {
    "string": "string str text char bytes date datetime date-time time uuid path url uri file",
    "integer": "integer int long short byte bigint int32 int64",
    "number": "number float double decimal numeric real",
    "boolean": "boolean bool",
    "object": "object dict dictionary map hashmap mapping",
    "array": "array list tuple set frozenset arraylist sequence iterable",
    "null": "null none nonetype",
}
FORM_FIELDS = (
    *("datepicker", "timepicker", "select", "dropdown", "radio", "textarea", "password"),
    *("credentials", "secret", "email", "phone", "color", "geopoint", "enum"),
)
"""Kinds of a form's fields, which tools of web catalogues have; what is typed into one is text."""
WORDS = {word: kind for kind, words in _LISTED.items() for word in words.split()} | dict.fromkeys(
    FORM_FIELDS, "string"
)
"""JSON Schema's type by the lower-case word for it."""
ANY = frozenset(("any", "mixed", "unknown", "*", ""))
"""Words that say nothing on purpose."""
OPTIONAL = re.compile(r",?\s*optional\.?\s*$", re.IGNORECASE)
GENERIC = re.compile(r"([\w.]+)\s*\[(.*)\]", re.DOTALL)
MOST_CHARACTERS = 200
"""Length of the longest text that is read as a type."""


def is_known(text: str) -> bool:
    """Return whether a word for a type is known, or says on purpose that all are allowed."""
    plain = OPTIONAL.sub("", text[:MOST_CHARACTERS]).strip()
    return bool(read_type(plain)) or plain.rpartition(".")[2].lower() in ANY


def read_type(text: str) -> dict[str, Any]:
    """Return the schema of a type that is written as a word or as in Python.

    A word that says nothing gives the schema that allows everything.
    """
    text = OPTIONAL.sub("", text[:MOST_CHARACTERS]).strip()
    if text.endswith("[]"):
        items = read_type(text[:-2])
        return {"type": "array", "items": items} if items else {"type": "array"}
    text = re.sub(r"^(\w+)\s*<(.*)>$", r"\1[\2]", text, flags=re.DOTALL)
    if (word := text.rpartition(".")[2].lower()) in WORDS:
        return {"type": WORDS[word]}
    choices = _split(text, "|")
    generic = GENERIC.fullmatch(text)
    if len(choices) == 1 and generic is not None:
        outer = generic.group(1).rpartition(".")[2].lower()
        inner = _split(generic.group(2), ",")
        if WORDS.get(outer) == "array":
            items = read_type(inner[0]) if len(set(inner) - {"..."}) == 1 else {}
            return {"type": "array", "items": items} if items else {"type": "array"}
        if outer not in ("union", "optional"):
            return {"type": WORDS[outer]} if outer in WORDS else {}
        choices = inner if outer == "union" else [*inner, "none"]
    elif len(choices) == 1:
        return {}
    schemas = [read_type(choice) for choice in choices]
    return {"anyOf": schemas} if all(schemas) else {}


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside brackets."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == separator and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]

"""Reading YAML as the JSON that it stands for, in bounded time and memory.

PyYAML's parser gives the events; what they mean is decided here, by the core schema of YAML 1.2:
dates, `yes` and `on` are text, and so is every key. An alias may repeat what it names only as long
as the whole stays small.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from typing import Any

import yaml

from trustee.decoding import MOST_DEPTH, Failure
from trustee.tools.files.notices import Notices

MOST_VALUES = 2_000_000
"""Values that a text may stand for when its aliases are written out."""
TAGS = "tags that are not read, whose value is taken as it stands"
TWICE = "keys that are given twice, of which the last counts"

_FIRST_LINE = re.compile(r"""(?:---|%YAML|-|(?P<q>["']?)[\w$./@ -]+(?P=q)\s*:)(?:\s|$)""")
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEAN = dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(
    ("false", "False", "FALSE"), False
)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,400})")
_OTHER_INTEGER = re.compile(r"0o[0-7]{1,400}|0x[0-9a-fA-F]{1,400}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_CORE = "tag:yaml.org,2002:"
_TEXT_TAGS = frozenset(("!", _CORE + "str"))
_VALUE_TAGS = frozenset(_CORE + name for name in ("int", "float", "bool", "null", "map", "seq"))


def is_yaml(text: str) -> bool:
    """Return whether a text begins as YAML does and is not Python."""
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    if _FIRST_LINE.match(next(lines, "x")) is None:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    return False


def decode_yaml(text: str, *, notices: Notices, error: Failure) -> list[Any]:
    """Return the documents of a text, without the empty ones.

    Raises:
        Exception: `error` of what is wrong, and nothing else.
    """
    builder = _Builder(notices=notices, error=error)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as caught:
        mark = caught.problem_mark
        raise error(f"line {mark.line + 1 if mark else '?'}: {caught.problem}") from caught
    except yaml.YAMLError as caught:
        raise error(str(caught).splitlines()[0]) from caught
    return [document for document in builder.documents if document is not None]


class _Node:
    """A list or object that is being read."""

    __slots__ = ("anchor", "height", "key", "merged", "size", "value")

    def __init__(self, value: list[Any] | dict[str, Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: str | None = None
        self.merged: list[Any] = []
        self.size = 1
        """Values in it, aliases written out."""
        self.height = 1
        """Levels in it."""


class _Builder:
    """Builds documents of events."""

    def __init__(self, *, notices: Notices, error: Failure) -> None:
        self.documents: list[Any] = []
        self.notices = notices
        self.error = error
        self._open: list[_Node] = []
        self._anchors: dict[str, tuple[Any, int, int]] = {}
        """By name, the value, its size and its height."""

    def take(self, event: yaml.Event) -> None:
        """Take the next event of the text."""
        match event:
            case yaml.ScalarEvent():
                self._take_scalar(event)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._check_key(event)
                self._note_tag(event)
                if len(self._open) >= MOST_DEPTH:
                    raise self._refuse(event, f"is nested deeper than {MOST_DEPTH} levels")
                mapping = isinstance(event, yaml.MappingStartEvent)
                self._open.append(_Node({} if mapping else [], event.anchor))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                node = self._open.pop()
                for merged in node.merged:
                    self._merge(node, merged, event)
                self._add(node.value, event, node.anchor, size=node.size, height=node.height)
            case yaml.AliasEvent():
                if event.anchor not in self._anchors:
                    raise self._refuse(
                        event, f"the alias *{event.anchor} names nothing that ends before it"
                    )
                value, size, height = self._anchors[event.anchor]
                self._check_key(event, value)
                self._add(value, event, None, size=size, height=height)
            case yaml.DocumentStartEvent():
                self._anchors = {}

    def _take_scalar(self, event: yaml.ScalarEvent) -> None:
        node = self._open[-1] if self._open else None
        if node is not None and isinstance(node.value, dict) and node.key is None:
            # The parser has put away how a key was written, so `1.0` stays that.
            value: Any = event.value
        else:
            value = self._resolve(event)
        self._add(value, event, event.anchor)

    def _resolve(self, event: yaml.ScalarEvent) -> Any:
        """Return the value of a scalar."""
        if event.tag in _TEXT_TAGS or (event.tag is None and not event.implicit[0]):
            return event.value
        if event.tag is not None and event.tag not in _VALUE_TAGS:
            self._note_tag(event)
            return event.value
        return _read_scalar(event.value)

    def _add(
        self,
        value: Any,
        event: yaml.Event,
        anchor: str | None,
        *,
        size: int = 1,
        height: int = 0,
    ) -> None:
        """Put a value into what is being read."""
        if anchor is not None:
            self._anchors[anchor] = value, size, height
        if not self._open:
            self.documents.append(value)
            return
        node = self._open[-1]
        node.size += size
        node.height = max(node.height, height + 1)
        if node.size > MOST_VALUES or len(self._open) + height > MOST_DEPTH:
            raise self._refuse(
                event,
                f"stands for more than {MOST_VALUES:,} values or {MOST_DEPTH} levels,"
                " its aliases written out",
            )
        if isinstance(node.value, list):
            node.value.append(value)
        elif node.key is None:
            node.key = value
        else:
            if node.key == "<<":
                node.merged += value if isinstance(value, list) else [value]
            else:
                if node.key in node.value:
                    self.notices.add(TWICE, f'line {event.start_mark.line + 1} "{node.key}"')
                node.value[node.key] = value
            node.key = None

    def _merge(self, node: _Node, merged: Any, event: yaml.Event) -> None:
        """Give an object the members of another that it does not have."""
        assert isinstance(node.value, dict)
        if not isinstance(merged, dict):
            raise self._refuse(event, "<< must be followed by an object, or a list of objects")
        node.value |= {key: value for key, value in merged.items() if key not in node.value}

    def _check_key(self, event: yaml.Event, value: Any = None) -> None:
        node = self._open[-1] if self._open else None
        is_key = node is not None and isinstance(node.value, dict) and node.key is None
        if is_key and not isinstance(value, str):
            raise self._refuse(event, "a key must be a text")

    def _note_tag(self, event: yaml.NodeEvent) -> None:
        tag = event.tag
        if tag is not None and tag not in _VALUE_TAGS and tag not in _TEXT_TAGS:
            self.notices.add(TAGS, f"line {event.start_mark.line + 1} {tag}")

    def _refuse(self, event: yaml.Event, why: str) -> Exception:
        return self.error(f"line {event.start_mark.line + 1}: {why}")


def _read_scalar(text: str) -> Any:
    """Return what a scalar without quotes stands for."""
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OTHER_INTEGER.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) and not (text[0] == "0" and text[1:].isdecimal()):
        number = float(text)
        return number if math.isfinite(number) else text
    return text

"""Which tools of a server the policy may call: by default those that the server calls read-only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from trustee.errors import InputError
from trustee.tools.files.lists import read_document
from trustee.tools.files.notices import Notices
from trustee.tools.files.rules import select_tools
from trustee.tools.selection import Selection
from trustee.types import Record, Tool

SHOWN = 12
"""Names that an error lists."""


class Offered(Record, frozen=True):
    """The tools that are offered, and what is said of the others."""

    tools: tuple[Tool, ...]
    notices: tuple[str, ...]


def offer_tools(
    entries: Sequence[Mapping[str, Any]], patterns: Sequence[str], *, source: str
) -> Offered:
    """Return the tools that a world offers.

    Args:
        entries: what the server lists.
        patterns: names of tools, with `*` and `?`; empty for those with `readOnlyHint`.
        source: the server's name.

    Raises:
        InputError: if no tool is offered, or a pattern names none.
    """
    names = [str(entry["name"]) for entry in entries]
    if not names:
        raise InputError(f"{source}: the server lists no tools")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"env.tools: {pattern!r} names no tool of {source}; it has {_show(names)}"
            )
    allowed = [entry for entry in entries if _is_allowed(entry, patterns)]
    if not allowed:
        raise InputError(
            f"{source} calls none of its tools read-only, so none is offered; name those that the "
            f"policy may call in env.tools: it has {_show(names)}"
        )
    notices = Notices()
    tools: list[Tool] = []
    for entry in allowed:
        for tool in select_tools(
            read_document([entry], source=source, notices=notices), Selection(), notices=notices
        ):
            if tool.name == entry["name"]:
                tools.append(tool)
            else:
                why = InputError(
                    f"{source}: the name {entry['name']!r} is not one that models know"
                )
                notices.left_out.append(why)
    if not tools:
        raise InputError(f"{source}: no tool can be used: {notices.left_out[0]}")
    said = [line for line in notices.lines() if line.startswith("left out")]
    kept_back = [name for name in names if name not in {str(e["name"]) for e in allowed}]
    if kept_back and not patterns:
        said.append(
            f"{source}: not offered, because the server does not call them read-only: "
            f"{_show(kept_back)}; env.tools names what is offered"
        )
    return Offered(tools=tuple(tools), notices=tuple(said))


def _is_allowed(entry: Mapping[str, Any], patterns: Sequence[str]) -> bool:
    if patterns:
        return any(fnmatchcase(str(entry["name"]), pattern) for pattern in patterns)
    # A word that sounds like reading is not a promise, so only the hint counts.
    return (entry.get("annotations") or {}).get("readOnlyHint") is True


def _show(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

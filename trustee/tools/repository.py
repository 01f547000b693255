"""Sampling tools that can be used together, from the packaged repository or a user's folder.

A tool that needs an id is drawn together with the read tools that return it, so that the tools of
every sampled set can be used.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trustee.decoding import read_file
from trustee.errors import InputError
from trustee.tools.files import read_tools
from trustee.tools.files.rules import check_tools, split_name
from trustee.tools.schema import Schema, item_of, parts_of, properties_of, required_of
from trustee.types import Tool


class Repository:
    """A set of tools in categories; the tools of a category can be used together."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        """Group the tools and link each one to the read tools that return the ids it needs."""
        self.tools = tuple(tools)
        """All tools, in file order."""
        self.categories: dict[str, tuple[Tool, ...]] = {}
        """The tools of each category."""
        self._chains: dict[str, tuple[Tool, ...]] = {}
        """By tool name, the tool and the read tools that must run before it."""
        self._nouns: dict[str, frozenset[str]] = {}
        """By tool name, the kinds of things it is about."""
        for tool in self.tools:
            self.categories[tool.category] = (*self.categories.get(tool.category, ()), tool)
        for tools_here in self.categories.values():
            known = {noun for tool in tools_here for noun in _id_nouns(tool.parameters)}
            for tool in tools_here:
                self._chains[tool.name] = _chain(tool, tools_here)
                self._nouns[tool.name] = _id_nouns(tool.parameters) | known.intersection(
                    _words(tool.name)[1:]
                )

    @classmethod
    def load(cls, folder: Path | None = None) -> Repository:
        """Load the packaged tools, or every `*.json` file of a folder.

        A tool without a category gets the name of its file as category.

        Raises:
            InputError: if the folder contains no usable tools.
        """
        root = Path(__file__).parent / "packaged" if folder is None else folder
        try:
            paths = sorted(path for path in root.iterdir() if path.suffix == ".json")
        except OSError as error:
            raise InputError(
                f"{root}: cannot be read ({error.strerror}); give a folder of *.json tool files"
            ) from error
        texts = {path.name: read_file(path, error=refuse_file(path)) for path in paths}
        found = [
            (where, tool if tool.category else msgspec.structs.replace(tool, category=name[:-5]))
            for name, text in texts.items()
            for where, tool in read_tools(text, source=str(root / name))
        ]
        if not found:
            raise InputError(f"{root}: no tools found; give a folder of *.json tool files")
        # Packaged files are checked by the tests; checking them here would take half a second.
        return cls(tool for _, tool in found) if folder is None else cls(check_tools(found))

    def sample(self, rng: random.Random, count: int) -> tuple[Tool, ...]:
        """Draw tools that can be used together, read tools first.

        They come from one category where one has enough. A tool that needs an id comes with the
        read tools that give it, while they fit.

        Raises:
            InputError: if there are not `count` tools.
        """
        if not 1 <= count <= len(self.tools):
            raise InputError(
                f"count must be from 1 to {len(self.tools)}, the repository's size; got {count}"
            )
        order = rng.sample(list(self.categories.values()), len(self.categories))
        order.sort(key=lambda tools: len(tools) < count)
        chosen: list[Tool] = []
        for tools in order:
            if len(chosen) == count:
                break
            size = min(count - len(chosen), len(tools))
            chosen += self._grow(rng, tools, size=size)
        return tuple(sorted(chosen, key=lambda tool: tool.effect != "read"))

    def sample_category(self, rng: random.Random, count: int, *, category: str) -> tuple[Tool, ...]:
        """Draw up to `count` tools of a category, from as few of its toolsets as hold so many.

        Toolsets are taken whole and in random order until there are enough tools to choose from.
        """
        toolsets: dict[str, list[Tool]] = {}
        for tool in self.categories[category]:
            toolsets.setdefault(tool.toolset, []).append(tool)
        pool: list[Tool] = []
        for toolset in rng.sample(list(toolsets.values()), len(toolsets)):
            if len(pool) >= count:
                break
            pool += toolset
        return tuple(rng.sample(pool, min(count, len(pool))))

    def _grow(self, rng: random.Random, tools: Sequence[Tool], *, size: int) -> list[Tool]:
        """Choose `size` tools, preferring those that share an id with tools already chosen."""
        chosen: set[str] = set()
        order = rng.sample(tools, len(tools))
        while len(chosen) < size:
            nouns = {noun for name in chosen for noun in self._nouns[name]}
            order = [tool for tool in order if tool.name not in chosen]
            added = {
                tool.name: {link.name for link in self._chains[tool.name]} - chosen
                for tool in order
            }
            fitting = [tool for tool in order if len(added[tool.name]) <= size - len(chosen)]
            best = max(fitting or order, key=lambda tool: bool(nouns & self._nouns[tool.name]))
            chosen |= added[best.name] if fitting else {best.name}
        return [tool for tool in tools if tool.name in chosen]


def refuse_file(path: Path) -> Callable[[str], InputError]:
    """Return what makes the error for a tool file that cannot be read."""
    return lambda why: InputError(f"{path}: {why}; give a folder of *.json tool files")


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case and singular."""
    return [_singular(word) for word in split_name(name)]


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) else word


def _id_nouns(schema: dict[str, Any], *, required_only: bool = False) -> frozenset[str]:
    """Return the kinds of things whose ids a schema contains: `event` for `event_id`."""
    nouns: set[str] = set()
    waiting: list[tuple[Schema, str]] = [(schema, "")]
    seen: set[int] = set()
    while waiting:
        inner, within = waiting.pop()
        # Each part of the schema is looked at once, since it may lead to itself.
        if id(inner) in seen:
            continue
        seen.add(id(inner))
        for part in parts_of(inner, schema):
            needed = required_of(part)
            for name, nested in properties_of(part).items():
                if required_only and name not in needed:
                    continue
                words = _words(name)
                if len(words) > 1 and words[-1] == "id":
                    nouns.add(words[-2])
                waiting.append((nested, name))
            if within and "items" in part:
                waiting.append((item_of(part, 0), within))
    return frozenset(nouns)


def _chain(tool: Tool, tools: Sequence[Tool]) -> tuple[Tool, ...]:
    """Return a tool and the read tools that must run before it to get the ids it needs."""
    # The list grows while it is iterated, so that added tools get their own ids as well.
    chain = [tool]
    for link in chain:
        for noun in sorted(_id_nouns(link.parameters, required_only=True)):
            givers = _givers(noun, tools)
            if givers and not any(giver in chain for giver in givers):
                chain.append(givers[0])
    return tuple(chain)


def _givers(noun: str, tools: Sequence[Tool]) -> list[Tool]:
    """Return the read tools that return ids of a kind of thing without needing such an id.

    They are recognised by name: `search_events` and `list_booked_events` return events, and so does
    `list_events_nearby` if no name ends in the noun.
    """
    about = [
        tool
        for tool in tools
        if tool.effect == "read"
        and noun in _words(tool.name)[1:]
        and noun not in _id_nouns(tool.parameters, required_only=True)
    ]
    return [tool for tool in about if _words(tool.name)[-1] == noun] or about

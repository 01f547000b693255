"""The tools that a simulated world trains on: a packaged set by its name, or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from trustee.environments.micro.world import TOOLS
from trustee.tools.files import import_tools
from trustee.tools.files.notices import Notices
from trustee.tools.repository import Repository

PACKAGED: Mapping[str, Callable[[], Repository]] = {
    "": Repository.load,
    "micro": lambda: Repository(TOOLS),
}
"""Tool sets of the package, as `env.tools` names them."""


def find_tools(name: str, *, notices: Notices | None = None) -> Repository:
    """Load a packaged tool set, or the tools of a file; `notices` say what of it is not used.

    Raises:
        InputError: if it is neither.
    """
    load = PACKAGED.get(name)
    return Repository(import_tools(Path(name), notices=notices)) if load is None else load()

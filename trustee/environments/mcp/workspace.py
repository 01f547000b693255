"""The folder in which a started server works: a fresh copy for each episode, under one name.

The policy must not see where the copy lies: the episodes of a group would differ, and a path says
nothing about the task. So answers say `/files`, and arguments that begin so lead into the copy.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import anyio.to_thread

from trustee.errors import InputError

SHOWN = "/files"
"""The folder's name in what the policy reads and writes."""


class Workspace:
    """A copy of a folder, or an empty one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    async def make(cls, origin: str) -> Workspace:
        """Copy a folder to a new place; without an origin, make an empty one.

        Raises:
            InputError: if the folder cannot be copied.
        """
        return cls(await anyio.to_thread.run_sync(_copy, origin))

    async def remove(self) -> None:
        """Remove the copy, whatever a server has made of it."""
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(self.path, ignore_errors=True))

    def show(self, text: str) -> str:
        """Return a server's text as the policy reads it."""
        return text.replace(str(self.path), SHOWN)

    def locate(self, value: Any) -> Any:
        """Return an argument as the server reads it: paths under `/files` lead into the copy."""
        match value:
            case str() if value == SHOWN or value.startswith(SHOWN + "/"):
                return f"{self.path}{value.removeprefix(SHOWN)}"
            case list():
                return [self.locate(part) for part in value]
            case dict():
                return {key: self.locate(part) for key, part in value.items()}
            case _:
                return value


def _copy(origin: str) -> Path:
    place = Path(tempfile.mkdtemp(prefix="trustee-files-")).resolve()
    if not origin:
        return place
    try:
        # Links become what they lead to, so that no write goes through one.
        shutil.copytree(origin, place, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(place, ignore_errors=True)
        raise InputError(f"env.files: {origin} cannot be copied ({error})") from error
    return place

"""The runs that a page shows, by short ids, so that no request ever names a path."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import RLock

from trustee.errors import InputError
from trustee.pages.measured import Measured
from trustee.runs.curves import Curves
from trustee.runs.episode_index import EpisodeIndex, TaskIndex
from trustee.runs.episode_search import Search, Wanted
from trustee.runs.standing import Standing, find_runs, read_standing

MOST_OPEN = 8
"""Runs whose indexes are kept; the one that was looked at longest ago goes first."""
MOST_SEARCHES = 4
"""Searches of a run that are kept, so that turning a page does not search again."""
EPISODES = {
    "episodes": ("episodes.jsonl", "tasks.jsonl"),
    "before": ("held-out-before.jsonl", "held-out-tasks.jsonl"),
    "after": ("held-out-after.jsonl", "held-out-tasks.jsonl"),
    "base": ("eval-base.jsonl", "held-out-tasks.jsonl"),
    "adapter": ("eval-adapter.jsonl", "held-out-tasks.jsonl"),
}
"""Files of episodes by the name that requests use, each with the file of its tasks."""


def name_run(folder: Path) -> str:
    """Return the id of a run folder."""
    return hashlib.sha256(str(folder.resolve()).encode(errors="replace")).hexdigest()[:12]


class OpenRun:
    """One run folder, with what was read of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.curves = Curves(folder)
        self.lock = RLock()
        self._episodes: dict[str, tuple[EpisodeIndex, TaskIndex]] = {}
        self._searches: OrderedDict[tuple[str, Wanted], Search] = OrderedDict()
        self._measured: dict[str, Measured] = {}

    def standing(self) -> Standing:
        """Return how the run stands."""
        with self.lock:
            return read_standing(self.folder, self.curves)

    def files(self) -> list[str]:
        """Return which files of episodes there are."""
        return [name for name, (file, _) in EPISODES.items() if self._is_own(self.folder / file)]

    def episodes(self, name: str) -> tuple[EpisodeIndex, TaskIndex]:
        """Return the indexes of a file of episodes and of its tasks.

        Raises:
            InputError: if there is no such file in the run.
        """
        if name not in EPISODES:
            raise InputError(f"no episodes are called {name!r}; there are: {', '.join(EPISODES)}")
        with self.lock:
            if name not in self._episodes:
                file, tasks = (self.folder / part for part in EPISODES[name])
                if file.exists() and not self._is_own(file):
                    raise InputError(f"{file.name} is a link that leads out of the run folder")
                bare = name != "episodes"
                self._episodes[name] = (
                    EpisodeIndex(file, bare=bare),
                    TaskIndex(tasks, bare=bare),
                )
            return self._episodes[name]

    def search(self, name: str, wanted: Wanted) -> Search:
        """Return a search of the episodes, which may be one that was begun before."""
        index, tasks = self.episodes(name)
        with self.lock:
            key = (name, wanted)
            search = self._searches.pop(key, None) or Search(index, tasks, wanted)
            self._searches[key] = search
            while len(self._searches) > MOST_SEARCHES:
                self._searches.popitem(last=False)
            return search

    def measured(self, name: str) -> Measured:
        """Return the held-out results of a file of episodes."""
        with self.lock:
            if name not in self._measured:
                self._measured[name] = Measured(self.folder / EPISODES[name][0])
            return self._measured[name]

    def _is_own(self, path: Path) -> bool:
        """Whether a file lies in the folder, rather than a link that a stranger put there."""
        try:
            return path.is_file() and path.resolve().is_relative_to(self.folder.resolve())
        except OSError:
            return False


class Library:
    """All runs of some folders."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._open: OrderedDict[str, OpenRun] = OrderedDict()
        self._known: dict[str, Path] = {}
        self._lock = RLock()

    def list_runs(self) -> list[tuple[str, Path]]:
        """Return all runs with their ids, as they are on disk now."""
        found = [path for folder in self.folders for path in find_runs(folder)]
        with self._lock:
            self._known = {name_run(path): path for path in found}
            return list(self._known.items())

    def open(self, run: str) -> OpenRun:
        """Return a run by its id.

        Raises:
            InputError: if there is none.
        """
        with self._lock:
            if run not in self._known:
                self.list_runs()
            if run not in self._known:
                raise InputError("there is no such run; it may have been moved or deleted")
            opened = self._open.pop(run, None) or OpenRun(self._known[run])
            self._open[run] = opened
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            return opened

    def show_place(self, folder: Path) -> str:
        """Return a run's folder as it is shown: below the folder that it was found in."""
        for root in self.folders:
            if folder != root and folder.is_relative_to(root):
                return str(folder.relative_to(root))
        return folder.name or str(folder)

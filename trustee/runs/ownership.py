"""One writer per run folder, which writes nowhere else.

A job holds a lock on a file in its folder for as long as it lives; the kernel takes the lock back
when the process ends, however it ends. Before that, the folder is searched for links that lead
outside: a folder from elsewhere could have metrics appended to any file of the user's. Readers,
such as `trustee view`, need no lock.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from trustee.errors import InputError

LOCK = ".lock"
"""File that the lock is held on; its text is the holder's process id."""

log = structlog.get_logger()

_held: dict[Path, int] = {}
"""Folders that this process owns, with how many of its jobs are at work in each."""


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and be its only writer until the end; an empty folder is removed again.

    Jobs of one process may own a folder together.

    Raises:
        InputError: if another process owns it, it cannot be written, or a link leads out of it.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.resolve()
        handle = None if place in _held else lock(folder)
    except OSError as error:
        raise refuse_unwritable(folder, error) from error
    _held[place] = _held.get(place, 0) + 1
    try:
        check_links(folder)
        yield
    finally:
        _held[place] -= 1
        if not _held[place]:
            del _held[place]
        if handle is not None:
            if made:
                remove_empty(folder)
            os.close(handle)


def refuse_unwritable(folder: Path, error: OSError) -> InputError:
    """Return the error of a folder in which nothing can be written."""
    return InputError(
        f"{folder} cannot be written ({error.strerror}); give write access, or name another "
        "folder with --out (trustee view only reads)"
    )


def lock(folder: Path) -> int:
    """Lock a folder and return the handle that holds the lock.

    Raises:
        InputError: if another process holds it.
        OSError: if the lock file cannot be made.
    """
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode(errors="replace").strip()
            os.close(handle)
            raise InputError(
                f"{folder} is in use by process {holder or 'of unknown id'}, and two writers "
                "would mix their files; wait until that process ends, stop it, or name another "
                "folder"
            ) from None
        except OSError as error:
            # Some network file systems know no locks; a run there is better than none.
            log.warning("folder_not_locked", folder=str(folder), why=error.strerror)
        if is_at(handle, path):
            break
        # The folder's last owner has removed it in between, and with it this file.
        os.close(handle)
        folder.mkdir(parents=True, exist_ok=True)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


def remove_empty(folder: Path) -> None:
    """Remove a folder in which nothing was written but the lock; it may be gone already."""
    if not folder.is_dir():
        return
    if [path.name for path in folder.iterdir()] == [LOCK]:
        (folder / LOCK).unlink()
        folder.rmdir()


def check_links(folder: Path) -> None:
    """Refuse a folder with a link that leads outside, or with a pipe or device.

    Raises:
        InputError: naming the link and where it leads.
    """
    root = folder.resolve()
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(top) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                target = path.resolve()
                if not target.is_relative_to(root):
                    raise InputError(
                        f"{path} is a link to {target}, outside {folder}, and a run only writes "
                        "into its own folder; put a copy in the link's place"
                    )
            elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise InputError(
                    f"{path} is neither a file nor a folder, so {folder} cannot be written; "
                    "move it away"
                )

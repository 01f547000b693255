"""Writing a large file or folder beside its place, and giving it its name only when it is done.

What is under the final name is whole and has passed its test. A full disk, an interrupt or a failed
test leaves nothing under that name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trustee.errors import InputError, RunError
from trustee.runs.files import sync


@contextmanager
def staged(final: Path) -> Iterator[Path]:
    """Yield a free place next to `final`; what lies there afterwards is renamed to `final`.

    If the body raises, what was written is deleted and `final` does not appear.

    Raises:
        InputError: if there is something under the final name already.
        RunError: if the place cannot be written, for example because the disk is full.
    """
    refuse_existing(final)
    partial = final.with_name(f".{final.name}.partial")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        discard(partial)
        yield partial
        for path in sorted([partial, *partial.rglob("*")]):
            sync(path)
        partial.rename(final)
        sync(final.parent)
    except OSError as error:
        raise RunError(
            f"cannot write {final}: {error.strerror or error}; free some disk space or give write "
            "access, then repeat the command"
        ) from error
    finally:
        discard(partial)


def refuse_existing(final: Path) -> None:
    """Refuse a place that is taken.

    Raises:
        InputError: if there is something under the name already.
    """
    if os.path.lexists(final):
        raise InputError(f"{final} already exists; nothing is overwritten, so name another place")


def discard(path: Path) -> None:
    """Delete a file or folder, if there is one; a link is deleted, not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

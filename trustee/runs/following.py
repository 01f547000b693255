"""Reading a file of lines that another process writes: only what is new, and only whole lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trustee.decoding import MOST_LINE_BYTES, PIECE, open_file
from trustee.errors import InputError


class NewLine(NamedTuple):
    """A line that was not there at the last reading."""

    begin: int
    """Offset of its first byte."""
    number: int
    """Counted from 1."""
    data: bytes | None
    """None for a line that is too long to be read."""


class LineFollower:
    """Remembers how far a file was read. A torn last line waits until it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.number = 0
        self.size = 0
        """Size of the file at the last look."""
        self.problem: str | None = None
        """Why the file could not be read at the last look."""
        self._inode: int | None = None

    @property
    def torn(self) -> int:
        """Bytes behind the last whole line: a line that is being written, or was cut short."""
        return max(0, self.size - self.offset)

    def look(self) -> bool:
        """Look at the file's size; return whether it is another file, or was cut, since then.

        What was read of it before is then worth nothing, and it will be read from its start.
        """
        try:
            found = os.stat(self.path)
        except OSError as error:
            is_new = self.offset > 0
            self._forget()
            self.problem = error.strerror or str(error)
            return is_new
        self.problem = None
        is_new = self._inode is not None and (
            found.st_ino != self._inode or found.st_size < self.offset
        )
        if is_new:
            self._forget()
        self._inode, self.size = found.st_ino, found.st_size
        return is_new

    def _forget(self) -> None:
        self.offset = self.number = self.size = 0
        self._inode = None

    def read_new(self) -> Iterator[NewLine]:
        """Yield the whole lines since the last reading; may be left at any line and called again.

        Raises:
            InputError: if the file is there and cannot be read.
        """
        if self.torn == 0:
            return
        with open_file(self.path, error=lambda why: InputError(f"{self.path} {why}")) as file:
            file.seek(self.offset)
            while data := file.readline(MOST_LINE_BYTES + 1):
                whole: bytes | None = data
                length = len(data)
                while data and not data.endswith(b"\n"):
                    if length <= MOST_LINE_BYTES:
                        return  # the end of the file, in the middle of a line
                    whole, data = None, file.readline(PIECE)
                    length += len(data)
                if not data:
                    return
                begin, self.offset, self.number = self.offset, self.offset + length, self.number + 1
                self.size = max(self.size, self.offset)
                yield NewLine(begin, self.number, whole)


def read_span(path: Path, begin: int, length: int) -> bytes:
    """Return a part of a file.

    Raises:
        InputError: if it cannot be read, or ends earlier.
    """
    with open_file(path, error=lambda why: InputError(f"{path} {why}")) as file:
        file.seek(begin)
        data = file.read(length)
    if len(data) < length:
        raise InputError(f"{path} has become shorter; look again")
    return data

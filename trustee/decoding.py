"""Reading what another program or a model wrote: any failure becomes the reader's own error.

Files, replies of servers, results of tools and words of models are hostile until they are decoded.
Each function takes the reader's error as `error`, a function of one sentence, and raises nothing
else: neither for bytes that are not UTF-8, nor for a nesting that exhausts the stack, nor for a
number that no float can hold. `tests/test_architecture.py` keeps other decoders out of the package.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import msgspec

BOM = b"\xef\xbb\xbf"
"""The mark that some editors write in front of UTF-8."""
MOST_BYTES = 1 << 30
"""Size of the largest file that is read as a whole, unless its reader knows better."""
MOST_LINE_BYTES = 64 << 20
"""Length of the longest line that is decoded; a longer one is passed over, a piece at a time."""
MOST_DEPTH = 100
"""Deepest nesting that is decoded, so that whoever walks the value has enough of the stack."""
PIECE = 1 << 20
"""Bytes of a line that is too long are read and dropped in pieces of this size."""

T = TypeVar("T")
Failure = Callable[[str], Exception]
"""Makes the reader's error of a sentence that says what is wrong."""


@overload
def decode_json(data: bytes | str, *, error: Failure) -> Any: ...
@overload
def decode_json(
    data: bytes | str,
    kind: type[T],
    *,
    error: Failure,
    dec_hook: Callable[[type, Any], Any] | None = None,
) -> T: ...
def decode_json(
    data: bytes | str,
    kind: Any = Any,
    *,
    error: Failure,
    dec_hook: Callable[[type, Any], Any] | None = None,
) -> Any:
    """Decode one JSON value of a type; a mark of UTF-8 in front of it is passed over.

    NaN, infinities, lone surrogates, integers of more than 4,300 digits and more than `MOST_DEPTH`
    levels are refused: what was decoded can be walked and written again.

    Raises:
        Exception: `error` of what is wrong, and nothing else.
    """
    data = data.removeprefix("\ufeff") if isinstance(data, str) else data.removeprefix(BOM)
    cause: Exception | None = None
    try:
        value = msgspec.json.decode(data, type=kind, dec_hook=dec_hook)
        if not _is_deep(data):
            return value
        why = f"is nested deeper than {MOST_DEPTH} levels"
    except RecursionError:
        why = f"is nested deeper than {MOST_DEPTH} levels"
    except UnicodeError:
        why = "is not UTF-8"
    except MemoryError:
        why = "does not fit into memory"
    except msgspec.ValidationError as caught:
        why, cause = str(caught), caught
    except (msgspec.DecodeError, ValueError) as caught:
        why, cause = f"not JSON: {_name_place(str(caught), data)}", caught
    raise error(why) from cause


def _name_place(why: str, data: bytes | str) -> str:
    """Give a place in a text of several lines by line and column instead of its byte."""
    found = _BYTE.search(why)
    text = data.encode(errors="replace") if isinstance(data, str) else data
    if found is None or b"\n" not in text.strip():
        return why
    before = text[: int(found.group(1))]
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return why.replace(found.group(), f"(line {line} column {column})")


_BYTE = re.compile(r"\(byte (\d+)\)")
_PAIR = re.compile(rb"\[\]|\{\}")
_STRING = re.compile(rb'"[^"]*"')
_PLAIN = bytes(byte for byte in range(256) if byte not in b'[]{}"')


def _is_deep(data: bytes | str) -> bool:
    """Return whether valid JSON nests too deeply, without a walk that could itself run out."""
    if isinstance(data, str):
        if data.count("[") + data.count("{") <= MOST_DEPTH:
            return False
        data = data.encode()
    elif data.count(b"[") + data.count(b"{") <= MOST_DEPTH:
        return False
    data = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _PLAIN)
    brackets = _STRING.sub(b"", data)
    for _ in range(MOST_DEPTH):
        # Each pass takes the innermost level away.
        brackets = _PAIR.sub(b"", brackets)
        if not brackets:
            return False
    return True


def decode_toml(text: str, *, error: Failure) -> dict[str, Any]:
    """Decode a TOML document.

    Raises:
        Exception: `error` of what is wrong, and nothing else.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        why = "is nested too deeply"
    except (tomllib.TOMLDecodeError, ValueError) as caught:
        why = str(caught)
    raise error(why)


def decode_text(data: bytes, *, error: Failure) -> str:
    """Decode UTF-8, without the mark that some editors write in front of it.

    Raises:
        Exception: `error` of what is wrong.
    """
    try:
        return data.removeprefix(BOM).decode()
    except UnicodeDecodeError as caught:
        raise error(f"is not UTF-8 (byte {caught.start})") from caught


def open_file(path: Path, *, error: Failure) -> BufferedReader:
    """Open an ordinary file to read; a pipe or a device is refused, not waited for.

    Raises:
        Exception: `error` of what is wrong.
    """
    try:
        # Without O_NONBLOCK a pipe without a writer would be waited for here.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except IsADirectoryError:
        raise error("is a folder, not a file") from None
    except (OSError, ValueError) as caught:
        raise error(f"cannot be read ({getattr(caught, 'strerror', caught)})") from caught
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise error("is not an ordinary file")
    return file


def read_file(path: Path, *, error: Failure, most: int = MOST_BYTES) -> bytes:
    """Read an ordinary file of at most `most` bytes; a pipe or a device is refused, not waited for.

    Raises:
        Exception: `error` of what is wrong.
    """
    with open_file(path, error=error) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            data = b"" if size > most else file.read(most + 1)
        except (OSError, MemoryError) as caught:
            raise error(f"cannot be read ({caught})") from caught
    # A file of /proc, or one that grows, is larger than it says.
    if max(size, len(data)) > most:
        raise error(f"has {max(size, len(data)):,} bytes; at most {most:,} are read")
    return data


@dataclass(frozen=True, slots=True)
class Line(Generic[T]):
    """A line of a file of JSON lines that could be read."""

    number: int
    value: T


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that could not be read."""

    number: int
    why: str


def read_json_lines(
    path: Path,
    kind: type[T],
    *,
    error: Failure,
    unended: bool = False,
    dec_hook: Callable[[type, Any], Any] | None = None,
) -> Iterator[Line[T] | BadLine]:
    """Yield every line of a file of JSON lines, also those behind one that cannot be read.

    Args:
        path: the file.
        kind: type of a line's value.
        error: makes the error for a file that cannot be read at all.
        unended: whether a last line without a line feed is read; else a kill has cut it short, and
            it is passed over. Blank lines are passed over too.
        dec_hook: reads values of types that msgspec does not know.

    Raises:
        Exception: `error` of why the file cannot be read.
    """
    with open_file(path, error=error) as file:
        for number, data in _split_lines(file, error=error, unended=unended):
            if data is None:
                yield BadLine(number, f"has more than {MOST_LINE_BYTES:,} bytes")
                continue
            if not data.strip():
                continue
            try:
                value = decode_json(data, kind, error=_BadValue, dec_hook=dec_hook)
            except _BadValue as caught:
                yield BadLine(number, str(caught))
            else:
                yield Line(number, value)


class _BadValue(ValueError):
    """A line holds no value of the kind."""


def _split_lines(
    file: BufferedReader, *, error: Failure, unended: bool
) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines of a file with their numbers; None for one that is too long."""
    number = 0
    try:
        while data := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            whole = data.endswith(b"\n")
            if whole or len(data) <= MOST_LINE_BYTES:
                if whole or unended:
                    yield number, data
                continue
            while data and not data.endswith(b"\n"):
                data = file.readline(PIECE)
            if data or unended:
                yield number, None
    except (OSError, MemoryError) as caught:
        raise error(f"cannot be read ({caught})") from caught

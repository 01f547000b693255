"""Reading what another program or a model wrote: any failure becomes the reader's own error.

Files, replies of servers, results of tools and words of models are hostile until they are decoded.
Each function takes the reader's error as `error`, a function of one sentence, and raises nothing
else: neither for bytes that are not UTF-8, nor for a nesting that exhausts the stack, nor for a
number that no float can hold. `tests/test_architecture.py` keeps other decoders out of the package.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec

BOM = b"\xef\xbb\xbf"
"""The mark that some editors write in front of UTF-8."""
MOST_BYTES = 1 << 30
"""Size of the largest file that is read as a whole, unless its reader knows better."""

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

    NaN, infinities, lone surrogates and integers of more than 4,300 digits are refused: what was
    decoded can be written again.

    Raises:
        Exception: `error` of what is wrong, and nothing else.
    """
    data = data.removeprefix("\ufeff") if isinstance(data, str) else data.removeprefix(BOM)
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=dec_hook)
    except RecursionError:
        why = "is nested too deeply"
    except UnicodeError:
        why = "is not UTF-8"
    except MemoryError:
        why = "does not fit into memory"
    except (msgspec.DecodeError, ValueError) as caught:
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


def read_file(path: Path, *, error: Failure, most: int = MOST_BYTES) -> bytes:
    """Read an ordinary file of at most `most` bytes; a pipe or a device is refused, not waited for.

    Raises:
        Exception: `error` of what is wrong.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise error("is a folder, not a file")
        if not stat.S_ISREG(found.st_mode):
            raise error("is not an ordinary file")
        if found.st_size > most:
            raise error(f"has {found.st_size:,} bytes; at most {most:,} are read")
        return path.read_bytes()
    except OSError as caught:
        raise error(f"cannot be read ({caught.strerror})") from caught

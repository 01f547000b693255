"""Safetensors files: which tensors they hold, and whether all their numbers are finite.

The library's own reader checks a file when it opens it: the header's size and nesting, and that the
tensors cover the file exactly. So half a file is refused here, with its name, before an engine
starts. Weights are read only to look for numbers that are not finite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from trustee.decoding import decode_json, open_file
from trustee.errors import InputError

PIECE = 1 << 24
"""Numbers that are looked at in one go."""


class Stored(NamedTuple):
    """Type, shape and byte range of a tensor in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_header(path: Path) -> dict[str, Stored]:
    """Read which tensors a safetensors file contains, without reading weights.

    Raises:
        InputError: if it is not a whole, readable safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    def refuse(why: str) -> InputError:
        return InputError(f"{path} is not a readable safetensors file: {why}")

    try:
        with open_file(path, error=refuse) as file:
            with safe_open(path, framework="np"):
                size = int.from_bytes(file.read(8), "little")
            data = file.read(size)
    except SafetensorError as error:
        raise refuse(f"{error}; it may be half a download or copy") from error
    except OSError as error:
        raise refuse(error.strerror or str(error)) from error
    found = decode_json(data, dict[str, Any], error=refuse)
    found.pop("__metadata__", None)
    start = 8 + size
    return {
        name: Stored(
            dtype=entry.dtype,
            shape=entry.shape,
            start=start + entry.data_offsets[0],
            end=start + entry.data_offsets[1],
        )
        for name, entry in msgspec.convert(found, dict[str, _Entry]).items()
    }


_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("<u1", 0x7C),
    "F8_E4M3": ("<u1", 0x7F),
}
"""Unsigned integer of each type of floats, and the bits that are all set in what is not finite."""


def find_not_finite(path: Path) -> str:
    """Return the name of the first tensor with a NaN or an infinity; empty if there is none.

    Raises:
        InputError: if it is not a whole, readable safetensors file.
    """
    import numpy as np

    header = read_header(path)
    for name, stored in sorted(header.items()):
        if stored.dtype not in _EXPONENTS or stored.start == stored.end:
            continue
        kind, mask = _EXPONENTS[stored.dtype]
        count = (stored.end - stored.start) // np.dtype(kind).itemsize
        numbers: Any = np.memmap(path, dtype=kind, mode="r", offset=stored.start, shape=(count,))
        for begin in range(0, count, PIECE):
            piece = numbers[begin : begin + PIECE]
            if ((piece & mask) == mask).any():
                return name
    return ""


def refuse_not_finite(path: Path) -> None:
    """Refuse a file with a number that is not finite.

    Raises:
        InputError: naming the file and the tensor.
    """
    name = find_not_finite(path)
    if name:
        raise InputError(
            f"{path} holds numbers that are not finite (NaN or infinite), the first in {name}; "
            "training broke these weights, so give an earlier adapter or checkpoint"
        )

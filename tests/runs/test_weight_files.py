"""Weight files: what is whole is read, what is not is named, and no number hides."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from trustee.errors import InputError
from trustee.runs.weight_files import find_not_finite, read_header, refuse_not_finite


def test_header_of_a_file(tmp_path: Path) -> None:
    """Types, shapes and places are those of the file."""
    path = tmp_path / "a.safetensors"
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    save_file({"a": tensor, "none": torch.zeros(0)}, path, metadata={"format": "pt"})
    header = read_header(path)
    assert {"a", "none"} == header.keys()
    assert ("F32", (2, 3)) == header["a"][:2]
    data = path.read_bytes()[header["a"].start : header["a"].end]
    assert tensor.numpy().tobytes() == data


def write_raw(header: bytes, data: bytes = b"", *, size: int | None = None) -> bytes:
    """Make the bytes of a file from a header, whose size may be a lie."""
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def entry(**changes: Any) -> bytes:
    """Make a header of one tensor."""
    told = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes
    return json.dumps({"a": told}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        write_raw(entry(), b"0" * 23),
        write_raw(entry(), b"0" * 25),
        write_raw(entry(), b"0" * 24, size=10**12),
        write_raw(b" " * 100_000_001),
        write_raw(b"[" * 100_000),
        write_raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        write_raw(b'{"a": 1}'),
        write_raw(b"\xff"),
        write_raw(entry(dtype="F33"), b"0" * 24),
        write_raw(entry(shape=[-2, 3]), b"0" * 24),
        write_raw(entry(shape=[1 << 62, 1 << 62]), b"0" * 24),
        write_raw(entry(data_offsets=[0, 20]), b"0" * 20),
        write_raw(entry(data_offsets=[24, 0]), b"0" * 24),
    ],
    ids=range(15),
)
def test_files_that_are_not_whole(tmp_path: Path, content: bytes) -> None:
    """The file is named, whatever is wrong with it."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path} is not a readable safetensors file: ")


def test_what_is_no_file(tmp_path: Path) -> None:
    """A folder and a pipe are refused, not waited for."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing"):
        with pytest.raises(InputError, match=r"is not a readable safetensors file: (is|cannot)"):
            read_header(path)


FLOATS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e5m2,
    torch.float8_e4m3fn,
]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_number_that_is_not_finite(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    """One number among many is found in any type of floats; integers have none."""
    path = tmp_path / "a.safetensors"
    fine = torch.randn(7, 5).clamp(-3, 3)
    tensors = {"a": fine.to(dtype), "b": torch.full((3,), 255, dtype=torch.uint8)}
    save_file(tensors, path)
    assert find_not_finite(path) == ""
    refuse_not_finite(path)
    broken = fine.clone()
    broken[6, 4] = value
    save_file(tensors | {"c": broken.to(dtype)}, path)
    if not broken.to(dtype).float().isfinite().all():
        with pytest.raises(InputError, match=r"not finite .* the first in c;"):
            refuse_not_finite(path)


@settings(max_examples=100)
@given(st.lists(st.floats(width=32), min_size=1, max_size=9))
def test_any_floats(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    """The bits tell what `isfinite` tells."""
    path = tmp_path_factory.mktemp("weights") / "a.safetensors"
    tensor = torch.tensor(numbers, dtype=torch.float32)
    save_file({"a": tensor}, path)
    assert bool(tensor.isfinite().all()) == (find_not_finite(path) == "")

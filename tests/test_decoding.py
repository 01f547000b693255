"""Whatever is decoded, a failure is the reader's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustee.decoding import decode_json, decode_text, read_file


class OwnError(Exception):
    """What the reader of these tests raises."""


HOSTILE = (
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 1_100 + b"]" * 1_100,
    b'"\xff"',
    b"\xff\xfe{\x00}\x00",
    b'"\\ud800"',
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"9" * 5_000,
    b"",
    b"\x00",
    b"{'a': 1}",
    b'{"a": 1}{"a": 2}',
)


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data[:12]))
def test_what_cannot_be_decoded_is_the_readers_error(data: bytes) -> None:
    """As bytes and, where it is text, as text."""
    with pytest.raises(OwnError, match=r"\w"):
        decode_json(data, error=OwnError)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(OwnError):
        decode_json(text, error=OwnError)


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    """What is decoded can be encoded; all else is the reader's error."""
    try:
        value = decode_json(data, error=OwnError)
    except OwnError:
        return
    assert decode_json(msgspec.json.encode(value), error=OwnError) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)  # fmt: skip
def test_json_comes_back(value: Any) -> None:
    """Behind a mark of UTF-8 too."""
    data = msgspec.json.encode(value)
    assert decode_json(data, error=OwnError) == value
    assert decode_json(b"\xef\xbb\xbf" + data, error=OwnError) == value
    assert decode_json("\ufeff" + data.decode(), error=OwnError) == value


def test_a_type_is_checked() -> None:
    """The sentence names the place."""
    with pytest.raises(OwnError, match=r"Expected `int`, got `str`"):
        decode_json(b'["a"]', list[int], error=OwnError)


def test_text_is_utf8() -> None:
    """The place of the first bad byte is said."""
    assert decode_text(b"\xef\xbb\xbfgr\xc3\xbcn", error=OwnError) == "grün"
    with pytest.raises(OwnError, match="byte 2"):
        decode_text(b"ab\xff", error=OwnError)


def test_only_ordinary_files_are_read(tmp_path: Path) -> None:
    """A pipe would be waited for without end, a folder has no bytes, and a limit is a limit."""
    plain = tmp_path / "plain"
    plain.write_bytes(b"12345")
    assert read_file(plain, error=OwnError) == b"12345"
    with pytest.raises(OwnError, match="at most 4"):
        read_file(plain, error=OwnError, most=4)
    with pytest.raises(OwnError, match="folder"):
        read_file(tmp_path, error=OwnError)
    with pytest.raises(OwnError, match="No such file"):
        read_file(tmp_path / "none", error=OwnError)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OwnError, match="ordinary"):
        read_file(tmp_path / "pipe", error=OwnError)

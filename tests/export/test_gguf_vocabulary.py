"""The vocabulary as llama.cpp keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from golden_errors import ErrorCheck
from trustee.engine.model_files import TINY
from trustee.errors import InputError
from trustee.export.gguf_vocabulary import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    find_cut,
    read_vocabulary,
)

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")


def refuse(why: str) -> InputError:
    """Make the reader's error."""
    return InputError(why)


def test_the_built_in_vocabulary() -> None:
    """Every row has a token; marks of calls are shown, those of turns are not."""
    found = read_vocabulary(TINY, size=1300)
    assert 1300 == len(found.tokens) == len(set(found.tokens))
    kinds = dict(zip(found.tokens, found.kinds, strict=True))
    assert (CONTROL, USER_DEFINED, NORMAL, UNUSED) == (
        kinds["<|im_end|>"],
        kinds["<tool_call>"],
        kinds["a"],
        kinds["[PAD1299]"],
    )
    assert "gpt-2" == found.cut


@pytest.mark.parametrize(
    ("pattern", "cut"), [(QWEN, "qwen2"), (QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|"), "llama-bpe")]
)
def test_cuts_by_pattern(pattern: str, cut: str) -> None:
    """Qwen and Llama 3 differ in how many digits stay together."""
    parts = [{"type": "Split", "pattern": {"Regex": pattern}}, {"type": "ByteLevel"}]
    assert cut == find_cut({"type": "Sequence", "pretokenizers": parts}, refuse=refuse)


def write_tokenizer(folder: Path, **changes: Any) -> Path:
    """Write a tokenizer's file."""
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    content = {"model": model, "pre_tokenizer": {"type": "ByteLevel"}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(content | changes))
    return folder


def test_another_kind_is_refused(tmp_path: Path, check_error: ErrorCheck) -> None:
    """The error says what can be done instead."""
    model = {"type": "Unigram", "vocab": {}, "merges": []}
    with pytest.raises(InputError) as caught:
        read_vocabulary(write_tokenizer(tmp_path, model=model), size=4)
    check_error(caught, "Unigram", "--merged")


def test_an_unknown_cut_is_refused(tmp_path: Path, check_error: ErrorCheck) -> None:
    """A text that is cut otherwise would make other tokens, without a word."""
    with pytest.raises(InputError) as caught:
        read_vocabulary(write_tokenizer(tmp_path, pre_tokenizer={"type": "Metaspace"}), size=4)
    check_error(caught, "Metaspace")


def test_a_token_without_a_row_is_refused(tmp_path: Path, check_error: ErrorCheck) -> None:
    """A file with such a token would be read beyond its end."""
    token = {"id": 9, "content": "<x>"}
    with pytest.raises(InputError) as caught:
        read_vocabulary(write_tokenizer(tmp_path, added_tokens=[token]), size=4)
    check_error(caught, 9)

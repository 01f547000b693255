"""The vocabulary of a model as llama.cpp keeps it: tokens and their kinds, merges, and cuts.

Only byte-level BPE is written, which is what Qwen 2, 2.5 and 3, Llama 3 and SmolLM use. Whether
llama.cpp then cuts texts alike is not believed but tested, through the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from trustee.decoding import decode_json, read_file
from trustee.errors import InputError
from trustee.types import Record

MOST_BYTES = 256 << 20
"""Size of the largest `tokenizer.json`; published ones have up to 40 MB."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens in a GGUF file. Text of a control token is not shown, and calls must be."""
CUTS = {r"]?\p{L}+|\p{N}{1,3}|": "llama-bpe", r"]?\p{L}+|\p{N}|": "qwen2"}
"""How llama.cpp calls the way to cut texts with a pattern that contains this."""


class _Token(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Model(msgspec.Struct):
    type: str
    vocab: dict[str, int]
    merges: list[Any]


class _File(msgspec.Struct):
    model: _Model
    added_tokens: list[_Token] = []
    pre_tokenizer: Any = None


class Vocabulary(Record, frozen=True):
    """What a GGUF file says of a tokenizer."""

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    cut: str
    """llama.cpp's name of the way in which texts are cut before merging."""


def read_vocabulary(folder: Path, *, size: int) -> Vocabulary:
    """Read the vocabulary of a model folder.

    Args:
        folder: a model folder with `tokenizer.json`.
        size: rows of the embedding; rows without a token get a name of their own.

    Raises:
        InputError: if the tokenizer is of a kind that cannot be written.
    """
    path = folder / "tokenizer.json"

    def refuse(why: str) -> InputError:
        return InputError(f"{path} cannot be written as GGUF: {why}; export with --merged instead")

    file = decode_json(read_file(path, error=refuse, most=MOST_BYTES), _File, error=refuse)
    if file.model.type != "BPE":
        raise refuse(f"it is of type {file.model.type}, and only BPE is known here")
    tokens = [f"[PAD{id}]" for id in range(size)]
    kinds = [UNUSED] * size
    for text, id in file.model.vocab.items():
        if not 0 <= id < size:
            raise refuse(f"its token {id} has no row in the embedding, which has {size}")
        tokens[id], kinds[id] = text, NORMAL
    for token in file.added_tokens:
        if not 0 <= token.id < size:
            raise refuse(f"its token {token.id} has no row in the embedding, which has {size}")
        tokens[token.id] = token.content
        is_control = token.special and is_turn_mark(token.content)
        kinds[token.id] = CONTROL if is_control else USER_DEFINED
    return Vocabulary(
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        merges=tuple(one if isinstance(one, str) else " ".join(one) for one in file.model.merges),
        cut=find_cut(file.pre_tokenizer, refuse=refuse),
    )


def is_turn_mark(text: str) -> bool:
    """Whether a special token only divides the text, as `<|im_end|>`; `<tool_call>` is read."""
    return text.startswith("<|") and text.endswith("|>")


def find_cut(pre_tokenizer: Any, *, refuse: Any) -> str:
    """Return llama.cpp's name of the way in which texts are cut.

    Raises:
        InputError: if there is none.
    """
    parts = pre_tokenizer or {}
    parts = parts.get("pretokenizers", [parts])
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        pattern = str(parts[0].get("pattern", {}).get("Regex", ""))
        for sign, name in CUTS.items():
            if sign in pattern:
                return name
    raise refuse(f"llama.cpp has no name here for a pre_tokenizer of {kinds}")

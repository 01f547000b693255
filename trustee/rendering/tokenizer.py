"""The tokenizer of a model folder, and the chat template with which it is used.

Importing this module does not import torch; loading a folder's tokenizer does.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec

from trustee.decoding import decode_json, read_file
from trustee.errors import InputError
from trustee.rendering.chat_templates import ChatStyle, UnusableTemplate, naming_a_way_out

BROKEN_TEMPLATE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError),
    *(TypeError, ValueError),
)
"""What a chat template may raise besides jinja's own errors: it is a program like any other."""
MOST_WORDS = 500
"""Letters of a template's own message that are shown."""
REMEMBERED = 2048
"""Number of texts between marks whose ids are cached."""


class Tokenizer(Protocol):
    """What a renderer needs from a model: its vocabulary and its chat template."""

    def with_thinking(self, thinking: bool) -> Self:
        """Return the same tokenizer, whose template is told whether the model thinks."""
        ...

    @property
    def marks(self) -> frozenset[str]:
        """Texts that `encode` turns into a single special id; none is an ordinary word."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion."""
        ...

    def encode(self, text: str) -> list[int]:
        """Encode `text` without adding anything; marks become their ids."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Decode `ids`, including special tokens."""
        ...

    def normalise(self, text: str) -> str:
        """Return a text as the tokenizer spells it before it is encoded."""
        ...

    def apply(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
    ) -> str:
        """Render OpenAI messages and function schemas with the chat template.

        Raises:
            InputError: if the template refuses them.
        """
        ...


class FolderTokenizer:
    """A tokenizer from a Hugging Face model folder, with its chat template or another."""

    def __init__(self, folder: Path, style: ChatStyle) -> None:
        if not (folder / "tokenizer.json").is_file():
            raise InputError(
                f"no tokenizer.json in {folder} (model); a Hugging Face model folder is needed"
            )
        # Imported here because it imports torch, which most of this program does not need.
        from transformers import AutoTokenizer

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            stop_ids = _read_stop_ids(folder)
        except (OSError, ValueError, KeyError, msgspec.MsgspecError) as error:
            raise InputError(f"the tokenizer in {folder} (model) cannot be read: {error}") from None
        if not tokenizer.is_fast:
            raise InputError(f"the model in {folder} (model) has no fast tokenizer; it needs one")
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._tokenizer = tokenizer
        self._thinking = style.thinking
        self._stop_ids = tuple(sorted({tokenizer.eos_token_id, *stop_ids} - {None}))
        self._marks = frozenset(
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if len(token.content) > 1 and _NO_WORD.search(token.content)
        )
        with naming_a_way_out(style.template, self._marks):
            given = style.template
            self._template = given.text if given else _own_template(tokenizer, folder)
        longest_first = sorted(self._marks, key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._encode_known = lru_cache(REMEMBERED)(self._encode_whole)
        probe = "\n".join(f" a {mark}  b\n{mark}{mark}" for mark in longest_first)
        if self.encode(probe) != list(self._encode_whole(probe)):
            # Encoding does not stop at marks, for example because a mark swallows whitespace or a
            # text's start is marked. So never cut: this pattern matches nothing.
            self._cut = re.compile("((?!))")

    def with_thinking(self, thinking: bool) -> Self:
        """Return the same tokenizer, whose template is told whether the model thinks."""
        other = copy.copy(self)
        other._thinking = thinking
        return other

    @property
    def marks(self) -> frozenset[str]:
        """Added tokens, except whitespace, words and single characters."""
        return self._marks

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokenizer's end-of-sequence id and those in `generation_config.json`."""
        return self._stop_ids

    @property
    def template(self) -> str:
        """Text of the chat template in use."""
        return self._template

    @property
    def named_marks(self) -> dict[str, str]:
        """Marks that templates know by a name, such as `bos_token`."""
        return {
            name: str(mark)
            for name, mark in self._tokenizer.special_tokens_map.items()
            if isinstance(mark, str)
        }

    def encode(self, text: str) -> list[int]:
        """Encode `text` without adding anything; marks become their ids.

        The text between two marks is encoded separately and cached, because instructions, tools and
        earlier messages appear again in the prompts of a group and in every turn of a role.
        """
        ids: list[int] = []
        for piece in self._cut.split(text):
            ids += self._encode_known(piece)
        return ids

    def _encode_whole(self, text: str) -> tuple[int, ...]:
        return tuple(self._backend.encode(text, add_special_tokens=False).ids)

    def normalise(self, text: str) -> str:
        """Return a text as the tokenizer's normaliser spells it, such as composed letters."""
        normaliser = self._backend.normalizer
        return text if normaliser is None else str(normaliser.normalize_str(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Decode `ids`, including special tokens."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def apply(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
    ) -> str:
        """Render messages with the template."""
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=self._thinking,
            )
        except (TemplateError, *BROKEN_TEMPLATE) as error:
            roles = [message["role"] for message in messages]
            reason = str(error)[:MOST_WORDS] or type(error).__name__
            raise UnusableTemplate(
                f"the model's chat template refuses messages of roles {roles}: {reason}"
            ) from None
        return str(text)


def _own_template(tokenizer: Any, folder: Path) -> str:
    """Return a model's template, of several the one for tools."""
    if tokenizer.chat_template is None:
        raise UnusableTemplate(f"the model in {folder} (model) has no chat template; it needs one")
    return str(tokenizer.get_chat_template(tools=[{"type": "function"}]))


_NO_WORD = re.compile(r"[^\w\s]")


class _Generation(msgspec.Struct):
    """The one field of `generation_config.json` that is read here."""

    eos_token_id: int | tuple[int, ...] | None = None


def _read_stop_ids(folder: Path) -> tuple[int, ...]:
    path = folder / "generation_config.json"
    if not path.is_file():
        return ()

    def refuse(why: str) -> InputError:
        return InputError(f"{path}: {why}; give a model with a readable {path.name}")

    ids = decode_json(read_file(path, error=refuse), _Generation, error=refuse).eos_token_id
    return () if ids is None else (ids,) if isinstance(ids, int) else ids

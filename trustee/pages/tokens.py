"""The sampled tokens of an episode, each with its text and logprob, for shades on demand."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustee.decoding import decode_text, read_file
from trustee.errors import InputError
from trustee.pages.answers import read_episode
from trustee.pages.library import Library
from trustee.runs.curves import Row
from trustee.runs.standing import read_record

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TINY = Path(__file__).parents[1] / "tiny" / "model"
MOST_BYTES = 64 << 20
"""Size of the largest tokenizer that is read."""


def spell_tokens(library: Library, run: str, file: str, row: int) -> Row:
    """Return, for each turn, the sampled tokens as `[text, logprob]`.

    Where the model's tokenizer is not on this machine, a token's text is its number.
    """
    episode = read_episode(library, run, file, row, with_tokens=True)
    folder = library.open(run).folder
    config = read_record(folder / "run.json", []).get("config")
    model = config.get("model") if isinstance(config, dict) else None
    path = str(model.get("path", "")) if isinstance(model, dict) else ""
    try:
        tokenizer, why = find_tokenizer(path, folder), ""
    except InputError as error:
        tokenizer, why = None, str(error)
    turns = []
    for turn in episode["trajectory"].get("turns") or ():
        completion = turn.get("completion") or {}
        ids, logprobs = completion.get("ids") or [], completion.get("logprobs") or []
        turns.append(
            [
                [_spell(tokenizer, number), logprob]
                for number, logprob in zip(ids, logprobs, strict=False)
            ]
        )
    return {"turns": turns, "problem": why}


def find_tokenizer(path: str, run: Path) -> Tokenizer:
    """Return the tokenizer of a model on this machine.

    Raises:
        InputError: if there is none, or it lies in the run folder, which a stranger may have made.
    """
    place = TINY if path == "tiny" else Path(path)
    file = place / "tokenizer.json"
    if not path or not file.is_file():
        raise InputError(f"no tokenizer of {path or 'the model'} on this machine: ids are shown")
    if file.resolve().is_relative_to(run.resolve()):
        raise InputError(
            "the tokenizer lies in the run folder itself, and is not loaded from there"
        )
    return _load(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _load(file: Path, changed: int) -> Tokenizer:
    from tokenizers import Tokenizer

    data = read_file(file, error=lambda why: InputError(f"{file} {why}"), most=MOST_BYTES)
    text = decode_text(data, error=lambda why: InputError(f"{file} {why}"))
    try:
        return Tokenizer.from_str(text)
    except Exception as error:
        raise InputError(f"{file} is not a tokenizer: {error}") from error


def _spell(tokenizer: Any, number: object) -> str:
    if tokenizer is None or not isinstance(number, int) or not 0 <= number < 1 << 32:
        return f"{number}"
    text: str = tokenizer.decode([number], skip_special_tokens=False)
    return text or tokenizer.id_to_token(number) or f"{number}"

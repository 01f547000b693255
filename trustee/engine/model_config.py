"""Looking at a model's `config.json` before anything heavy reads it.

A model folder may come from anywhere. Libraries believe its config: a list as long as the number of
layers is made before any weight is looked for. And a model that is quantised already fails only
when the engine has started, with a message about the engine's own settings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trustee.decoding import decode_json, read_file
from trustee.errors import InputError

MOST_JSON = 16 << 20
"""Size of the largest config that is read, in bytes."""
MOST = {
    "num_hidden_layers": 1_000,
    "hidden_size": 1 << 20,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "head_dim": 1 << 14,
    "intermediate_size": 1 << 24,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 32,
}
"""Largest sizes that are believed, many times those of any dense model."""
QUANTISED = ("quantization_config", "quantization", "compression_config")
"""Keys under which programs write how they quantised a model."""
_SUFFIX = re.compile(
    r"([-_.](unsloth|dynamic|mlx|bnb|awq|gptq|g?int[348]|nf4|fp[48]|mxfp4|nvfp4|hqq|[348]bit|"
    r"w[48]a(16|8)|g\d+))+$",
    re.IGNORECASE,
)
"""What publishers append to the name of a model that they have quantised."""


def read_model_config(path: Path) -> dict[str, Any]:
    """Read a `config.json`.

    Raises:
        InputError: if it cannot be read or holds no JSON object.
    """

    def refuse(why: str) -> InputError:
        return InputError(f"{path} cannot be read as a model's config: {why}")

    config = decode_json(read_file(path, error=refuse, most=MOST_JSON), error=refuse)
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a model's config: it does not contain a JSON object")
    return config


def check_config(config: dict[str, Any], *, name: str) -> None:
    """Refuse a model that is quantised already, and sizes that no model has.

    Raises:
        InputError: naming the model, the key and what to give instead.
    """
    for key in QUANTISED:
        how = config.get(key)
        if how:
            raise InputError(
                f"model {name} is already quantised ({_name_method(how)}, {key} in config.json), "
                "and its weights cannot be trained on; this program quantises a model itself while "
                f"loading it (engine.weights), so give {suggest_plain(name)} (model.path)"
            )
    for key, most in MOST.items():
        size = config.get(key)
        if size is not None and (type(size) is not int or not 1 <= size <= most):
            raise InputError(
                f"model {name}: {key} in config.json is {str(size)[:40]}; it must be a number "
                f"from 1 to {most} (model.path)"
            )


def _name_method(how: object) -> str:
    if not isinstance(how, dict):
        return "by an unknown method"
    method = str(how.get("quant_method") or how.get("mode") or "an unknown method")[:40]
    bits = next((bits for bits in ("4", "8") if how.get(f"load_in_{bits}bit")), how.get("bits"))
    return f"{method}, {bits} bits" if isinstance(bits, str | int) else method


def suggest_plain(name: str) -> str:
    """Return how to name the model that a quantised one was made from."""
    plain = _SUFFIX.sub("", name)
    if plain != name and not Path(name).is_dir():
        return f"the plain model, such as {plain}"
    return "the folder or hub id of the plain bf16 model that it was made from"

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
from trustee.engine.dense_form import find_dense
from trustee.errors import InputError
from trustee.trainer.int4 import INT4_COLUMNS, INT4_GROUPS

MODEL_TYPES = ("qwen2", "qwen3", "llama", "granite", "ministral3", "smollm3")
"""Model types that the trainer can share with the engine; see `trainer/shared_model.py`."""
WINDOWS = {"ministral3": "sliding_window", "smollm3": "use_sliding_window"}
"""Keys by which a family attends to a window alone, which the trainer's attention does not."""
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


def check_family(config: dict[str, Any], *, name: str) -> None:
    """Refuse a model of a family, or of a kind within one, that the trainer cannot share.

    Args:
        config: content of its `config.json`.
        name: what the user calls it.

    Raises:
        InputError: naming the model and what to give instead.
    """
    kind = config.get("model_type")
    if find_dense(config) is not None:
        raise InputError(
            f"model {name} holds a dense model in the layout of type {kind!r}; write it out once "
            f"with `python -m trustee.engine.dense_copy {name} FOLDER` and give FOLDER (model.path)"
        )
    if kind == "granitemoehybrid":
        raise InputError(
            f"model {name} is a Granite with Mamba layers or experts, which cannot be trained "
            "here; give a dense one, such as ibm-granite/granite-4.1-3b (model.path)"
        )
    if isinstance(kind, str) and kind.startswith("qwen3_5"):
        raise InputError(
            f"model {name} is a Qwen3.5, three of whose four layers have no attention; it cannot "
            "be trained here yet (docs/qwen3_5.md); give Qwen/Qwen3-8B or "
            "Qwen/Qwen3-4B-Instruct-2507 (model.path)"
        )
    if kind not in MODEL_TYPES:
        raise InputError(
            f"model {name} has the unsupported type {kind!r}; give a dense model of type "
            f"{', '.join(MODEL_TYPES[:-1])} or {MODEL_TYPES[-1]} (model.path)"
        )
    window = WINDOWS.get(str(kind))
    if window is not None and config.get(window):
        raise InputError(
            f"model {name} sets {window}, so that some layers see a part of the context alone, and "
            "that is not supported; give another model (model.path)"
        )


def check_context(folder: Path, *, context: int) -> None:
    """Refuse a context in which engine and trainer would not agree.

    Ministral 3 sharpens its attention beyond the context that it was first trained with. The
    engine reads that from a file of Mistral's own and not from `config.json`.

    Args:
        folder: of the model.
        context: `engine.context`.

    Raises:
        InputError: if the context is longer than that.
    """
    config = read_model_config(folder / "config.json")
    rope = config.get("rope_parameters")
    if config.get("model_type") != "ministral3" or not isinstance(rope, dict):
        return
    first = rope.get("original_max_position_embeddings")
    if rope.get("llama_4_scaling_beta") and isinstance(first, int) and context > first:
        raise InputError(
            f"engine.context is {context}, but engine and trainer compute {folder.name} alike only "
            f"up to {first} tokens, where its attention begins to be scaled; set "
            f"engine.context={first} or less"
        )


def check_embedding(folder: Path, *, in_host: bool, device: str) -> None:
    """Refuse an embedding table in host memory where that would change nothing, or harm.

    Args:
        folder: of the model.
        in_host: `engine.host_embedding`.
        device: where the engine runs.

    Raises:
        InputError: on a CPU, or if the head is the same table, which each step reads whole.
    """
    if not in_host:
        return
    if device == "cpu":
        raise InputError(
            "engine.host_embedding is true and engine.device is cpu, where all weights lie in host "
            "memory; leave engine.host_embedding out"
        )
    if read_model_config(folder / "config.json").get("tie_word_embeddings"):
        raise InputError(
            f"engine.host_embedding is true, but the embedding of {folder.name} is its head too, "
            "which is read whole for each token; leave engine.host_embedding out"
        )


def check_config(config: dict[str, Any], *, name: str, weights: str | None = None) -> None:
    """Refuse a model that cannot be held in a format, and sizes that no model has.

    Args:
        config: content of its `config.json`.
        name: what the user calls it.
        weights: `engine.weights`; None where any will do.

    Raises:
        InputError: naming the model, the key and what to give instead.
    """
    for key in QUANTISED:
        how = config.get(key)
        if how and reads_as_int4(how):
            if weights not in (None, "int4"):
                raise InputError(
                    f"model {name} is already quantised ({_name_method(how)}, {key} in "
                    f"config.json), and engine.weights is {weights!r}; such a model is read as it "
                    "is with --set engine.weights=int4, or give "
                    f"{suggest_plain(name)} (model.path)"
                )
        elif how:
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
    if weights == "int4":
        _check_int4(config, name=name)


def reads_as_int4(how: object) -> bool:
    """Return whether a model was quantised, by AWQ, to the very form of our int4."""
    return (
        isinstance(how, dict)
        and how.get("quant_method") == "awq"
        and how.get("bits", how.get("w_bit")) == 4
        and how.get("zero_point") is True
        and how.get("group_size", how.get("q_group_size")) in INT4_GROUPS
        and str(how.get("version", "gemm")).lower() == "gemm"
    )


def _check_int4(config: dict[str, Any], *, name: str) -> None:
    """Refuse widths that the packed layout cannot hold; those that are missing are not looked at.

    Raises:
        InputError: naming the width.
    """
    heads = config.get("num_attention_heads") or 1
    hidden = config.get("hidden_size") or 0
    head = config.get("head_dim") or hidden // heads
    widths = {
        "hidden_size": hidden,
        "intermediate_size": config.get("intermediate_size") or 0,
        "num_attention_heads x head_dim": heads * head,
        "num_key_value_heads x head_dim": (config.get("num_key_value_heads") or heads) * head,
    }
    for width, size in widths.items():
        if size % INT4_COLUMNS:
            raise InputError(
                f"model {name} cannot be held in int4: {width} in config.json is {size}, and it "
                f"must be a multiple of {INT4_COLUMNS}; set engine.weights to nf4 or bf16"
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

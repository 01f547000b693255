"""Dense models inside of checkpoints of another kind, judged by the config alone.

Two families publish a dense decoder in a layout that engine and trainer cannot share. Ministral 3
is the text part of a model that also sees images. The smaller models of Granite 4.0 have the layout
of their hybrid relatives, with one tensor where others have two. Their numbers are those of a dense
model under other names, so `dense_copy.py` can write them out once.
"""

from __future__ import annotations

from typing import Any

_GRANITE_KEYS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range"),
    *("rms_norm_eps", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("tie_word_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "attention_bias"),
    *("attention_dropout", "embedding_multiplier", "logits_scaling", "residual_multiplier"),
    *("attention_multiplier", "dtype", "torch_dtype", "quantization_config"),
)
"""Keys that mean the same for a hybrid without hybrid layers as for a dense Granite."""


def find_dense(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the config of the dense model that a checkpoint holds in another layout, if it does.

    Args:
        config: content of the checkpoint's `config.json`.
    """
    match config.get("model_type"):
        case "mistral3":
            return _find_text(config)
        case "granitemoehybrid":
            return _find_granite(config)
        case _:
            return None


def _find_text(config: dict[str, Any]) -> dict[str, Any] | None:
    text = config.get("text_config")
    if not isinstance(text, dict) or text.get("model_type") != "ministral3":
        return None
    quantised = config.get("quantization_config")
    return {
        **text,
        "architectures": ["Ministral3ForCausalLM"],
        **({"quantization_config": quantised} if quantised else {}),
    }


def _find_granite(config: dict[str, Any]) -> dict[str, Any] | None:
    layers = config.get("layer_types") or config.get("layers_block_type")
    if not isinstance(layers, list) or not layers:
        return None
    # Published files have the first word, those that transformers 5 writes have the other.
    if any(layer not in ("attention", "full_attention") for layer in layers):
        return None
    # What is left out counts as in the family's own config: experts, and no positions.
    if config.get("num_local_experts", 8) or config.get("position_embedding_type") != "rope":
        return None
    kept = {key: config[key] for key in _GRANITE_KEYS if key in config}
    width = config.get("shared_intermediate_size")
    return {
        **kept,
        **({} if width is None else {"intermediate_size": width}),
        "model_type": "granite",
        "architectures": ["GraniteForCausalLM"],
    }


def rename_tensor(kind: str, name: str) -> tuple[str, ...]:
    """Return the names in a dense checkpoint of a tensor: none if it is left out, two if it splits.

    Args:
        kind: `model_type` of the checkpoint that it stands in.
        name: its name there.
    """
    if kind == "mistral3":
        short = name.removeprefix("model.")
        if short.startswith(("vision_tower.", "multi_modal_projector.")):
            return ()
        if not short.startswith("language_model."):
            return (name,)
        own = short.removeprefix("language_model.")
        return (own if own.startswith(("model.", "lm_head.")) else f"model.{own}",)
    before, found, after = name.partition(".shared_mlp.input_linear.")
    if found:
        return (f"{before}.mlp.gate_proj.{after}", f"{before}.mlp.up_proj.{after}")
    return (name.replace(".shared_mlp.output_linear.", ".mlp.down_proj."),)

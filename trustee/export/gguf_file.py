"""A model, or an adapter alone, as one GGUF file for llama.cpp and what is built on it.

Tensors are written one after the other, so memory holds one at a time. The names of tensors and the
quantisation are those of the package `gguf`. llama.cpp turns queries and keys of Llama models in
pairs of neighbours, where a Hugging Face folder has both halves apart; so their rows are reordered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from trustee.engine.model_config import read_model_config
from trustee.errors import InputError
from trustee.export.gguf_vocabulary import read_vocabulary
from trustee.export.merging import list_tensors, merged_tensors
from trustee.export.speech import Speech
from trustee.planning.shapes import ModelShape, read_shape
from trustee.runs.adapters import HALVES, PREFIX, WEIGHTS, AdapterFile

if TYPE_CHECKING:
    import numpy as np
    import torch

Quant = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
QUANTS = get_args(Quant)
WHOLE: tuple[Quant, ...] = ("f32", "f16", "bf16")
"""Formats that do not quantise."""
WRITABLE = ("llama", "qwen2", "qwen3")
"""Model types of which a file says all that they compute."""
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
"""Tensors that are never held in less than eight bits."""


def import_gguf() -> Any:
    """Import the package `gguf`.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise InputError(
            f"GGUF files need the package gguf, which cannot be imported ({error}); install it "
            "with pip install 'trustee[export]'"
        ) from error
    return gguf


def read_writable_shape(config: dict[str, Any], *, name: str) -> ModelShape:
    """Return the shape of a model that can be written as a GGUF file.

    Raises:
        InputError: if its type cannot: it computes more than the file would say.
    """
    shape = read_shape(config, name=name)
    if shape.model_type not in WRITABLE:
        raise InputError(
            f"{name} is of type {shape.model_type}; GGUF is written for {', '.join(WRITABLE)}; "
            "export it with --merged, which llama.cpp's own converter may read"
        )
    return shape


def write_gguf(
    base: Path,
    adapter: AdapterFile | None,
    path: Path,
    *,
    speech: Speech,
    quant: Quant,
    name: str,
    written: Callable[[], None] = lambda: None,
) -> None:
    """Write a merged model as a GGUF file.

    Args:
        base: folder of the base model.
        adapter: an adapter that fits it; None: the base alone.
        path: the file.
        speech: how the model is spoken to.
        quant: format of matrices; vectors stay in fp32.
        name: name of the model in the file.
        written: is called after each tensor.

    Raises:
        InputError: if the model is of a kind that cannot be written.
        OSError: if the file cannot be written.
    """
    config = read_model_config(base / "config.json")
    shape = read_writable_shape(config, name=str(base))
    gguf = import_gguf()
    writer = gguf.GGUFWriter(path, shape.model_type)
    try:
        writer.add_type("model")
        writer.add_name(name)
        add_sizes(writer, config, shape)
        add_vocabulary(writer, base, shape, speech=speech)
        names = gguf.get_tensor_name_map(_architecture(gguf, shape), shape.layers)
        plan = list(_plan_tensors(gguf, base, names, quant=quant))
        writer.add_file_type(_file_type(gguf, quant))
        if (factors := llama3_factors(config, shape)) is not None:
            writer.add_tensor_info(
                "rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes
            )
        for own, sizes, kind in plan:
            size = _count_bytes(gguf, sizes, kind)
            writer.add_tensor_info(own, sizes, _dtype("float16"), size, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        tensors = merged_tensors(base, adapter)
        for (label, tensor), (_, _, kind) in zip(tensors, plan, strict=True):
            ordered = reorder(tensor, label, shape)
            writer.write_tensor_data(gguf.quants.quantize(ordered.float().numpy(), kind))
            written()
    finally:
        writer.close()


def write_gguf_adapter(base: Path, adapter: AdapterFile, path: Path, *, name: str) -> None:
    """Write an adapter alone as a GGUF file, in fp32, for a base in GGUF form.

    Raises:
        InputError: if the model is of a kind that cannot be written.
        OSError: if the file cannot be written.
    """
    from safetensors import safe_open

    shape = read_writable_shape(read_model_config(base / "config.json"), name=str(base))
    gguf = import_gguf()
    names = gguf.get_tensor_name_map(_architecture(gguf, shape), shape.layers)
    writer = gguf.GGUFWriter(path, shape.model_type)
    try:
        writer.add_type("adapter")
        writer.add_name(name)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", adapter.scale * adapter.rank)
        file: Any
        with safe_open(adapter.folder / WEIGHTS, framework="pt") as file:
            for label in sorted(adapter.shapes):
                half = next(half for half in HALVES if label.endswith(half))
                layer = label.removeprefix(PREFIX).removesuffix(half) + ".weight"
                tensor: torch.Tensor = file.get_tensor(label).float()
                if half == HALVES[1]:
                    tensor = reorder(tensor, layer, shape)
                own = names.get_name(layer, try_suffixes=(".weight",))
                ending = "lora_a" if half == HALVES[0] else "lora_b"
                writer.add_tensor(f"{own}.{ending}", tensor.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def add_sizes(writer: Any, config: dict[str, Any], shape: ModelShape) -> None:
    """Write the sizes of a model.

    Raises:
        InputError: if its positions are scaled in a way that is not known here.
    """
    rope = rope_of(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise InputError(
            f"{shape.name} scales its positions by {kind!r}, which is not written as GGUF here; "
            "export with --merged instead"
        )
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    writer.add_vocab_size(shape.vocab)


def rope_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return how a config says that positions are turned, in its old or its new form."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def add_vocabulary(writer: Any, base: Path, shape: ModelShape, *, speech: Speech) -> None:
    """Write the tokenizer, the chat template and the ids that end a message."""
    vocabulary = read_vocabulary(base, size=shape.vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.cut)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.kinds))
    writer.add_token_merges(list(vocabulary.merges))
    # The template writes every mark itself.
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(speech.stop_ids[0])
    if len(speech.stop_ids) > 1:
        writer.add_eot_token_id(speech.stop_ids[1])
    writer.add_chat_template(speech.template)


def reorder(tensor: torch.Tensor, label: str, shape: ModelShape) -> torch.Tensor:
    """Return a tensor with the rows of queries and keys in llama.cpp's order."""
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(label.split(".")[-2])
    if shape.model_type != "llama" or heads is None:
        return tensor
    halves = tensor.reshape(heads, 2, shape.head_dim // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def llama3_factors(config: dict[str, Any], shape: ModelShape) -> np.ndarray[Any, Any] | None:
    """Return by what each frequency is divided under Llama 3.1's long context; None without it."""
    import numpy as np

    rope = rope_of(config)
    if rope.get("rope_type", rope.get("type")) != "llama3":
        return None
    theta = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    context = rope["original_max_position_embeddings"]
    factors = []
    for pair in range(0, shape.head_dim, 2):
        wavelength = 2 * math.pi * theta ** (pair / shape.head_dim)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def _plan_tensors(
    gguf: Any, base: Path, names: Any, *, quant: Quant
) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """Yield name, shape and format in the file of every tensor of a base.

    Raises:
        InputError: if llama.cpp has no name for a tensor.
    """
    kinds = gguf.GGMLQuantizationType
    for label, sizes in list_tensors(base):
        own = names.get_name(label, try_suffixes=(".weight", ".bias"))
        if own is None:
            raise InputError(
                f"{base} has a tensor {label}, for which GGUF has no name; export with --merged"
            )
        kind = kinds[quant.upper()]
        if len(sizes) < 2:
            kind = kinds.F32
        elif quant not in WHOLE:
            if label in TABLES:
                kind = kinds.Q8_0
            if sizes[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
                kind = kinds.F16
        yield own, sizes, kind


def _count_bytes(gguf: Any, sizes: tuple[int, ...], kind: Any) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return math.prod(sizes) // int(block) * int(size)


def _architecture(gguf: Any, shape: ModelShape) -> Any:
    return gguf.MODEL_ARCH[shape.model_type.upper()]


def _file_type(gguf: Any, quant: Quant) -> Any:
    prefix = "ALL" if quant == "f32" else "MOSTLY"
    return gguf.LlamaFileType[f"{prefix}_{quant.upper()}"]


def _dtype(name: str) -> Any:
    import numpy as np

    return np.dtype(name)

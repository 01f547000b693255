"""A Hugging Face model whose weights are the engine's own buffers, with a LoRA on top.

The model is built on the meta device, then every linear layer, norm and embedding is pointed at the
engine's storage. Nothing is copied, and nothing may be left on meta. Supports the dense families
that `engine/model_config.py` lists.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM

from trustee.errors import RunError
from trustee.runs.adapters import TARGETS
from trustee.trainer.frozen_linear import Int4Layer, fuse_lora
from trustee.trainer.fused_kernels import fuse_norms, has_kernels, use_kernels
from trustee.trainer.marlin import Int4Weight
from trustee.trainer.shared_weights import bias_shards_of, shards_of
from trustee.trainer.tree_attention import register_tree_attention

FUSED = {
    "self_attn": {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "o_proj": ("o_proj",)},
    "mlp": {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)},
}
"""The engine's fused layers and the separate layers that Hugging Face has instead."""


def lora_config(rank: int) -> LoraConfig:
    """Return the adapter's config; alpha / rank is 2, which is exact in bf16."""
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(TARGETS),
        task_type="CAUSAL_LM",
        lora_dropout=0.0,
    )


def keep_input_types(model: torch.nn.Module) -> None:
    """Stop PEFT from casting adapter inputs; the model must then run under autocast.

    PEFT would copy each input to the adapter's fp32, and autocast would round that copy back to the
    same bf16, so results stay the same bit for bit.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def restart_adapter(model: PeftModel, *, seed: int) -> None:
    """Draw an adapter's first weights again, whatever they are now; its product is zero then."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.reset_lora_parameters("default", init_lora_weights=True)


def _share_linear(shard: Any, bias: torch.Tensor | None) -> torch.nn.Module:
    """Return a linear layer whose weight is a shard of the engine's weight."""
    if isinstance(shard, tuple):
        packed, state = shard
        return _share_nf4(packed, state, bias=bias)
    if isinstance(shard, Int4Weight):
        return Int4Layer(shard, bias)
    layer = torch.nn.Linear(0, 0, bias=False, device="meta")
    layer.weight = torch.nn.Parameter(shard, requires_grad=False)
    layer.out_features, layer.in_features = shard.shape
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    return layer


def _share_nf4(packed: torch.Tensor, state: Any, *, bias: torch.Tensor | None) -> torch.nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    layer: Any = Linear4bit(
        0,
        0,
        bias=False,
        compute_dtype=torch.bfloat16,
        quant_type="nf4",
        compress_statistics=True,
        device="cpu",
    )
    layer.weight = Params4bit(
        data=packed,
        requires_grad=False,
        quant_state=state,
        blocksize=state.blocksize,
        compress_statistics=True,
        quant_type="nf4",
        bnb_quantized=True,
    )
    layer.weight.module = layer
    layer.quant_state = state
    # In eval mode bitsandbytes would repack the shared bytes for AVX512 and break the engine.
    layer.support_avx512bf16_for_cpu = False
    layer.out_features, layer.in_features = state.shape
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    adopted: torch.nn.Module = layer
    return adopted


def _bare(layer: Any) -> Any:
    """Return the layer that a LoRA wrapper contains, or the layer itself."""
    return getattr(layer, "base_layer", layer)


def _share(module: Any, source: torch.Tensor) -> None:
    module.weight = torch.nn.Parameter(source.data, requires_grad=False)


def share_model(worker: Any, folder: str, *, rank: int) -> PeftModel:
    """Build the trainable model over the engine's weights.

    Args:
        worker: vLLM's worker.
        folder: model folder; only its config is read.
        rank: LoRA rank.

    Raises:
        RunError: if a tensor of this architecture has no counterpart in the engine.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # Of a checkpoint that is quantised already: the engine has read it, and this model never will.
    vars(config).pop("quantization_config", None)
    engine: Any = worker.model_runner.model
    dtype = engine.model.norm.weight.dtype
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=register_tree_attention()
        )
    for ours, theirs in zip(model.model.layers, engine.model.layers, strict=True):
        for block, layers in FUSED.items():
            for fused, parts in layers.items():
                source = getattr(getattr(theirs, block), fused)
                shards, biases = shards_of(source), bias_shards_of(source)
                for part, shard, bias in zip(parts, shards, biases, strict=True):
                    setattr(getattr(ours, block), part, _share_linear(shard, bias))
        for norm in ("input_layernorm", "post_attention_layernorm"):
            _share(getattr(ours, norm), getattr(theirs, norm).weight)
        for norm in ("q_norm", "k_norm"):
            if hasattr(ours.self_attn, norm):
                _share(getattr(ours.self_attn, norm), getattr(theirs.self_attn, norm).weight)
    _share(model.model.norm, engine.model.norm.weight)
    embedding = _bare(engine.model.embed_tokens).weight[: config.vocab_size]
    _share(model.model.embed_tokens, embedding)
    head = embedding if config.tie_word_embeddings else _bare(engine.lm_head).weight
    _share(model.lm_head, head[: config.vocab_size])
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(worker.device)
    left = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if left:
        raise RunError(
            f"the trainer cannot share {left[:3]} of {config.model_type}; "
            "docs/models.md lists the models that can be trained (model.path)"
        )
    # Of bitsandbytes alone: PEFT then makes adapters for its layers.
    model.is_loaded_in_4bit = isinstance(shards_of(engine.model.layers[0].mlp.down_proj)[0], tuple)
    fuse_norms(model)
    if worker.device.type == "cuda" and has_kernels():
        use_kernels(model)
    peft_model = get_peft_model(model, lora_config(rank))
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    keep_input_types(peft_model)
    fuse_lora(peft_model)
    return peft_model.train()

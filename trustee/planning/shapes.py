"""The shape of a model: the numbers in its config that determine its size and operation count.

A dozen numbers describe a dense decoder of the Qwen2, Qwen3 or Llama family or one of their like,
and the size of every tensor follows from them. No weights are loaded and nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trustee.engine.dense_form import find_dense
from trustee.engine.model_config import check_config, check_family, read_model_config
from trustee.engine.model_files import TINY, describe_at_hand
from trustee.errors import InputError
from trustee.types import Record

PACKAGED = Path(__file__).parent / "model_configs"
"""Folder with configs of well-known models, so that a plan needs no download."""

ASK_MORE = frozenset(
    {
        *(f"HuggingFaceTB/SmolLM2-{size}-Instruct" for size in ("135M", "360M", "1.7B")),
        "HuggingFaceTB/SmolLM3-3B",
        *(f"mistralai/Ministral-3-{size}-Instruct-2512-BF16" for size in ("3B", "8B")),
        "ibm-granite/granite-4.0-micro",
        *("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-3B"),
        *("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-7B", "Qwen/Qwen3-4B-Thinking-2507"),
    }
)
"""Known models that a run should not take by their name alone: they need a template of ours, their
dense part written out, or imitation first, or they always think; see docs/models.md."""


class ModelShape(Record, frozen=True):
    """The sizes of a dense decoder, from its config."""

    name: str
    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    """Whether embedding and head are one tensor."""
    qkv_bias: bool
    qk_norm: bool

    @property
    def query(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of all key heads together; the value heads are as wide."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one decoder layer: (outputs, inputs) by name."""
        return {
            "self_attn.q_proj": (self.query, self.hidden),
            "self_attn.k_proj": (self.key, self.hidden),
            "self_attn.v_proj": (self.key, self.hidden),
            "self_attn.o_proj": (self.hidden, self.query),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    @property
    def linear_numel(self) -> int:
        """Number of weights in all linear layers, without head and embedding."""
        return self.layers * sum(rows * columns for rows, columns in self.linears.values())

    @property
    def table_numel(self) -> int:
        """Number of weights in the embedding and, if it is a separate tensor, the head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def vector_numel(self) -> int:
        """Number of parameters in norms and biases."""
        return self.numel - self.linear_numel - self.table_numel

    @property
    def numel(self) -> int:
        """Number of all parameters; a tied head counts once."""
        return sum(self.parameters().values())

    def adapter_linears(self, rank: int) -> list[int]:
        """Return the number of elements of every LoRA tensor of one decoder layer."""
        return [rank * width for sizes in self.linears.values() for width in sizes]

    def adapter_numel(self, rank: int) -> int:
        """Return the number of parameters of a LoRA on all linear layers."""
        return self.layers * sum(self.adapter_linears(rank))

    def parameters(self) -> dict[str, int]:
        """Return the number of elements of every parameter, by its name in a checkpoint."""
        sizes = {"model.embed_tokens.weight": self.vocab * self.hidden}
        for layer in range(self.layers):
            under = f"model.layers.{layer}."
            for name, (rows, columns) in self.linears.items():
                sizes[f"{under}{name}.weight"] = rows * columns
                if self.qkv_bias and name.endswith(("q_proj", "k_proj", "v_proj")):
                    sizes[f"{under}{name}.bias"] = rows
            for norm in ("input_layernorm", "post_attention_layernorm"):
                sizes[f"{under}{norm}.weight"] = self.hidden
            if self.qk_norm:
                for norm in ("q_norm", "k_norm"):
                    sizes[f"{under}self_attn.{norm}.weight"] = self.head_dim
        sizes["model.norm.weight"] = self.hidden
        if not self.tied:
            sizes["lm_head.weight"] = self.vocab * self.hidden
        return sizes


def read_shape(config: dict[str, Any], *, name: str) -> ModelShape:
    """Read a shape from the content of a `config.json`.

    Of a checkpoint that holds a dense model in another layout it is the dense model's.

    Raises:
        InputError: if the trainer does not support the model, or a size is missing.
    """
    config = find_dense(config) or config
    check_family(config, name=name)
    check_config(config, name=name)
    kind = config["model_type"]
    for key, why in (("attention_bias", "a bias in o_proj"), ("mlp_bias", "biases in its MLP")):
        if config.get(key):
            raise InputError(
                f"model {name} sets {key}, which means {why}, and that is not supported; "
                "give another model (model.path)"
            )
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return ModelShape(
            name=name,
            model_type=kind,
            layers=config["num_hidden_layers"],
            hidden=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or max(1, hidden // heads),
            intermediate=config["intermediate_size"],
            vocab=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=kind == "qwen2",
            qk_norm=kind == "qwen3",
        )
    except KeyError as error:
        raise InputError(f"model {name}: config.json has no {error} (model.path)") from error


def known_models() -> tuple[str, ...]:
    """Return the hub ids of the models whose configs are packaged."""
    return tuple(sorted(path.stem.replace("--", "/") for path in PACKAGED.glob("*.json")))


def list_proposed() -> tuple[str, ...]:
    """Return the known models that a run can take by their name alone."""
    return tuple(name for name in known_models() if name not in ASK_MORE)


def find_shape(path: str, *, weights: str | None = None) -> ModelShape:
    """Return a model's shape from its config, which must suit a format of weights if one is given.

    The model is `tiny`, a folder, a hub id in the local hub cache, or one with a packaged config.

    Raises:
        InputError: if no config is found, or the one that was found is not usable.
    """
    config = read_model_config(_find_config(path))
    shape = read_shape(config, name=path)
    check_config(config, name=path, weights=weights)
    return shape


def _find_config(path: str) -> Path:
    folder = TINY if path == "tiny" else Path(path)
    if folder.is_dir():
        return folder / "config.json"
    cached = _find_cached(path)
    if cached is not None:
        return cached
    packaged = PACKAGED / f"{path.replace('/', '--')}.json"
    if path in known_models():
        return packaged
    raise InputError(
        f"no config of model {path!r} was found: it is neither a folder nor in the hub cache; "
        f"models known without a download: tiny, {', '.join(known_models())}; at hand with their "
        f"weights: {describe_at_hand()} (model.path)"
    )


def _find_cached(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None

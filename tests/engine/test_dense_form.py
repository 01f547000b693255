"""Dense models inside of other layouts: which configs hold one, and under which names."""

from __future__ import annotations

from typing import Any

import pytest

from trustee.engine.dense_form import find_dense, rename_tensor

GRANITE: dict[str, Any] = {
    "model_type": "granitemoehybrid",
    "layer_types": ["attention", "attention"],
    "num_local_experts": 0,
    "position_embedding_type": "rope",
    "shared_intermediate_size": 96,
    "intermediate_size": 32,
    "hidden_size": 64,
    "logits_scaling": 10,
    "mamba_n_heads": 128,
}
MINISTRAL: dict[str, Any] = {
    "model_type": "mistral3",
    "text_config": {"model_type": "ministral3", "hidden_size": 64},
    "vision_config": {"hidden_size": 32},
}


def test_granite_without_hybrid_layers_is_dense() -> None:
    """Its MLP is the shared one's, and what only hybrids have is left out."""
    assert find_dense(GRANITE) == {
        "model_type": "granite",
        "architectures": ["GraniteForCausalLM"],
        "intermediate_size": 96,
        "hidden_size": 64,
        "logits_scaling": 10,
    }


def test_layers_have_two_names() -> None:
    """Transformers 5 writes the second."""
    assert find_dense(GRANITE) == find_dense(GRANITE | {"layer_types": ["full_attention"] * 2})


@pytest.mark.parametrize(
    "change",
    [
        {"layer_types": ["mamba", "attention"]},
        {"layer_types": None},
        {"layer_types": []},
        {"layer_types": "attention"},
        {"num_local_experts": 8},
        {"position_embedding_type": None},
        {"position_embedding_type": "nope"},
        {"model_type": "granite"},
    ],
)
def test_other_granites_hold_none(change: dict[str, Any]) -> None:
    """Mamba layers, experts and no positions are no Granite of the dense kind."""
    assert find_dense(GRANITE | change) is None


def test_experts_that_are_left_out_are_there() -> None:
    """The family's own default is eight."""
    assert find_dense({k: v for k, v in GRANITE.items() if k != "num_local_experts"}) is None


def test_text_of_ministral_is_dense() -> None:
    """The text part's config is the model's; a quantised one stays known as such."""
    dense: dict[str, Any] = {"model_type": "ministral3", "hidden_size": 64}
    dense |= {"architectures": ["Ministral3ForCausalLM"]}
    assert find_dense(MINISTRAL) == dense
    quantised = {"quantization_config": {"quant_method": "fp8"}}
    assert find_dense(MINISTRAL | quantised) == dense | quantised
    other: list[Any] = [{"model_type": "mistral"}, None, []]
    for text in other:
        assert find_dense(MINISTRAL | {"text_config": text}) is None


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("mistral3", "language_model.model.layers.0.x.weight", ("model.layers.0.x.weight",)),
        ("mistral3", "model.language_model.layers.0.x.weight", ("model.layers.0.x.weight",)),
        ("mistral3", "language_model.lm_head.weight", ("lm_head.weight",)),
        ("mistral3", "lm_head.weight", ("lm_head.weight",)),
        ("mistral3", "vision_tower.patch_conv.weight", ()),
        ("mistral3", "model.vision_tower.patch_conv.weight", ()),
        ("mistral3", "model.multi_modal_projector.norm.weight", ()),
        ("granitemoehybrid", "model.norm.weight", ("model.norm.weight",)),
        ("granitemoehybrid", "m.1.shared_mlp.output_linear.weight", ("m.1.mlp.down_proj.weight",)),
        (
            "granitemoehybrid",
            "m.1.shared_mlp.input_linear.weight",
            ("m.1.mlp.gate_proj.weight", "m.1.mlp.up_proj.weight"),
        ),
    ],
)
def test_tensors_get_the_dense_names(kind: str, name: str, expected: tuple[str, ...]) -> None:
    """Old and new names of transformers, and what is split or left out."""
    assert expected == rename_tensor(kind, name)

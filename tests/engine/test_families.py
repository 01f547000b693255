"""Every family through the engine: one copy of the weights, and the same logprobs on both sides.

Which published models share vLLM's class is said in docs/models.md; Qwen3 is the built-in model,
which `test_vllm.py` plays.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from family_engine import FAMILIES, play_family
from trustee.engine.model_config import MODEL_TYPES
from trustee.engine.weights import WeightFormat

CLASSES = {
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "granite": "GraniteForCausalLM",
    "ministral3": "MistralForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
WEIGHTS: WeightFormat = "fp32"
"""Of all formats alone exact. They are a matter of linear layers, which all families have alike."""
MOST = 1e-5
"""Largest mean gap of logprobs in nats; 4e-7 was seen."""


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """A process in which engines start, one after the other."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_no_family_is_left_out() -> None:
    """The built-in model is the missing one."""
    assert set(FAMILIES) | {"qwen3"} == set(MODEL_TYPES)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", FAMILIES)
def test_engine_and_trainer_agree(
    process: ProcessPoolExecutor, family: str, tmp_path: Path
) -> None:
    """For base and trained adapter alike; training moves the adapter, not the base's bytes."""
    found = process.submit(play_family, family, WEIGHTS, tmp_path).result()
    assert CLASSES[family] == found["class"]
    assert max(found["base"], found["fresh"], found["adapter"]) < MOST
    assert found["moved"] > 0.01
    assert found["hash"][0] == found["hash"][1]

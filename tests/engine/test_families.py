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
CASES: list[tuple[str, WeightFormat]] = [
    *((family, "fp32") for family in FAMILIES),
    ("granite", "nf4"),
    ("smollm3", "bf16"),
]
"""Formats are a matter of linear layers, which all families have alike: two samples are enough."""
MOST = {"fp32": 1e-5, "bf16": 0.03, "nf4": 0.03}
"""Largest mean gap in nats; weights three times as large as usual make bf16's rounding visible."""


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
@pytest.mark.parametrize(("family", "weights"), CASES)
def test_engine_and_trainer_agree(
    process: ProcessPoolExecutor, family: str, weights: WeightFormat, tmp_path: Path
) -> None:
    """For base and trained adapter alike; training moves the adapter, not the base's bytes."""
    found = process.submit(play_family, family, weights, tmp_path).result()
    assert CLASSES[family] == found["class"]
    assert max(found["base"], found["fresh"], found["adapter"]) < MOST[weights]
    assert found["moved"] > max(0.01, 2 * found["adapter"])
    assert found["hash"][0] == found["hash"][1]

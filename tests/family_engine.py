"""An engine with its trainer in this very process, for one small random model after the other.

A process that has vLLM loaded starts such an engine in about a second, where `VllmEngine` takes a
process of its own for each.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import torch

from real_engine import engine_config, trainer_spec
from trustee.algorithm.learner import FinishRequest, MicroRequest
from trustee.algorithm.loss import LossConfig
from trustee.engine.remote_trainer import read_answer
from trustee.engine.vllm import VllmEngine
from trustee.engine.vllm_env import set_variables
from trustee.engine.weights import WeightFormat
from trustee.types import Sample

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"tie_word_embeddings": False},
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "granite": {
        "embedding_multiplier": 12.0,
        "logits_scaling": 10.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.015625,
    },
    "ministral3": {"head_dim": 32, "tie_word_embeddings": False},
    "smollm3": {},
}
"""What a small model of each family has besides; Llama's positions are scaled as in Llama 3.2."""
TOKENS = 24
PROMPTS = tuple(
    tuple((5 * at * row + 7 * row + 3) % 290 + 5 for at in range(20 + 6 * row)) for row in range(4)
)


def write_model(family: str, folder: Path) -> Path:
    """Write a random model whose logprobs are far from those of an even guess."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(5)
    config = AutoConfig.for_model(family, **(SHAPE | FAMILIES[family]))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


class FamilyEngine:
    """An engine over one model, and what the tests ask of it."""

    def __init__(self, folder: Path, weights: WeightFormat) -> None:
        from vllm.v1.engine.llm_engine import LLMEngine

        spec = msgspec.structs.replace(trainer_spec("adamw"), folder=str(folder))
        asked = VllmEngine(engine_config(weights), spec)._arguments({"load_format": "auto"})
        asked.skip_tokenizer_init = True
        self._llm: Any = LLMEngine.from_engine_args(asked)
        self._count = 0
        self._llm.collective_rpc("trustee_build", args=(msgspec.msgpack.encode(spec),))

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the trainer."""
        (answer,) = self._llm.collective_rpc("trustee_call", args=(method, *args))
        return read_answer(answer)

    def sample(self, version: int | None, folder: Path) -> list[Sample]:
        """Let base or adapter continue every prompt."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        lora = None if version is None else LoRARequest(f"v{version}", version, str(folder))
        prompts = {}
        for prompt in PROMPTS:
            self._count += 1
            prompts[str(self._count)] = prompt
            how = SamplingParams(max_tokens=TOKENS, seed=self._count, logprobs=0, detokenize=False)
            what = {"prompt_token_ids": list(prompt)}
            self._llm.add_request(str(self._count), what, how, lora_request=lora)
        samples: list[Sample] = []
        while self._llm.has_unfinished_requests():
            samples += [
                _as_sample(prompts[output.request_id], output.outputs[0])
                for output in self._llm.step()
                if output.finished
            ]
        return samples

    def measure(self, samples: Sequence[Sample], *, adapter: bool) -> float:
        """Give the mean difference between the engine's logprobs and the trainer's."""
        gaps = []
        for sample in samples:
            ours = self.call("logprobs", msgspec.msgpack.encode(sample), adapter)
            theirs = sample.logprobs[-len(ours) :]
            gaps += [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
        return fmean(gaps)

    def train(self, samples: Sequence[Sample], *, steps: int) -> None:
        """Move the adapter towards what was said."""
        request = MicroRequest(samples=tuple(samples), loss=LossConfig(), normaliser=TOKENS)
        for _ in range(steps):
            self.call("accumulate", msgspec.msgpack.encode(request))
            finish = FinishRequest(learning_rate=3e-2, max_norm=1.0)
            self.call("finish", msgspec.msgpack.encode(finish))

    def close(self) -> None:
        """Forget everything that is global in vLLM."""
        from vllm.distributed.parallel_state import (
            destroy_distributed_environment,
            destroy_model_parallel,
        )

        del self._llm
        gc.collect()
        destroy_model_parallel()
        destroy_distributed_environment()


def _as_sample(prompt: Sequence[int], said: Any) -> Sample:
    ids = tuple(said.token_ids)
    logprobs = [at[id].logprob for id, at in zip(ids, said.logprobs, strict=True)]
    n = len(prompt)
    return Sample(
        ids=(*prompt, *ids),
        mask=(False,) * n + (True,) * len(ids),
        logprobs=((0.0,) * n + tuple(logprobs)),
        advantage=1.0,
        version=0,
        trajectory_id="test",
    )


def play_family(family: str, weights: WeightFormat, folder: Path) -> dict[str, Any]:
    """Adopt a small model, train an adapter, serve it; give what was measured.

    Runs in another process, for vLLM's state is global.
    """
    set_variables("cpu", start_seconds=300, threads=1)
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    import trustee.trainer

    trustee.trainer.register()
    _know_classes()
    engine = FamilyEngine(write_model(family, folder / "model"), weights)
    try:
        base = engine.sample(None, folder)
        found: dict[str, Any] = {
            "base": engine.measure(base, adapter=False),
            "fresh": engine.measure(base, adapter=True),
            "hash": [engine.call("hash_base")],
        }
        engine.train(base, steps=6)
        engine.call("publish", 1, str(folder / "adapter"))
        said = engine.sample(1, folder / "adapter")
        found["adapter"] = engine.measure(said, adapter=True)
        found["moved"] = engine.measure(said, adapter=False)
        found["hash"].append(engine.call("hash_base"))
        found["class"] = type(engine._llm.model_executor.driver_worker.model_runner.model).__name__
    finally:
        engine.close()
    return found


def _know_classes() -> None:
    """Name vLLM's classes to it, which otherwise looks at each in a process of its own."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.granite import GraniteForCausalLM
    from vllm.model_executor.models.llama import LlamaForCausalLM
    from vllm.model_executor.models.mistral import MistralForCausalLM
    from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM

    from trustee.trainer.smollm3 import SmolLM3ForCausalLM

    ModelRegistry.register_model("Ministral3ForCausalLM", MistralForCausalLM)
    for kind in (GraniteForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM, SmolLM3ForCausalLM):
        ModelRegistry.register_model(kind.__name__, kind)

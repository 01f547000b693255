"""The trainer without an engine: gradients are the same however a micro-batch is shared out."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM

from trustee.learner import Checkpointing, MicroReport, MicroRequest, add_reports
from trustee.loss import LossConfig
from trustee.types import Sample
from trustee.worker.adoption import lora_config
from trustee.worker.trainer import TrainerExtension


def make_trainer(*, threads: int, mode: Checkpointing = "off") -> Any:
    """Make a trainer over a small random model, always the same."""
    torch.manual_seed(3)
    shape = Qwen3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    model = get_peft_model(Qwen3ForCausalLM(shape).to(torch.bfloat16), lora_config(8))
    trainer: Any = TrainerExtension()
    trainer.device = torch.device("cpu")
    trainer.trustee_spec = SimpleNamespace(head_chunk=7, threads=threads)
    trainer.trustee_pool = ThreadPoolExecutor(threads)
    trainer.trustee_model = model.train()
    trainer.trustee_params = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainer.trustee_params:
        parameter.data = torch.randn_like(parameter.data, dtype=torch.float32) * 0.1
    trainer.trustee_adjust(mode)
    return trainer


def make_micro(*, kl_coef: float = 0.0) -> MicroRequest:
    """Make a micro-batch of samples of several lengths."""
    rng = random.Random(5)
    samples = []
    for number, length in enumerate((30, 21, 21, 12, 9, 4)):
        samples.append(
            Sample(
                ids=tuple(rng.randrange(97) for _ in range(length)),
                mask=(False, False, *(True,) * (length - 2)),
                logprobs=(0.0, 0.0, *(-4.0 - rng.random() for _ in range(length - 2))),
                advantage=rng.choice((-1.0, 1.0)),
                version=1,
                trajectory_id=str(number),
            )
        )
    return MicroRequest(samples=tuple(samples), loss=LossConfig(kl_coef=kl_coef), normaliser=85.0)


def gradients(trainer: Any) -> list[torch.Tensor]:
    """Give what was gathered."""
    return [parameter.grad for parameter in trainer.trustee_params]


@pytest.mark.parametrize("threads", [2, 3, 6, 50])
def test_threads_gather_the_same_gradients(threads: int) -> None:
    """Two micro-batches on several threads add up to what one thread gathers."""
    alone, shared = make_trainer(threads=1), make_trainer(threads=threads)
    for _ in range(2):
        expected = alone.trustee_accumulate(make_micro())
        given = shared.trustee_accumulate(make_micro())
    assert (85, expected.tokens) == (given.tokens, 85)
    assert expected.loss == pytest.approx(given.loss, rel=2e-2, abs=1e-3)
    assert expected.gap_abs_sum == pytest.approx(given.gap_abs_sum, rel=1e-2)
    for left, right in zip(gradients(alone), gradients(shared), strict=True):
        assert left.abs().sum() > 0
        # bf16 products of other shapes round otherwise, by about one part in a hundred.
        assert (left - right).norm() < 0.03 * left.norm()


@pytest.mark.parametrize(
    ("mode", "kl_coef", "shares"),
    [("off", 0.0, 4), ("off", 0.1, 1), ("recompute", 0.0, 1), ("offload", 0.0, 1)],
)
def test_what_must_stay_together_does(mode: Checkpointing, kl_coef: float, shares: int) -> None:
    """Checkpoints and the reference pass have state for all: then one thread does it all."""
    trainer = make_trainer(threads=4, mode=mode)
    assert shares == trainer.trustee_shares(make_micro(kl_coef=kl_coef))


def test_reports_add_up() -> None:
    """Sums add, maxima do not."""
    names = MicroReport.__struct_fields__
    one = MicroReport(**dict.fromkeys(names, 1))
    three = MicroReport(**dict.fromkeys(names, 3))
    whole = add_reports([one, three])
    assert {name: 3 if name.endswith("_max") else 4 for name in names} == {
        name: getattr(whole, name) for name in names
    }

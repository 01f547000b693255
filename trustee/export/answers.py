"""Greedy answers of base and adapter, and whether an exported model gives them too.

The reference is the base with the adapter beside it, as PEFT applies it: nothing that the export
computed takes part. An exported model gets the prompt and the reference's own answer up to a
token, and says what it would say next. So one early tie does not hide what comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trustee.errors import RunError
from trustee.types import Record

TOKENS = 48
"""Longest answer of the test, in tokens."""
NEAR = 20
"""Number of candidates of each token whose distance to the best is kept."""
TIE = 0.1
"""Two tokens tie if the reference's logprobs are this near, in nats: rounding weights to bf16
decides between them."""
SMALL_BYTES = 4 << 30
"""Up to this size the weights are tested in fp32, which rounds nothing."""


class Answer(Record, frozen=True):
    """What the reference says to a prompt."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    gaps: tuple[dict[int, float], ...]
    """For each id, the distances of the best candidates to the best one, in nats, by id."""


class Agreement(Record, frozen=True):
    """How far an exported model says what the reference says."""

    tokens: int
    equal: int
    """Tokens that are the reference's own."""
    ties: int
    """Other tokens, which the reference finds as likely, up to `TIE`."""
    worst: float
    """Largest distance of a token to the reference's, in nats; infinite if it is far off."""

    @property
    def share(self) -> float:
        """Share of tokens that are equal or tie."""
        return (self.equal + self.ties) / self.tokens if self.tokens else 0.0


def load_model(folder: Path, adapter: Path | None = None) -> Any:
    """Load a model for the test, with an adapter beside its weights if one is given."""
    import torch
    from transformers import AutoModelForCausalLM

    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32 if size <= SMALL_BYTES else torch.bfloat16,
    )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    return model.eval()


def answer_greedily(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    *,
    stop_ids: Sequence[int],
    done: Callable[[], None] = lambda: None,
) -> tuple[Answer, ...]:
    """Return the model's greedy answer to each prompt."""
    answers = []
    for prompt in prompts:
        answers.append(_answer(model, prompt, stop_ids=stop_ids))
        done()
    return tuple(answers)


def _answer(model: Any, prompt: tuple[int, ...], *, stop_ids: Sequence[int]) -> Answer:
    import torch

    ids: list[int] = []
    gaps: list[dict[int, float]] = []
    given, cache = torch.tensor([prompt]), None
    with torch.inference_mode():
        while len(ids) < TOKENS and (not ids or ids[-1] not in stop_ids):
            out = model(input_ids=given, past_key_values=cache, use_cache=True)
            best = out.logits[0, -1].float().topk(min(NEAR, out.logits.shape[-1]))
            values, candidates = best.values.tolist(), best.indices.tolist()
            gaps.append(
                {id: values[0] - value for id, value in zip(candidates, values, strict=True)}
            )
            ids.append(candidates[0])
            given, cache = torch.tensor([[candidates[0]]]), out.past_key_values
    return Answer(prompt=prompt, ids=tuple(ids), gaps=tuple(gaps))


def predict_with(model: Any, answer: Answer) -> tuple[int, ...]:
    """Return what a model says at each place of an answer, given what stands before it."""
    import torch

    with torch.inference_mode():
        out = model(input_ids=torch.tensor([answer.prompt + answer.ids[:-1]]))
    said: list[int] = out.logits[0, len(answer.prompt) - 1 :].argmax(dim=-1).tolist()
    return tuple(said)


def compare(answers: Sequence[Answer], said: Sequence[Sequence[int]]) -> Agreement:
    """Return how far predictions agree with the reference's answers."""
    pairs = [
        (id, own, gaps.get(id, float("inf")))
        for answer, predicted in zip(answers, said, strict=True)
        for id, own, gaps in zip(predicted, answer.ids, answer.gaps, strict=True)
    ]
    return Agreement(
        tokens=len(pairs),
        equal=sum(id == own for id, own, _ in pairs),
        ties=sum(id != own and gap <= TIE for id, own, gap in pairs),
        worst=max((gap for _, _, gap in pairs), default=0.0),
    )


def demand(agreement: Agreement, *, share: float, what: str) -> None:
    """Refuse an export whose answers are not the reference's.

    Args:
        agreement: how far it agrees.
        share: smallest share of tokens that must be equal or tie.
        what: the exported file, for the message.

    Raises:
        RunError: if it agrees less.
    """
    if agreement.share < share:
        raise RunError(
            f"{what} does not say what base and adapter say: of {agreement.tokens} greedy tokens "
            f"{agreement.equal} are equal and {agreement.ties} tie, the farthest is "
            f"{agreement.worst:.3f} nats off, and a share of {share:.0%} is needed; it was deleted"
        )

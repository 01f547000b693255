"""Train the built-in model from scratch: tokenizer, weights, and scores of each role.

    python -m trustee.tiny.build --out trustee/tiny/model

The learning rate decays to almost zero over `--steps`; training ends earlier if every role of the
simulator reaches the wanted score on new tasks. The packaged model's scores are in
bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment as Jinja
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from trustee.decoding import decode_json, decode_text, read_file
from trustee.tiny.lessons import CARELESS, FAULTLESS, Lesson, teach
from trustee.types import BadCall, Message

MODEL = Path(__file__).parent / "model"
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
VOCABULARY = 1280
STEP_TOKENS = 8192
ROW_TOKENS = 4096
"""Padded tokens of one forward pass."""
CARELESS_SHARE = 0.7
"""Share of episodes with bad habits; the policy learns only from these."""

Ids = tuple[list[int], list[bool]]


def chat_dict(message: Message) -> dict[str, Any]:
    """Return a message in the form of chat templates; a call that cannot be read stays text."""
    broken = "".join(
        f"<tool_call>{call.text}</tool_call>" for call in message.calls if isinstance(call, BadCall)
    )
    calls = [
        {"function": {"name": call.name, "arguments": call.arguments}}
        for call in message.calls
        if not isinstance(call, BadCall)
    ]
    row: dict[str, Any] = {"role": message.role, "content": message.content + broken}
    return row | ({"tool_calls": calls} if calls else {})


class Pen:
    """Encodes lessons and marks the tokens to learn, message by message."""

    def __init__(self, template: str) -> None:
        jinja = Jinja(autoescape=False, trim_blocks=True, lstrip_blocks=True)
        jinja.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        self._template = jinja.from_string(template)
        self.tokenizer = Tokenizer(models.BPE())

    def pieces(self, lesson: Lesson) -> Iterator[tuple[str, bool]]:
        """Yield a lesson's text in pieces, each with whether the model has to learn it."""
        rows = [chat_dict(message) for message in lesson.messages]
        tools = [tool.schema for tool in lesson.tools]
        before = ""
        for index, message in enumerate(lesson.messages):
            if message.role != "assistant":
                continue
            given = self._template.render(
                messages=rows[:index], tools=tools, add_generation_prompt=True
            )
            whole = self._template.render(messages=rows[: index + 1], tools=tools)
            said = whole[len(given) :].removesuffix("\n")
            yield given.removeprefix(before), False
            yield said, True
            before = given + said

    def write(self, lesson: Lesson) -> Ids:
        """Return a lesson's ids and the mask of those to learn."""
        ids: list[int] = []
        mask: list[bool] = []
        for text, learnt in self.pieces(lesson):
            piece = self.tokenizer.encode(text).ids
            ids += piece
            mask += [learnt] * len(piece)
        return ids, mask

    def train(self, lessons: Sequence[Lesson]) -> None:
        """Train the tokenizer's vocabulary."""
        tokenizer = self.tokenizer
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.train_from_iterator(
            ("".join(text for text, _ in self.pieces(lesson)) for lesson in lessons),
            trainers.BpeTrainer(
                vocab_size=VOCABULARY,
                special_tokens=list(SPECIALS),
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )


def give_lessons(rng: random.Random) -> list[Lesson]:
    """Return one episode's lessons; a faultless episode teaches only the simulator's roles."""
    if rng.random() < CARELESS_SHARE:
        return teach(rng, habits=CARELESS)
    return [lesson for lesson in teach(rng, habits=FAULTLESS) if lesson.role != "policy"]


def make_batches(pen: Pen, rng: random.Random) -> Iterator[list[list[Ids]]]:
    """Yield steps, each a list of forward passes over lessons of similar length."""
    while True:
        pool = [pen.write(lesson) for _ in range(256) for lesson in give_lessons(rng)]
        pool.sort(key=lambda row: len(row[0]))
        passes: list[list[Ids]] = []
        while pool:
            rows = [pool.pop()]
            while pool and (len(rows) + 1) * len(rows[0][0]) <= ROW_TOKENS:
                rows.append(pool.pop())
            passes.append(rows)
        rng.shuffle(passes)
        per_step = STEP_TOKENS // ROW_TOKENS
        for at in range(0, len(passes) - per_step + 1, per_step):
            yield passes[at : at + per_step]


def learn_step(model: Any, passes: Sequence[Sequence[Ids]]) -> float:
    """Accumulate the gradients of one step; return the mean loss per learned token."""
    total = sum(sum(mask) for rows in passes for _, mask in rows)
    loss_sum = 0.0
    for rows in passes:
        longest = max(len(ids) for ids, _ in rows)
        ids_BL = torch.zeros(len(rows), longest, dtype=torch.long)
        mask_BL = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, (ids, mask) in enumerate(rows):
            ids_BL[row, : len(ids)] = torch.tensor(ids)
            mask_BL[row, : len(ids)] = torch.tensor(mask)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(input_ids=ids_BL).last_hidden_state
            logits = model.lm_head(hidden[:, :-1][mask_BL[:, 1:]])
        loss = torch.nn.functional.cross_entropy(
            logits.float(), ids_BL[:, 1:][mask_BL[:, 1:]], reduction="sum"
        )
        (loss / total).backward()
        loss_sum += loss.item()
    return loss_sum / total


def score_roles(model: Any, pen: Pen, rng: random.Random, *, cases: int) -> dict[str, float]:
    """Return the share of correct greedy answers by role; for the writer, of valid tasks."""
    waiting: dict[str, list[Lesson]] = {"writer": [], "tool": [], "user": [], "judge": []}
    while any(len(lessons) < cases for lessons in waiting.values()):
        for lesson in give_lessons(rng):
            if len(waiting.get(lesson.role, range(cases))) < cases:
                waiting[lesson.role].append(lesson)
    return {
        role: sum(answers_right(model, pen, lesson) for lesson in lessons) / cases
        for role, lessons in waiting.items()
    }


def answers_right(model: Any, pen: Pen, lesson: Lesson) -> bool:
    """Return whether the greedy answer is correct in what matters for its role."""
    (given, _), (said, _) = pen.pieces(lesson)
    ids = torch.tensor([pen.tokenizer.encode(given).ids])
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=240,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
        )
    text = pen.tokenizer.decode(out[0, ids.shape[1] :].tolist())
    try:
        got = decode_json(text, error=ValueError)
        want = decode_json(said.removesuffix("<|im_end|>"), error=ValueError)
    except ValueError:
        return False
    if lesson.role == "writer":
        return writer_agrees(got)
    if lesson.role == "judge":
        return all(got.get(key) == value for key, value in want.items() if key != "evidence")
    if lesson.role == "tool" and got.keys() == want.keys() and "read_" in given.split("call ")[-1]:
        key = given.split("call read_")[-1].split('"')
        known = f'"{key[0].split(" ")[0]} {key[3]}"' in given
        return got["changes"] == {} and (not known or got == want)
    return bool(got == want)


def writer_agrees(task: Any) -> bool:
    """Return whether the calls of a written task match its intent."""
    from trustee.environments.micro.world import goal_of, write_intent
    from trustee.types import ExpectedCall

    try:
        calls = [ExpectedCall(**call) for call in task["expected_calls"]]
        return bool(write_intent([goal_of(call) for call in calls]) == task["intent"])
    except (KeyError, TypeError, IndexError):
        return False


def read_template() -> str:
    """Read the template of the packaged model."""
    return decode_text(read_file(MODEL / "chat_template.jinja", error=ValueError), error=ValueError)


def save(model: Any, pen: Pen, out: Path) -> None:
    """Write the model folder: bf16 weights, tokenizer, template."""
    out.mkdir(parents=True, exist_ok=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=pen.tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = read_template()
    fast.save_pretrained(out)
    copy = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(out)
    if out.resolve() != MODEL.resolve():
        shutil.copy(MODEL / "chat_template.jinja", out / "chat_template.jinja")


def build(out: Path, *, steps: int, wanted: float, seed: int) -> None:
    """Train until every role scores at least `wanted`, or for `steps` steps."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    pen = Pen(read_template())
    pen.train([lesson for _ in range(1500) for lesson in give_lessons(rng)])
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = Qwen3ForCausalLM(config)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: tuple[Any, ...] = (
        torch.optim.Muon(matrices, lr=0.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), weight_decay=0.01),
    )
    begin = time.monotonic()
    losses: list[float] = []
    tokens = 0
    for step, passes in zip(range(steps), make_batches(pen, rng), strict=False):
        rate = 2e-3 * min(1, (step + 1) / 50) * (1 - 0.95 * step / steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        losses.append(learn_step(model, passes))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += sum(len(ids) for rows in passes for ids, _ in rows)
        if step % 50 == 0:
            mean = sum(losses[-50:]) / len(losses[-50:])
            rate_now = tokens / (time.monotonic() - begin)
            sys.stdout.write(f"step {step} loss {mean:.4f} tokens {tokens} per_s {rate_now:.0f}\n")
            sys.stdout.flush()
        if step % 400 == 399:
            scores = score_roles(model, pen, random.Random(7), cases=40)
            minutes = (time.monotonic() - begin) / 60
            sys.stdout.write(f"step {step} scores {scores} minutes {minutes:.1f}\n")
            sys.stdout.flush()
            save(model, pen, out)
            if min(scores.values()) >= wanted:
                break
    save(model, pen, out)


def main() -> None:
    """Read the arguments and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--wanted", type=float, default=0.99)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    build(options.out, steps=options.steps, wanted=options.wanted, seed=options.seed)


if __name__ == "__main__":
    main()

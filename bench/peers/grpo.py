"""The peer's side of `bench/peers.py`: TRL's GRPOTrainer on a job, timed step by step.

    python bench/peers/grpo.py JOB.json RESULT.json

It is run by the peer's own Python, which knows nothing of this program; the job says all that both
sides must share, and what may differ: threads, type of the weights, way of generating.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def even_share(ids: Sequence[int]) -> float:
    """Give the share of even ids: a reward that any two completions are likely to differ in."""
    return sum(id % 2 == 0 for id in ids) / max(1, len(ids))


class Stopwatch:
    """Sums up the seconds that a function takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        begun = time.monotonic()
        try:
            return self._function(*args, **kwargs)
        finally:
            self.seconds += time.monotonic() - begun


def run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train on a job and give each step's seconds, generated tokens and seconds of generation."""
    import torch
    from datasets import Dataset  # type: ignore[import-not-found]
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]

    torch.set_num_threads(job["threads"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    for text, ids in zip(job["prompts"], job["prompt_ids"], strict=True):
        assert tokenizer(text)["input_ids"] == ids, "both sides must ask the same"
    made: list[int] = []

    def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        made.append(sum(map(len, completion_ids)))
        return [even_share(ids) for ids in completion_ids]

    half = job["dtype"] == "bfloat16"
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=job["dtype"]),
        processing_class=tokenizer,
        reward_funcs=reward,
        train_dataset=Dataset.from_dict({"prompt": job["prompts"]}),
        peft_config=LoraConfig(
            r=job["rank"],
            lora_alpha=2 * job["rank"],
            lora_dropout=0.0,
            target_modules=job["targets"],
            task_type="CAUSAL_LM",
        ),
        args=GRPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=half,
            # All groups of a step are generated together and trained on in one pass.
            per_device_train_batch_size=job["groups"] * job["group_size"],
            gradient_accumulation_steps=1,
            steps_per_generation=1,
            num_iterations=1,
            num_generations=job["group_size"],
            max_completion_length=job["tokens"],
            temperature=1.0,
            beta=0.0,
            max_steps=job["steps"],
            learning_rate=job["learning_rate"],
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            use_transformers_continuous_batching=job["continuous"],
            logging_steps=1000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=job["seed"],
        ),
    )
    generating = Stopwatch(trainer._generate_single_turn)
    trainer._generate_single_turn = generating
    marks: list[tuple[float, float, float]] = []

    class Marker(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            marks.append((time.monotonic(), time.process_time(), generating.seconds))

    trainer.add_callback(Marker())
    marks.append((time.monotonic(), time.process_time(), 0.0))
    trainer.train()
    pairs = list(itertools.pairwise(marks))
    return {
        "seconds": [after[0] - before[0] for before, after in pairs],
        "cpu": [after[1] - before[1] for before, after in pairs],
        "sample": [after[2] - before[2] for before, after in pairs],
        "tokens": made,
    }


def main(arguments: Sequence[str]) -> None:
    """Read the job, run it, write the result."""
    job_file, result_file = map(Path, arguments)
    job = json.loads(job_file.read_text())
    os.environ["OMP_NUM_THREADS"] = str(job["threads"])
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    result_file.write_text(json.dumps(run(job, result_file.parent)))


if __name__ == "__main__":
    main(sys.argv[1:])

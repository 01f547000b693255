"""The peer's side of `bench/peers.py`: TRL's GRPOTrainer on a job, timed step by step.

    python bench/peers/grpo.py JOB.json RESULT.json

It is run by the peer's own Python, which finds of this program only its micro-world; the job says
all that both sides must share, and what may differ: threads, type of the weights, attention,
episodes of a backward pass, way of generating. Tools are played by TRL's own loop, in its
documented way: `environment_factory`, one class a task, whose methods are the task's tools.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from worlds import ToolEpisode, even_share

from trustee.types import Stop, Task, Tool

RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}
"""How calls are read: as Qwen3's, whose form the built-in model has."""
TYPES: dict[str, type] = {"integer": int, "string": str}


class Stopwatch:
    """Sums up the seconds that generation takes, and the ids that it gives."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0
        self.tokens = 0
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        started_at = time.monotonic()
        try:
            completions, logprobs = self._function(*args, **kwargs)
        finally:
            self.seconds += time.monotonic() - started_at
        self.tokens += sum(map(len, completions))
        self.calls += 1
        return completions, logprobs


def make_method(tool: Tool) -> Callable[..., str]:
    """Make the method that TRL calls for a tool, with the signature and text that it reads."""
    types = {name: TYPES[schema["type"]] for name, schema in tool.parameters["properties"].items()}

    def method(self: Any, **arguments: Any) -> str:
        return str(self.episode.run_call(tool.name, arguments))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    method.__name__ = method.__qualname__ = tool.name
    method.__annotations__ = {**types, "return": str}
    told = "\n".join(f"    {name}: The {name}." for name in types)
    method.__doc__ = f"{tool.description}\n\nArgs:\n{told}\n\nReturns:\n    What came of it."
    method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("self", kind),
            *(inspect.Parameter(name, kind, annotation=given) for name, given in types.items()),
        ],
        return_annotation=str,
    )
    return method


def make_environment(task: Task) -> type:
    """Make the class of a task's environments."""

    def reset(self: Any, **_: Any) -> None:
        self.episode = ToolEpisode(task)

    methods = {tool.name: make_method(tool) for tool in task.tools}
    return type("World", (), {"reset": reset, **methods})


def reward_tools(
    completions: Sequence[Sequence[dict[str, Any]]],
    completion_ids: Sequence[Sequence[int]],
    environments: Sequence[Any],
    **_: Any,
) -> list[float]:
    """Give the rewards of finished episodes; the oracle sees what the policy said."""
    rewards = []
    for messages, ids, world in zip(completions, completion_ids, environments, strict=True):
        said = [message for message in messages if message["role"] == "assistant"]
        stop = Stop.TURNS if messages[-1].get("tool_calls") else Stop.DONE
        rewards.append(world.episode.reward([one["content"] for one in said], ids, stop))
    return rewards


def reward_even(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Give the shares of even ids."""
    return [even_share(ids) for ids in completion_ids]


def describe_tasks(job: dict[str, Any], tokenizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the columns of the data set, and what the trainer is told of the world.

    Raises:
        AssertionError: if TRL would ask something else than we do.
    """
    tasks = msgspec.convert(job["tasks"], list[Task])
    if job["play"] == "one-turn":
        for text, ids in zip(job["prompts"], job["prompt_ids"], strict=True):
            assert tokenizer(text)["input_ids"] == ids, "both sides must ask the same"
        return {"prompt": job["prompts"]}, {"reward_funcs": reward_even}
    worlds = {f"{index:04d}": make_environment(task) for index, task in enumerate(tasks)}
    prompts = [[{"role": m.role, "content": m.content} for m in task.messages] for task in tasks]
    for prompt, world, task, ids in zip(
        prompts, worlds.values(), tasks, job["prompt_ids"], strict=True
    ):
        tools = [getattr(world(), tool.name) for tool in task.tools]
        asked = tokenizer.apply_chat_template(prompt, tools=tools, add_generation_prompt=True)
        assert asked["input_ids"] == ids, "both sides must ask the same"
    # TRL takes a tool that cannot run for a policy's mistake; here it would end the job.
    ToolEpisode(tasks[0]).run_call(tasks[0].tools[0].name, {})
    tokenizer.response_template = RESPONSE_TEMPLATE
    columns = {"prompt": prompts, "environment": list(worlds)}
    return columns, {"reward_funcs": reward_tools, "environment_factory": worlds}


def configure(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Give the fields of TRL's own configuration."""
    episodes = job["groups"] * job["group_size"]
    rows = job["rows"] or episodes
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": job["dtype"] == "bfloat16",
        # All groups of a step are generated together, `lag + 1` steps at once.
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": episodes // rows,
        "steps_per_generation": (job["lag"] + 1) * (episodes // rows),
        "num_iterations": 1,
        "num_generations": job["group_size"],
        "max_completion_length": job["turns"] * job["tokens"],
        "max_tool_calling_iterations": job["turns"] - 1,
        "generation_kwargs": {"max_new_tokens": job["tokens"]},
        "shuffle_dataset": False,
        "temperature": 1.0,
        "beta": 0.0,
        "max_steps": job["steps"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
        "use_transformers_continuous_batching": job["continuous"],
        "logging_steps": 1000,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": job["seed"],
    }


def run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train on a job and give each step's seconds, generated tokens and seconds of generation."""
    import torch
    from datasets import Dataset  # type: ignore[import-not-found]
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]

    torch.set_num_threads(job["threads"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    columns, world = describe_tasks(job, tokenizer)
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            job["model"], dtype=job["dtype"], attn_implementation=job["attention"]
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(columns),
        peft_config=LoraConfig(
            r=job["rank"],
            lora_alpha=2 * job["rank"],
            lora_dropout=0.0,
            target_modules=job["targets"],
            task_type="CAUSAL_LM",
        ),
        args=GRPOConfig(**configure(job, folder)),
        **world,
    )
    reward = trainer.reward_funcs[0]
    given: list[float] = []

    def keep_rewards(*args: Any, **kwargs: Any) -> list[float]:
        rewards: list[float] = reward(*args, **kwargs)
        given.extend(rewards)
        return rewards

    trainer.reward_funcs[0] = keep_rewards
    generating = Stopwatch(trainer._generate_single_turn)
    trainer._generate_single_turn = generating
    marks: list[tuple[float, float, float, int, int]] = []

    def mark() -> None:
        spent = (time.monotonic(), time.process_time())
        marks.append((*spent, generating.seconds, generating.tokens, generating.calls))

    class Marker(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            mark()
            print(f"step {len(marks) - 1}: {[round(x, 2) for x in marks[-1][1:]]}", file=sys.stderr)

    trainer.add_callback(Marker())
    mark()
    trainer.train()
    names = ("seconds", "cpu", "sample", "tokens", "rounds")
    steps = [
        [after - before for before, after in zip(*pair, strict=True)]
        for pair in itertools.pairwise(marks)
    ]
    return dict(zip(names, map(list, zip(*steps, strict=True)), strict=True)) | {"reward": given}


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

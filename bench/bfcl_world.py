"""BFCL's single-turn Python tasks as a world, scored by the benchmark's own checker.

It needs the package `bfcl-eval`, which holds the data too, on PYTHONPATH; it is no dependency of
this project. Only `multiple` and `simple_python` are offered: one question, one message with calls.
"""

from __future__ import annotations

import importlib
import random
import sys
import types
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from trustee.environments import CountedSource, PlainEpisode, Reply, Services, TaskSpec, WorldConfig
from trustee.environments.prompts import fill_prompt
from trustee.errors import InputError
from trustee.evaluation.bfcl.episodes import offer
from trustee.types import BadCall, Message, Outcome, Score, Stop, Task, Turn

MODEL = "policy"


class Bfcl(WorldConfig, frozen=True):
    """Settings of the benchmark as a world, which is only for evaluation."""

    category: str = "simple_python"
    prompts: str = "simulated"

    def source(self, *, seed: int, held_out: bool = False) -> BfclSource:
        """Return the tasks of a category, each once, in an order that the seed decides."""
        return BfclSource(self, seed=seed)

    def environment(self, task: Task, services: Services) -> BfclEpisode:
        """Return one episode: a single message of the policy."""
        return BfclEpisode(task)

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the prompt set with the policy's guidance."""
        return (self.prompts,)


class BfclSource(CountedSource):
    """Deals each task once."""

    def __init__(self, config: Bfcl, *, seed: int) -> None:
        super().__init__(seed=seed)
        self._config = config
        entries = read_entries(config.category)
        self._order = random.Random(f"{seed} bfcl").sample(sorted(entries), len(entries))

    def make_spec(self, index: int) -> TaskSpec | None:
        """Return the next task, or None after the last."""
        if index >= len(self._order):
            return None
        return TaskSpec(id=self._order[index], seed=0, difficulty=1)

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Take a task over: its question and its functions."""
        entry, truth = read_entries(self._config.category)[spec.id]
        system = Message(role="system", content=fill_prompt(self._config.prompts, "agent_ftrl"))
        asked = tuple(Message(role=m["role"], content=m["content"]) for m in entry["question"][0])
        return Task(
            id=spec.id,
            messages=(system, *asked),
            tools=tuple(offer(function) for function in entry["function"]),
            difficulty=1,
            hidden={
                "category": self._config.category,
                "functions": entry["function"],
                "truth": truth,
            },
        )


class BfclEpisode(PlainEpisode):
    """One episode: the first message of the policy is the answer."""

    async def reply(self, message: Message) -> Reply:
        """End the episode; no function of the benchmark exists."""
        return Reply(messages=(), done=True)

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Return the verdict of the benchmark's checker."""
        calls = turns[-1].message.calls if turns else ()
        answer = [{c.name: c.arguments} for c in calls if not isinstance(c, BadCall)]
        valid = len(answer) == len(calls) and check_answer(self.task.hidden, answer)
        return Score(rewards={"bfcl": float(valid)}, outcome=Outcome(success=valid))


@lru_cache
def load_benchmark() -> tuple[Any, Any]:
    """Import the benchmark's module of data and its checker.

    Raises:
        InputError: if the package cannot be imported.
    """
    # The checker asks this table whether names have underscores; the real module imports the
    # clients of every vendor.
    stub: Any = types.ModuleType("bfcl_eval.constants.model_config")
    stub.MODEL_CONFIG_MAPPING = defaultdict(lambda: types.SimpleNamespace(underscore_to_dot=True))
    sys.modules.setdefault(stub.__name__, stub)
    try:
        data = importlib.import_module("bfcl_eval.utils")
        checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
    except ImportError as error:
        raise InputError(
            f"BFCL needs the package bfcl-eval, which cannot be imported ({error}); install it "
            "with pip install --no-deps --target FOLDER bfcl-eval, with what the error names, and "
            "put FOLDER on PYTHONPATH"
        ) from error
    return data, checker


@lru_cache
def read_entries(category: str) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return each task of a category with its possible answers, by id."""
    data, _ = load_benchmark()
    truths = {one["id"]: one["ground_truth"] for one in data.load_ground_truth_entry(category)}
    entries = data.load_dataset_entry(
        category, include_prereq=False, include_language_specific_hint=False
    )
    return {one["id"]: (one, truths[one["id"]]) for one in entries}


def check_answer(hidden: Mapping[str, Any], answer: list[dict[str, Any]]) -> bool:
    """Return whether the benchmark's checker accepts some calls."""
    _, checker = load_benchmark()
    languages = importlib.import_module("bfcl_eval.constants.enums").Language
    verdict = checker.ast_checker(
        hidden["functions"], answer, hidden["truth"], languages.PYTHON, hidden["category"], MODEL
    )
    return bool(verdict["valid"])

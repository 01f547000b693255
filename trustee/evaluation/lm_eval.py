"""Tasks of the LM evaluation harness, which asks our endpoint from a process of its own.

Only tasks in which the model writes its answer can be played: an endpoint of chats does not give
the likelihood of an answer that somebody else wrote.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio

from trustee.errors import InputError, RunError
from trustee.evaluation.outside import Place, name_task, record
from trustee.runs.store import read_lines
from trustee.types import Task, Trajectory

SHOWN = 600
"""Letters of the harness's last words that are shown."""
SILENT = "dummy"
"""The harness's own model without a model, which says the same word to everything."""


@dataclass(frozen=True)
class LmEval:
    """Some tasks of the harness."""

    tasks: tuple[str, ...]
    folder: Path | None = None
    """Folder with tasks of one's own; None: those of the package alone."""
    name: str = "lm-eval"
    found: list[str] = field(default_factory=list)
    """Names of the tasks that were played; a given one may be a group of several."""

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """All tasks as one group."""
        return {"all tasks": self.found}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenLmEval]:
        """Return the harness.

        Raises:
            InputError: if the package is missing, or there is no such folder.
        """
        if find_spec("lm_eval") is None:
            raise InputError(
                "--suite lm-eval needs the package lm-eval, which is not installed; run "
                "pip install 'trustee[lm-eval]'"
            )
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(f"--data {self.folder} is not a folder; give one with tasks in YAML")
        with tempfile.TemporaryDirectory() as scratch:
            yield OpenLmEval(self, Path(scratch))


@dataclass
class OpenLmEval:
    """The harness and where it writes."""

    benchmark: LmEval
    scratch: Path
    rows: int | None = None
    idle: dict[str, bool] = field(default_factory=dict)
    """Whether the harness's silent model solved a task."""

    async def read_tasks(self, rows: int | None) -> tuple[Task, ...]:
        """Return the first rows of each task, or all.

        Raises:
            InputError: if there is no such task, it has no data here, or compares likelihoods.
        """
        self.rows = rows
        try:
            samples = await self.run(SILENT, "", key="")
        except RunError as error:
            raise InputError(
                f"{error}. The data of published tasks come from the Hugging Face hub; where it "
                "cannot be reached, give tasks of your own with --data DIR"
            ) from error
        tasks = []
        for category, sample in samples:
            if not isinstance(written_with(sample), dict):
                raise InputError(
                    f"--suite lm-eval: {category} compares the likelihoods of given answers, which "
                    "a chat does not tell; take a task in which the model writes its answer, such "
                    "as mmlu_generative in place of mmlu"
                )
            task = name_task(f"{category}/{sample['doc_id']}", category)
            self.idle[task.id] = is_right(category, sample)
            tasks.append(task)
            if category not in self.benchmark.found:
                self.benchmark.found.append(category)
        return tuple(tasks)

    async def oracle(self, tasks: Sequence[Task]) -> dict[str, bool | None]:
        """Return nothing: the harness has answers, but no way to give them."""
        return dict.fromkeys((task.id for task in tasks), None)

    async def floor(self, tasks: Sequence[Task]) -> dict[str, bool]:
        """Return by task whether the silent model's word was right."""
        return {task.id: self.idle[task.id] for task in tasks}

    async def play(
        self, tasks: Sequence[Task], *, policy: Place, base: Place, done: Callable[[], None]
    ) -> list[Trajectory]:
        """Have the harness ask a model.

        Raises:
            RunError: if the harness fails.
        """
        model = f"model={policy.model},base_url={policy.url}/chat/completions,num_concurrent=16"
        samples = await self.run("local-chat-completions", f"{model},max_retries=1", key=policy.key)
        right = {
            f"{category}/{sample['doc_id']}": is_right(category, sample)
            for category, sample in samples
        }
        for _ in right:
            done()
        return [
            record(
                task,
                label=policy.model,
                success=right.get(task.id, False),
                failed="" if task.id in right else "the harness has no answer",
            )
            for task in tasks
        ]

    async def run(self, model: str, arguments: str, *, key: str) -> list[tuple[str, Any]]:
        """Run the harness; return task and sample of each row, by the first of several filters.

        Raises:
            RunError: if it fails, with its last words.
        """
        out = self.scratch / f"{model}-{len(list(self.scratch.iterdir()))}"
        words = [sys.executable, "-m", "lm_eval", "run", "--model", model]
        words += ["--tasks", ",".join(self.benchmark.tasks), "--output_path", str(out)]
        words += ["--log_samples", "--seed", "0"]
        words += ["--model_args", arguments, "--apply_chat_template"] if arguments else []
        words += ["--limit", str(self.rows)] if self.rows else []
        folder = self.benchmark.folder
        words += ["--include_path", str(folder.absolute())] if folder else []
        done = await anyio.run_process(
            words,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=folder or self.scratch,
            env={**os.environ, "OPENAI_API_KEY": key},
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            said = said.replace(key, "...") if key else said
            raise RunError(f"lm-eval ended with {done.returncode}: {said[-SHOWN:]}")
        return await anyio.to_thread.run_sync(read_samples, out)


def read_samples(out: Path) -> list[tuple[str, Any]]:
    """Return task and sample of each row that the harness has written."""
    found: list[tuple[str, Any]] = []
    for file in sorted(out.rglob("samples_*.jsonl")):
        name = file.stem.removeprefix("samples_").rpartition("_")[0]
        seen: set[Any] = set()
        for sample in read_lines(file):
            if sample["doc_id"] not in seen:
                seen.add(sample["doc_id"])
                found.append((name, sample))
    return found


def written_with(sample: Mapping[str, Any]) -> Any:
    """Return how the first request of a row was to be answered: settings, or a given answer."""
    arguments = sample["arguments"]
    first = arguments.get("gen_args_0", {}) if isinstance(arguments, dict) else arguments[0]
    return first.get("arg_1") if isinstance(first, dict) else first[1]


def is_right(category: str, sample: Mapping[str, Any]) -> bool:
    """Return whether a row was answered rightly, by the task's first metric.

    Raises:
        InputError: if the metric is not one of right or wrong.
    """
    metric = sample["metrics"][0]
    value = sample[metric]
    if value not in (0, 1):
        raise InputError(
            f"--suite lm-eval: {category} is measured by {metric}, which is no matter of right or "
            f"wrong (got {str(value)[:40]}); take another task"
        )
    return bool(value)

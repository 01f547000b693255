"""A benchmark that asks our endpoint: which models it is given, and what is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from scripted_program import play_with, small_config
from trustee.engine.script import Request
from trustee.evaluation.benchmark_report import benchmark_text
from trustee.evaluation.outside import Place, name_task, record
from trustee.jobs.outside_benchmark import play_outside
from trustee.runs.store import read_lines
from trustee.types import Task, Trajectory


class Asking:
    """A benchmark that asks for a word, and takes `yes` for the right one."""

    name = "asking"
    groups: Mapping[str, Sequence[str]] = {"All": ("words",)}

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Asking]:
        """Be ready."""
        yield self

    async def read_tasks(self, rows: int | None) -> tuple[Task, ...]:
        return tuple(name_task(f"words/{number}", "words") for number in range(rows or 5))

    async def oracle(self, tasks: Sequence[Task]) -> dict[str, bool | None]:
        return {task.id: True for task in tasks}

    async def floor(self, tasks: Sequence[Task]) -> dict[str, bool]:
        return {task.id: False for task in tasks}

    async def play(
        self, tasks: Sequence[Task], *, policy: Place, base: Place, done: Callable[[], None]
    ) -> list[Trajectory]:
        played = []
        body = {"model": policy.model, "messages": [{"role": "user", "content": "say it"}]}
        async with httpx2.AsyncClient(timeout=60) as client:
            keyless = await client.post(f"{policy.url}/chat/completions", json=body)
            self.asked.append((policy.model, keyless.status_code))
            client.headers["authorization"] = f"Bearer {policy.key}"
            for task in tasks:
                answer = await client.post(f"{policy.url}/chat/completions", json=body)
                said = answer.json()["choices"][0]["message"]["content"]
                played.append(record(task, label=policy.model, success=said == "yes"))
                done()
        return played


def speak(request: Request) -> str:
    """Say the right word with an adapter."""
    return "no" if request.adapter is None else "yes"


@pytest.mark.anyio
async def test_base_and_adapter_are_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both answer by name, under a key that nobody else knows; the report compares them."""
    play_with(monkeypatch, speak)
    adapter = tmp_path / "adapters" / "policy-000003"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").touch()
    benchmark = Asking()
    report = await play_outside(
        small_config(), tmp_path, benchmark, rows=3, adapter=None, emit=lambda event: None
    )
    assert [("base", 401), ("adapter", 401)] == benchmark.asked
    (words, whole) = report.groups["All"]
    assert (3, 0.0, 1.0, 1.0, 0.0) == (
        words.rows,
        words.base.value,
        words.trained.value,
        words.oracle,
        words.floor,
    )
    assert 100.0 == whole.gain.points
    assert "asking  base against" in benchmark_text(report)
    kept = read_lines(tmp_path / "benchmark-asking-adapter.jsonl", Trajectory)
    assert [True] * 3 == [one.success for one in kept]

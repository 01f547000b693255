"""The pieces of the bench with a published model: its world, its demonstrations, its figures."""

from __future__ import annotations

import importlib
import json
import sys
import types
from itertools import islice
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from trustee.config import read_config
from trustee.environments.executable.environment import Executable
from trustee.environments.executable.rewards import Observation, match
from trustee.environments.micro.tasks import RESERVED_ONE_IN
from trustee.environments.splits import is_reserved
from trustee.errors import InputError
from trustee.sft.demonstration_files import read_demonstrations
from trustee.types import BadCall, Completion, Message, Outcome, Stop, ToolCall, Trajectory, Turn

ROOT = Path(__file__).parents[2]
NO_SERVICES: Any = None
NOTHING = Completion(ids=(), logprobs=(), stop="stop", version=0)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports a module of `bench/`."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module


def test_gold_calls_tell_the_answers(bench: Any) -> None:
    """Every environment is solved by its own calls, and by the answer of its demonstration."""
    world = bench("real_world")
    for blueprint in islice(world.draw_blueprints(3, reserved=False), 60):
        unsolved = blueprint.unsolved
        for call in blueprint.gold:
            seen = Observation(
                name=call.name,
                arguments=call.arguments,
                text=world.run_gold(blueprint, call),
                ok=True,
            )
            found = match(seen, unsolved)
            assert found.found == call.answer
            unsolved = found.unsolved
        assert not any(unsolved.values())
        said = world.demonstrate(blueprint, prompts="tiny").messages[-1].content
        assert all(value in said for value in blueprint.answer.split(", "))


def test_held_out_questions_and_pairs_are_never_trained_on(bench: Any, tmp_path: Path) -> None:
    """Evaluation has its own questions, and always a pair of tools that training never offers."""
    world = bench("real_world")
    world.write_world(tmp_path, seed=1, train=40, held_out=30, demonstrations=8, prompts="tiny")
    path = tmp_path / world.HELD_OUT
    held_out = Executable(path=str(path), reserve_one_in=1, prompts="tiny")
    training = Executable(
        path=str(tmp_path / world.TRAIN), reserve_one_in=1_000_000, prompts="tiny"
    )
    asked = []
    for one, reserved in ((training, False), (held_out, True)):
        source = one.source(seed=0, held_out=reserved)
        assert not source.refused
        tasks = []
        for _ in range(30):
            spec = source.draw()
            assert spec is not None
            tasks.append(anyio.run(source.write, spec, NO_SERVICES))
        assert {is_reserved(task.tools, one_in=RESERVED_ONE_IN) for task in tasks} == {reserved}
        asked.append({task.messages[-1].content for task in tasks})
    assert not asked[0] & asked[1]
    rows = read_demonstrations(tmp_path / world.DEMONSTRATIONS)
    assert (len(rows.rows), rows.refused, rows.mended) == (8, (), ())


def test_config_takes_the_changes(bench: Any, tmp_path: Path) -> None:
    """The bench trains with the committed config, in a world of its own for evaluation."""
    learning = bench("real_learning")
    changes = learning.list_changes(tmp_path, model="m", seed=4, sizes=learning.QUICK)
    config = read_config(ROOT / "configs" / "small-cpu.toml", changes)
    assert isinstance(config.env, Executable)
    assert isinstance(config.eval_env, Executable)
    assert (config.eval_env.reserve_one_in, config.eval.tasks, config.run.seed) == (1, 8, 4)


def write_played(path: Path, successes: list[bool]) -> None:
    """Write one episode for each outcome."""
    played = [
        Trajectory(
            id=str(n), task_id=str(n), turns=(), stop=Stop.DONE, outcome=Outcome(success=good)
        )
        for n, good in enumerate(successes)
    ]
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in played))


def test_line_compares_three_policies_on_the_same_tasks(bench: Any, tmp_path: Path) -> None:
    """The gain of reinforcement learning over imitation has its own interval."""
    run = tmp_path / "run"
    for folder, seconds in ((run, 90.0), (tmp_path / "sft", 60.0)):
        folder.mkdir()
        (folder / "outcome.json").write_text(json.dumps({"steps": 7, "seconds": seconds}))
    write_played(run / "eval-base.jsonl", [False] * 20)
    write_played(run / "held-out-before.jsonl", [True] * 5 + [False] * 15)
    write_played(run / "held-out-after.jsonl", [True] * 15 + [False] * 5)
    line = bench("real_learning").summarise(tmp_path, model="x/m")
    assert (line["sft_minutes"], line["minutes"], line["steps"]) == (1.0, 2.5, 7)
    assert (line["model"], line["before"], line["sft"], line["after"]) == ("m", 0.0, 0.25, 0.75)
    assert (line["gain_points"], line["rl_gain"][0], line["tasks"]) == (75.0, 50.0, 20)
    low, high = line["interval"]
    assert 0 < low < 75 < high <= 100
    assert line["rl_gain"][1] > 0


FUNCTION = {
    "name": "math.area",
    "description": "Area.",
    "parameters": {
        "type": "dict",
        "properties": {
            "sides": {"type": "tuple", "items": {"type": "float"}},
            "unit": {"type": "string", "optional": True},
        },
        "required": ["sides"],
    },
}


def test_functions_of_bfcl_become_tools(bench: Any) -> None:
    """Types are those of JSON Schema, and names have no dots."""
    tool = bench("bfcl_world").offer(FUNCTION)
    assert tool.name == "math_area"
    assert tool.parameters["type"] == "object"
    assert tool.parameters["properties"] == {
        "sides": {"type": "array", "items": {"type": "number"}},
        "unit": {"type": "string"},
    }


def test_bfcl_checks_the_first_message(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's checker decides; a message with an unreadable call is no answer."""
    world = bench("bfcl_world")
    asked: list[Any] = []

    def check(functions: Any, answer: Any, *rest: Any) -> dict[str, bool]:
        asked.append(answer)
        return {"valid": answer == [{"math_area": {"sides": [1.0]}}]}

    enums: Any = types.ModuleType("bfcl_eval.constants.enums")
    enums.Language = types.SimpleNamespace(PYTHON="python")
    monkeypatch.setitem(sys.modules, enums.__name__, enums)
    checker = types.SimpleNamespace(ast_checker=check)
    monkeypatch.setattr(world, "load_benchmark", lambda: (None, checker))
    entry: Any = ({"question": [[{"role": "user", "content": "q"}]], "function": [FUNCTION]}, [])
    monkeypatch.setattr(world, "read_entries", lambda category: {"simple_python_0": entry})
    source = world.Bfcl().source(seed=0)
    task = anyio.run(source.write, source.draw(), NO_SERVICES)
    assert source.draw() is None
    good = ToolCall(id="a", name="math_area", arguments={"sides": [1.0]})
    bad = BadCall(id="b", text="{", reason="unreadable")
    verdicts = []
    for calls in ((good,), (good, bad), ()):
        message = Message(role="assistant", calls=calls)
        turn = Turn(rendered_ids=(), completion=NOTHING, message=message)
        score = anyio.run(world.BfclEpisode(task).score, [turn], Stop.DONE)
        verdicts.append(score.outcome.success)
    assert verdicts == [True, False, False]
    assert len(asked) == 2


def test_missing_bfcl_is_said(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    world = bench("bfcl_world")
    world.load_benchmark.cache_clear()
    monkeypatch.setitem(sys.modules, "bfcl_eval", None)
    monkeypatch.setitem(sys.modules, "bfcl_eval.utils", None)
    with pytest.raises(InputError, match="BFCL needs the package bfcl-eval"):
        world.load_benchmark()


def test_finished_stages_are_not_done_again(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage begins, goes on, or is left alone, by what its folder holds."""
    learning = bench("real_learning")
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(learning, "call_program", lambda *words: called.append(words))
    folder = tmp_path / "sft"
    learning.do_stage(folder, ("begin",), resume=("resume",))
    folder.mkdir()
    learning.do_stage(folder, ("begin",), resume=("resume",))
    (folder / "outcome.json").write_text("{}")
    learning.do_stage(folder, ("begin",), resume=("resume",))
    assert called == [("begin",), ("resume",)]

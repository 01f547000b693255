"""The example for prime-rl: keys that its configs have, settings that ours have, data, a rollout.

Its config package needs another Python and verifiers, so the names of its keys are recorded, with
the commit that they are from; the files were loaded with its own classes when that was done.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from served_script import serve_script
from trustee.config import read_config
from trustee.engine.script import Request
from trustee.runs.files import write_lines
from trustee.sft.demonstration_files import read_demonstrations
from trustee.sft.demonstrations import Demonstration
from trustee.types import Message, Tool, ToolCall

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "prime_rl"
KEYS = json.loads((Path(__file__).parent / "data" / "prime_rl" / "keys.json").read_text())
OPEN = {"env.taskset": "its keys are the package's", "inference.vllm": "passes all on to vLLM"}
"""Sections that take more than their own keys, by the end of their names."""


def read(name: str) -> dict[str, Any]:
    """Read a file of the example."""
    return tomllib.loads((FOLDER / name).read_text())


def unknown_keys(table: dict[str, Any], known: dict[str, list[str]], path: str = "") -> list[str]:
    """List the keys of a table that prime-rl does not have."""
    found: list[str] = []
    for key, value in table.items():
        inner = f"{path}.{key}".removeprefix(".")
        if key not in known[path] and not path.endswith(tuple(OPEN)):
            found.append(inner)
        elif isinstance(value, dict):
            found += unknown_keys(value, known, inner)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            found += [name for row in value for name in unknown_keys(row, known, inner)]
    return found


@pytest.mark.parametrize(
    ("name", "kind"),
    [("rl.toml", "rl"), ("gpus-8.toml", "rl"), ("gpus-64.toml", "rl"), ("sft.toml", "sft")],
)
def test_keys_are_those_of_prime_rl(name: str, kind: str) -> None:
    """Each key stands in the section in which prime-rl's config has it."""
    assert [] == unknown_keys(read(name), KEYS[kind])


def test_commit_is_named() -> None:
    """Files and readme say which state of prime-rl they are for."""
    short = KEYS["commit"][:8]
    assert short in (FOLDER / "rl.toml").read_text()
    assert short in (FOLDER / "README.md").read_text()


def test_settings_are_those_of_the_run() -> None:
    """Who goes on has the rank, alpha, rate, context and limits of the run before."""
    ours, theirs = read_config(ROOT / "configs" / "qwen3-8b.toml"), read("rl.toml")
    lora, source = theirs["trainer"]["model"]["lora"], theirs["orchestrator"]["train"]["source"][0]
    assert (ours.learn.rank, 2 * ours.learn.rank) == (lora["rank"], lora["alpha"])
    assert ours.learn.learning_rate == theirs["trainer"]["optim"]["lr"]
    assert ours.rollout.group_size == theirs["orchestrator"]["group_size"]
    assert ours.engine.context == theirs["seq_len"] == theirs["inference"]["vllm"]["max_model_len"]
    sampling = theirs["orchestrator"]["train"]["sampling"]
    assert ours.rollout.limits.tokens == sampling["max_completion_tokens"]
    assert ours.rollout.limits.turns == source["env"]["agent"]["max_turns"]
    assert ours.model.thinking == theirs["orchestrator"]["renderer"]["enable_thinking"]
    assert lora == read("sft.toml")["model"]["lora"]


@pytest.mark.parametrize(("name", "gpus"), [("gpus-8.toml", 8), ("gpus-64.toml", 64)])
def test_deployment_uses_all_gpus(name: str, gpus: int) -> None:
    """The GPUs are those that the name says, and a step has whole groups."""
    given = read(name)
    deployment, group = given["deployment"], read("rl.toml")["orchestrator"]["group_size"]
    replicas = deployment.get("num_infer_replicas", 1)
    machines = deployment.get("num_train_nodes", 0), deployment.get("num_infer_nodes", 0) * replicas
    single = deployment.get("num_train_gpus", 0) + deployment.get("num_infer_gpus", 0)
    assert gpus == single + 8 * sum(machines)
    assert 0 == given["orchestrator"]["batch_size"] % group


def load_script() -> ModuleType:
    """Load the script as who runs it does."""
    spec = importlib.util.spec_from_file_location("script", FOLDER / "demonstrations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_demonstrations_are_rows_of_openai(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calls, answers and tools come through; what is only shown must not be trained on."""
    fields = {"room": {"type": "string"}, "n": {"type": "integer"}}
    schema = {"type": "object", "properties": fields}
    tool = Tool(name="look", description="Looks.", parameters=schema)
    call = ToolCall(id="0/0/1", name="look", arguments={"room": "hall", "n": 3})
    messages = (
        Message(role="system", content="call the tools"),
        Message(role="user", content="look into the hall"),
        Message(role="assistant", calls=(call,)),
        Message(role="tool", content='{"lamp": 3}', call_id="0/0/1"),
        Message(role="assistant", content="lamp 3"),
    )
    kept = Demonstration(task_id="a", tools=(tool,), messages=messages)
    shown = Demonstration(task_id="b", tools=(tool,), messages=messages, shown_only=(2,))
    write_lines(tmp_path / "demonstrations.jsonl", [kept, shown])
    out = tmp_path / "data" / "train.jsonl"
    assert 0 == load_script().main([str(tmp_path), str(out)])
    assert f"1 rows, 1 left out  {out}\n" == capsys.readouterr().out
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert ["messages", "tools"] == list(row)
    assert [tool.schema] == json.loads(row["tools"])
    assert ["system", "user", "assistant", "tool", "assistant"] == [
        message["role"] for message in row["messages"]
    ]
    (called,) = row["messages"][2]["tool_calls"]
    assert {"room": "hall", "n": 3} == json.loads(called["function"]["arguments"])
    assert called["id"] == row["messages"][3]["tool_call_id"]
    out.write_text(json.dumps(row | {"tools": json.loads(row["tools"])}) + "\n")
    (again,) = read_demonstrations(out).rows
    assert isinstance(again.example, Demonstration)
    assert [message.content for message in messages] == [
        message.content for message in again.example.messages
    ]


def set_lamps(request: Request) -> str:
    """Set each lamp that is asked for, then say so."""
    if "<|im_start|>tool" in request.prompt.rpartition("<|im_start|>user")[2]:
        return "done"
    asked = re.findall(r"set lamp (\w+) level (\d+)", request.prompt)
    calls = [{"name": "set_lamp", "arguments": {"room": r, "level": int(n)}} for r, n in asked]
    return "".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in calls)


def test_rollout_against_our_endpoint(tmp_path: Path) -> None:
    """The loop of a null harness: ask, run the calls, ask again until there is none."""
    lamps: dict[str, int] = {}
    fields = {"room": {"type": "string"}, "level": {"type": "integer"}}
    schema = {"type": "object", "properties": fields, "required": [*fields]}
    tool = Tool(name="set_lamp", description="Sets a lamp.", parameters=schema).schema
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "set lamp hall level 3 and set lamp attic level 7"}
    ]
    with serve_script(set_lamps, tmp_path) as served:
        for _ in range(4):
            body = {"model": "scripted", "messages": said, "tools": [tool]}
            answer = served.post("/v1/chat/completions", body).json()["choices"][0]["message"]
            said.append(answer)
            for call in answer.get("tool_calls") or ():
                given = json.loads(call["function"]["arguments"])
                lamps[given["room"]] = given["level"]
                told = {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(given)}
                said.append(told)
            if not answer.get("tool_calls"):
                break
    assert {"hall": 3, "attic": 7} == lamps
    assert ["user", "assistant", "tool", "tool", "assistant"] == [m["role"] for m in said]
    assert "done" == said[-1]["content"]

"""The simulated world as a package for verifiers, its simulator behind an endpoint.

The package itself is checked where an interpreter with verifiers is named, see the last test.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import anyio
import pytest

from scripted_program import SMALL, play_with
from scripts import cast, perfect, role_of
from served_script import Served, serve_script
from stub_verifiers import load_package
from trustee.cli.main import main
from trustee.engine.script import Request
from trustee.errors import InputError, SimulatorError

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("TRUSTEE_VERIFIERS_PYTHON", "")
COUNT = 5
CHANGES = (
    *SMALL,
    *(f"env.curriculum.{bound}" for bound in ("soft=0", "calls=[1,3]", "turns=[1,3]")),
)
"""The easiest task has one call and one turn, the harder ones have more of both."""

needs_mcp = pytest.mark.skipif(not find_spec("mcp"), reason="mcp is not installed")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Export the micro-world's tools in the simulated world."""
    monkeypatch.chdir(tmp_path)
    play_with(monkeypatch, perfect)
    place = tmp_path / "my-talks"
    given = [part for change in CHANGES for part in ("--set", change)]
    called = ["export", "verifiers", str(place), "--config", "tiny", "--tasks", str(COUNT)]
    assert main([*called, *given]) == 0
    return place


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Serve the roles, and name them to the package."""
    with serve_script(cast(perfect), tmp_path) as served:
        monkeypatch.setenv("TRUSTEE_SIMULATOR_URL", f"{served.address}/v1")
        monkeypatch.setenv("TRUSTEE_SIMULATOR_MODEL", "scripted")
        yield served


def read_rows(package: Path, split: str) -> list[dict[str, Any]]:
    """Read the tasks of a side."""
    lines = (package / "my_talks" / "data" / f"{split}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_tasks_are_of_all_difficulties_on_both_sides(package: Path) -> None:
    """They go from the easiest to the hardest, and the rules say how they are played."""
    for split in ("train", "test"):
        assert [row["difficulty"] for row in read_rows(package, split)] == [1, 25, 50, 75, 100]
    rules = json.loads((package / "my_talks" / "data" / "rules.json").read_text())
    assert rules["base"] == "base"
    assert rules["turns"] == 7
    readme = (package / "README.md").read_text()
    assert "TRUSTEE_SIMULATOR_URL" in readme
    assert "`base`" in readme
    assert "vf-eval my-talks" in readme


def said(text: str, *calls: SimpleNamespace) -> SimpleNamespace:
    """Return a message of the policy, as a trace has it."""
    return SimpleNamespace(role="assistant", content=text, tool_calls=list(calls))


async def play(module: ModuleType, *, honest: bool) -> tuple[str | None, float]:
    """Make the expected call of a task and report; return the user's answer and the reward."""
    config = SimpleNamespace(split="train", task=None, easiest=1, hardest=100)
    task = next(iter(module.SimulatedWorlds(config).load()))
    (expected,) = task.played.hidden["expected_calls"]
    tools = module.TalkTools(None)
    tools.state = module.TalkState()
    metrics: dict[str, float] = {}
    trace = SimpleNamespace(
        id="t",
        state=tools.state,
        stop_condition=None,
        is_truncated=False,
        record_metric=metrics.__setitem__,
    )
    await task.setup(trace, None)
    async with tools._exit_stack:
        await tools.setup()
        assert expected["name"] in [tool.name for tool in await tools.list_tools()]
        result = await tools.call_tool(expected["name"], expected["arguments"])
    (shown,) = result.content
    if tools.state.failure:
        return shown.text, await task.verdict(trace)
    trace.messages = [
        SimpleNamespace(role="system", content=task.data.system_prompt),
        SimpleNamespace(role="user", content=task.data.prompt),
    ]
    if honest:
        call = SimpleNamespace(
            id="c", name=expected["name"], arguments=json.dumps(expected["arguments"])
        )
        answer = SimpleNamespace(role="tool", content=shown.text, tool_call_id="c")
        trace.messages += [said("", call), answer]
    trace.messages.append(said("ok , done"))
    async with module.open_simulator(module.read_rules()) as simulator:
        user = module.User(
            module.make_environment(task.played, module.make_services(simulator, "user"))
        )
        answered = await user.answer(module.read_turns(trace.messages))
    return answered, await task.verdict(trace)


@needs_mcp
@pytest.mark.usefixtures("served")
def test_tools_user_and_judge_are_asked_at_the_endpoint(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expected call pays 1; saying so without it does not."""
    module = load_package(package, monkeypatch)
    assert anyio.run(lambda: play(module, honest=True))[1] == 1.0
    assert anyio.run(lambda: play(module, honest=False))[1] < 1.0


@needs_mcp
def test_without_an_endpoint_nothing_is_played(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to set, and to which model."""
    module = load_package(package, monkeypatch)
    monkeypatch.delenv("TRUSTEE_SIMULATOR_URL", raising=False)
    with pytest.raises(InputError, match=r"TRUSTEE_SIMULATOR_URL is not set.*serves base"):
        anyio.run(lambda: play(module, honest=True))


@needs_mcp
def test_a_refusing_endpoint_spoils_the_episode(
    package: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reward is made up; the error has the endpoint's words."""
    module = load_package(package, monkeypatch)
    monkeypatch.setenv("TRUSTEE_SIMULATOR_MODEL", "another")
    with pytest.raises(SimulatorError, match="another"):
        anyio.run(lambda: play(module, honest=True))


def run_vf_eval(package: Path, served: Served, folder: Path) -> list[dict[str, Any]]:
    """Play the two hardest tasks with verifiers' own program; return the traces."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(package), str(ROOT)]),
        "PATH": os.pathsep.join([str(Path(PYTHON).parent), os.environ["PATH"]]),
    }
    command = [PYTHON, "-c", "import trustee.export.remote_simulator"]
    if subprocess.run(command, env=environment, capture_output=True, check=False).returncode:
        pytest.skip("that Python has no trustee beside verifiers")
    command = [
        *(str(Path(PYTHON).with_name("vf-eval")), "my-talks", "-n", "2"),
        *("--no-push", "--no-rich", "--model", "scripted"),
        *("--client.base-url", f"{served.address}/v1", "--env.taskset.split", "test"),
        *("--env.taskset.easiest", "75"),
        *("--env.agent.harness.id", "null", "--env.agent.runtime.type", "subprocess"),
        *("--output-dir", str(folder / "out")),
    ]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    found = list((folder / "out").glob("*/traces.jsonl"))
    assert found, done.stderr[-2000:]
    played = [json.loads(line) for line in found[0].read_text().splitlines()]
    return [trace for one in played for trace in one.get("traces", [one])]


needs_verifiers = pytest.mark.skipif(
    not PYTHON, reason="TRUSTEE_VERIFIERS_PYTHON names no Python with verifiers"
)


@pytest.mark.timeout(600)
@needs_verifiers
def test_vf_eval_plays_the_package_against_our_endpoint(
    package: Path, served: Served, tmp_path: Path
) -> None:
    """Its own program asks our endpoint for all parts, and a policy that solves tasks gets 1."""
    traces = run_vf_eval(package, served, tmp_path)
    assert [trace["rewards"]["verdict"]["score"] for trace in traces] == [1.0, 1.0]
    roles = [[node["message"]["role"] for node in trace["nodes"]] for trace in traces]
    assert all(told.count("user") > 1 and told.count("tool") > 1 for told in roles), roles


@pytest.mark.timeout(600)
@needs_verifiers
def test_vf_eval_pays_nothing_where_a_tool_is_not_answered(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy would read the server's error as a result; the episode is spoilt instead."""

    def play_without_tools(request: Request) -> str:
        return "nothing" if role_of(request) == "tool" else cast(perfect)(request)

    with serve_script(play_without_tools, tmp_path) as served:
        monkeypatch.setenv("TRUSTEE_SIMULATOR_URL", f"{served.address}/v1")
        monkeypatch.setenv("TRUSTEE_SIMULATOR_MODEL", "scripted")
        traces = run_vf_eval(package, served, tmp_path)
    assert len(traces) == 2
    for trace in traces:
        assert not trace["rewards"]
        assert "tool gave no usable answer" in trace["errors"][-1]["message"]

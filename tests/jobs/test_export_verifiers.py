"""A world as a package for verifiers: what is in it, and how its tools and rewards work.

The package itself is checked where an interpreter with verifiers is named, see the last test.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from blueprints import make_blueprint
from golden_errors import ErrorCheck
from mcp_stage import call, calling
from plain_sandbox import PlainSandbox
from scripts import TURN
from served_script import serve_script
from stub_verifiers import load_package
from trustee.cli.main import main
from trustee.engine.script import Request
from trustee.environments.executable.blueprint_files import write_blueprint
from trustee.errors import InputError
from trustee.export.verifiers_package import name_module

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("TRUSTEE_VERIFIERS_PYTHON", "")
COUNT = 12


@pytest.fixture
def blueprints(tmp_path: Path) -> Path:
    """Write environments."""
    for number in range(COUNT):
        write_blueprint(make_blueprint(number), tmp_path / "blueprints")
    return tmp_path / "blueprints"


@pytest.fixture
def package(blueprints: Path, tmp_path: Path) -> Path:
    """Export them."""
    place = tmp_path / "my-keys"
    changes = (f"env.path={blueprints}", "env.reserve_one_in=3")
    given = [part for change in changes for part in ("--set", change)]
    assert main(["export", "verifiers", str(place), "--config", "ftrl", *given]) == 0
    return place


def test_each_environment_is_one_task_on_one_side(package: Path) -> None:
    """The files are those of an installable package, and nothing is lost."""
    assert ["README.md", "my_keys", "pyproject.toml"] == sorted(p.name for p in package.iterdir())
    ids = {
        split: [json.loads(line)["id"] for line in lines.read_text().splitlines()]
        for split in ("train", "test")
        for lines in [package / "my_keys" / "data" / f"{split}.jsonl"]
    }
    assert sorted(ids["train"] + ids["test"]) == sorted(f"keys-{n}" for n in range(COUNT))
    assert min(map(len, ids.values())) > 0
    project = (package / "pyproject.toml").read_text()
    assert 'name = "my-keys"' in project
    assert '"trustee>=' in project


def test_what_is_there_is_not_overwritten(package: Path, blueprints: Path) -> None:
    """A second export is refused, and the first one stays."""
    given = ["--config", "ftrl", "--set", f"env.path={blueprints}"]
    assert main(["export", "verifiers", str(package), *given]) == 2
    assert (package / "README.md").is_file()


@pytest.mark.parametrize("name", ["9lives", "verifiers", "a b", "-"])
def test_names_that_no_package_can_have(name: str, check_error: ErrorCheck, tmp_path: Path) -> None:
    """The error says what a folder may be called."""
    with pytest.raises(InputError) as caught:
        name_module(tmp_path / name)
    check_error(str(caught.value).replace(str(tmp_path), "DIR"), name, "my-tools")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["verifiers", "PLACE", "--config", "tiny"], "executable"),
        (["other", "PLACE"], "trustee export verifiers DIR"),
        (["verifiers", "PLACE", "--merged", "m"], "holds no model"),
        (["run", "--config", "tiny"], "--config is for"),
        (["run", "--verifiers", "PLACE", "--config", "tiny"], "--config is for"),
    ],
)
def test_what_cannot_be_exported(
    given: Sequence[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said, and nothing is written."""
    place = tmp_path / "place"
    assert main(["export", *[str(place) if one == "PLACE" else one for one in given]]) == 2
    assert named in capsys.readouterr().err
    assert not place.exists()


class Played:
    """An episode of an exported package, without verifiers' machinery."""

    def __init__(self, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = module
        self.sandbox = PlainSandbox()
        held = _Held(self.sandbox)
        monkeypatch.setattr(module, "ProcessSandbox", lambda config: held)
        config = SimpleNamespace(split="train", task=None)
        self.task = next(iter(module.ToolWorlds(config).load()))
        self.task.config = None
        self.tools = module.WorldTools(None)
        self.tools.state = module.WorldState()
        self.said: list[Any] = []

    async def begin(self) -> None:
        """Set the task up, as a rollout does."""
        trace = SimpleNamespace(id="t", state=self.tools.state)
        await self.task.setup(trace, None)
        await self.tools.setup()

    async def call(self, name: str, **arguments: Any) -> str:
        """Make a call."""
        self.said.append(SimpleNamespace(tool_calls=[name], content=""))
        answer = await self.tools.call_tool(name, arguments)
        return str(answer.content[0].text)

    async def end(self, text: str, *, truncated: bool = False) -> dict[str, float]:
        """Answer, and return what is paid."""
        self.said.append(SimpleNamespace(tool_calls=None, content=text))
        metrics: dict[str, float] = {}
        trace = SimpleNamespace(
            assistant_messages=self.said,
            state=self.tools.state,
            is_truncated=truncated,
            record_metric=metrics.__setitem__,
        )
        paid: dict[str, float] = await self.task.ftrl(trace)
        return paid


class _Held:
    """The sandbox, as something that is opened."""

    def __init__(self, sandbox: PlainSandbox) -> None:
        self._sandbox = sandbox

    async def __aenter__(self) -> PlainSandbox:
        return self._sandbox

    async def __aexit__(self, *given: object) -> None:
        """Close nothing."""


needs_mcp = pytest.mark.skipif(not find_spec("mcp"), reason="mcp is not installed")


@needs_mcp
@pytest.mark.anyio
async def test_calls_and_the_answer_are_paid_as_here(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it pays 1; a superfluous call, a wrong answer and a cut-off one pay less."""
    module = load_package(package, monkeypatch)
    played = Played(module, monkeypatch)
    await played.begin()
    names = [tool.name for tool in await played.tools.list_tools()]
    assert ["find_thing", "read_label", "repeat"] == names
    place = json.loads(await played.call("find_thing", thing="blue key"))["place"]
    label = json.loads(await played.call("read_label", place=place))["label"]
    kept = list(played.said)
    assert {"calls": 0.5, "answer": 0.5} == await played.end(f"It is {label}.")
    played.said = list(kept)
    assert {"calls": 0.5, "answer": 0.0} == await played.end("It is 7.")
    played.said = list(kept)
    assert {"calls": 0.5, "answer": 0.0} == await played.end(f"It is {label}.", truncated=True)
    played.said = list(kept)
    assert "does not take" in await played.call("repeat", text="x", other=1)
    assert (await played.end(f"It is {label}."))["calls"] == pytest.approx(0.4)
    assert await played.task.validate(None) is True


@needs_mcp
@pytest.mark.anyio
async def test_what_solves_a_task_is_told_to_nobody(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in no prompt, tool or argument; guessing it pays nothing."""
    module = load_package(package, monkeypatch)
    played = Played(module, monkeypatch)
    await played.begin()
    hidden = played.task.hidden
    shown = [played.task.data.prompt, played.task.data.system_prompt]
    shown += [str(vars(tool)) for tool in await played.tools.list_tools()]
    secrets = [hidden.answer, *(one for own in hidden.unsolved.values() for one in own)]
    assert not [one for one in secrets for text in shown if text and one in text]
    await played.call("repeat", text=hidden.answer)
    assert {"calls": 0.0, "answer": 0.0} == await played.end(hidden.answer)
    for worker in played.sandbox.lent:
        assert worker.calls


@needs_mcp
def test_a_split_that_there_is_not(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names those that there are."""
    module = load_package(package, monkeypatch)
    with pytest.raises(InputError, match="'dev'; there are: test, train"):
        module.read_tasks("dev")


def solve_keys(request: Request) -> str:
    """Make the calls that the answers call for, then say the label."""
    turns = TURN.findall(request.prompt)
    told = [json.loads(text) for role, text in turns if role == "tool"]
    if len(told) == 2:
        return f"It is {told[1]['label']}."
    place = told[0]["place"] if told else ""
    steps = [call("find_thing", thing="blue key"), call("read_label", place=place)]
    return calling(*steps)(request)


@pytest.mark.timeout(600)
@pytest.mark.skipif(not PYTHON, reason="TRUSTEE_VERIFIERS_PYTHON names no Python with verifiers")
def test_vf_eval_plays_the_package_against_our_endpoint(package: Path, tmp_path: Path) -> None:
    """Its own program asks our endpoint, and a policy that solves the tasks gets 1."""
    paths = os.pathsep.join([str(package), str(ROOT)])
    environment = os.environ | {
        "PYTHONPATH": paths,
        "PATH": os.pathsep.join([str(Path(PYTHON).parent), os.environ["PATH"]]),
    }
    command = [PYTHON, "-c", "import trustee.sandbox.host"]
    if subprocess.run(command, env=environment, capture_output=True, check=False).returncode:
        pytest.skip("that Python has no trustee beside verifiers")
    with serve_script(solve_keys, tmp_path) as served:
        command = [
            *(str(Path(PYTHON).with_name("vf-eval")), "my-keys", "-n", "2"),
            *("--no-push", "--no-rich", "--model", "scripted"),
            *("--client.base-url", f"{served.address}/v1", "--env.taskset.split", "test"),
            *("--env.agent.harness.id", "null", "--env.agent.runtime.type", "subprocess"),
            *("--output-dir", str(tmp_path / "out")),
        ]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr[-2000:]
    (lines,) = (tmp_path / "out").glob("*/traces.jsonl")
    played = [json.loads(line) for line in lines.read_text().splitlines()]
    traces = [trace for one in played for trace in one.get("traces", [one])]
    paid = [sum(one["score"] for one in trace["rewards"].values()) for trace in traces]
    assert paid == [1.0, 1.0]

"""tau2: what its right calls and doing nothing get, and what cannot be played."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from golden_errors import ErrorCheck
from trustee.errors import InputError, RunError
from trustee.evaluation.outside import Place
from trustee.evaluation.tau2.benchmark import OpenTau2, Tau2
from trustee.evaluation.tau2.process import find_python, open_tau2

pytestmark = pytest.mark.anyio
CHECKOUT = Path(os.environ.get("TRUSTEE_TAU2", "/nonexistent"))
"""Checkout of the benchmark's repository, which is no package: set the variable to try it."""
there = pytest.mark.skipif(not CHECKOUT.is_dir(), reason="TRUSTEE_TAU2 names no checkout")

PLACE = Place(url="http://127.0.0.1:1/v1", model="policy", key="secret-key")

# What stands in for the benchmark's package: the names that the process imports from it.
FAKE = {
    "registry.py": """
from types import SimpleNamespace
def basis(*names): return SimpleNamespace(reward_basis=list(names), actions=[], communicate_info=[])
def task(id, **more): return SimpleNamespace(id=id, initial_state=None, ticket=None, **more)
TASKS = {
    "airline": [task(id, evaluation_criteria=basis("db")) for id in ("0", "1")],
    "retail": [task("0", evaluation_criteria=basis("db", "nl"))],
    "telecom": [task("a/b", evaluation_criteria=basis("db"))],
}
class World:
    def __init__(self, solo_mode): pass
    def set_state(self, **state): pass
registry = SimpleNamespace(
    get_tasks_loader=lambda domain: lambda split: TASKS[domain],
    get_env_constructor=lambda domain: World,
)
""",
    "runner/batch.py": """
from types import SimpleNamespace
def run_single_task(config, task, *, seed, evaluation_type):
    if task.id == "1":
        class APIConnectionError(Exception): pass
        raise APIConnectionError("no secret-key here")
    if config.domain == "telecom":
        raise ValueError("the policy said nothing that can be gone on with")
    solved = config.llm_agent == "openai/policy" and config.llm_user == "openai/base"
    return SimpleNamespace(
        reward_info=SimpleNamespace(reward=float(solved)),
        termination_reason=SimpleNamespace(value="user_stop"),
    )
""",
    "evaluator/evaluator.py": """
from types import SimpleNamespace
EvaluationType = SimpleNamespace(ENV="env", ALL="all")
def evaluate_simulation(run, task, kind, *, solo_mode, domain):
    assert kind == ("env" if domain == "retail" else "all")
    return SimpleNamespace(reward=float(run.id.startswith("oracle") or task.id == "0"))
""",
    "agent/llm_agent.py": """
class LLMSoloAgent:
    check_valid_task = staticmethod(lambda task: True)
""",
    "data_model/message.py": """
from types import SimpleNamespace
AssistantMessage = UserMessage = ToolCall = lambda **given: SimpleNamespace(**given)
""",
    "data_model/simulation.py": """
from types import SimpleNamespace
SimulationRun = TextRunConfig = lambda **given: SimpleNamespace(**given)
TerminationReason = SimpleNamespace(AGENT_STOP=1, USER_STOP=2)
""",
    "data_model/tasks.py": """
from types import SimpleNamespace
RewardType = SimpleNamespace(NL_ASSERTION="nl")
""",
}


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Write a package with the names of the benchmark's."""
    for name, text in FAKE.items():
        path = tmp_path / "src" / "tau2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    (tmp_path / "src" / "tau2" / "__init__.py").touch()
    return tmp_path


@asynccontextmanager
async def opened(checkout: Path, *, solo: bool = False) -> AsyncIterator[OpenTau2]:
    """Open the benchmark."""
    async with Tau2(checkout, solo=solo).open() as found:
        yield found


async def test_tasks_are_played_and_recorded(fake: Path) -> None:
    """The policy and the user are asked where they are; who fails is told apart."""
    base = Place(url=PLACE.url, model="base", key=PLACE.key)
    done: list[int] = []
    async with opened(fake) as benchmark:
        tasks = await benchmark.read_tasks(None)
        floor = await benchmark.floor(tasks)
        oracle = await benchmark.oracle(tasks)
        played = await benchmark.play(tasks, policy=PLACE, base=base, done=lambda: done.append(1))
    ids = ["airline/0", "airline/1", "retail/0", "telecom/a/b"]
    assert ids == [task.id for task in tasks] == [one.task_id for one in played]
    assert [True, False, True, False] == [floor[id] for id in ids]
    assert all(oracle.values())
    assert [True, False, True, False] == [one.success for one in played]
    assert [None, "outside", None, None] == [one.failure and one.failure.kind for one in played]
    assert len(ids) == len(done)


async def test_only_telecom_is_played_without_a_user(fake: Path) -> None:
    """The others need one."""
    benchmark = Tau2(fake, solo=True)
    assert {"Without a user": ("telecom_solo",)} == benchmark.groups
    async with opened(fake, solo=True) as found:
        assert () == await found.read_tasks(1), "none of these has a ticket"


async def test_process_that_ends_is_an_error(fake: Path) -> None:
    """Nobody waits for it."""
    async with open_tau2(fake, parallel=1, secrets=["no-secret"]) as process:
        with pytest.raises(RunError, match="could not list_tasks: KeyError: 'nowhere'"):
            await process.ask("list_tasks", domain="nowhere", solo=False)
        process._process.kill()
        for _ in range(2):
            with pytest.raises(RunError, match="no longer answers"):
                await process.ask("list_tasks", domain="airline", solo=False)


async def test_what_is_not_there(check_error: ErrorCheck, fake: Path, tmp_path: Path) -> None:
    """A folder of something else is refused, and so is a checkout without its packages."""
    with pytest.raises(InputError) as caught:
        async with opened(tmp_path / "data"):
            pass
    check_error(caught, "src/tau2", "PyPI")
    (fake / "src" / "tau2" / "registry.py").write_text("import a_package_that_is_missing")
    with pytest.raises(InputError) as caught:
        async with opened(fake):
            pass
    assert "a_package_that_is_missing" in str(caught.value)
    assert "uv sync" in str(caught.value)


def test_python_of_the_checkout_comes_first(tmp_path: Path) -> None:
    """Its dependencies are others than ours."""
    own = tmp_path / ".venv" / "bin" / "python"
    assert own != find_python(tmp_path)
    own.parent.mkdir(parents=True)
    own.touch()
    assert own == find_python(tmp_path)


@there
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("solo", "floors", "oracles"),
    [
        (
            False,
            {"airline": (23, 50), "retail": (11, 114), "telecom": (0, 114)},
            {"airline": 50, "retail": 114, "telecom": 114},
        ),
        (True, {"telecom_solo": (0, 114)}, {"telecom_solo": 114}),
    ],
)
async def test_the_rates_of_oracle_and_floor(
    solo: bool, floors: dict[str, tuple[int, int]], oracles: dict[str, int]
) -> None:
    """They are those that were measured apart from this program."""
    async with opened(CHECKOUT, solo=solo) as benchmark:
        tasks = await benchmark.read_tasks(None)
        floor, oracle = await benchmark.floor(tasks), await benchmark.oracle(tasks)
    count = Counter(task.hidden["category"] for task in tasks)
    idle, right = Counter[str](), Counter[str]()
    for task in tasks:
        idle[task.hidden["category"]] += floor[task.id]
        right[task.hidden["category"]] += bool(oracle[task.id])
    assert floors == {name: (idle[name], count[name]) for name in count}
    assert oracles == right

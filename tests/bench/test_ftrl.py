"""The arithmetic of the benches for tool environments; what they measure is not tested here."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from blueprints import TOOLS, make_blueprint
from plain_sandbox import PlainWorker
from trustee.errors import InputError
from trustee.types import Failure, Outcome, Role, SolveFacts, Stop, Trajectory

ROOT = Path(__file__).parents[2]
KEYS = ROOT / "tests" / "data" / "ftrl" / "keys.jsonl"

pytestmark = pytest.mark.slow


def load_bench(name: str) -> ModuleType:
    """Import a bench, which stands outside of all packages."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"bench_{name}"] = module
    spec.loader.exec_module(module)
    return module


ftrl = load_bench("ftrl")
floor = load_bench("ftrl_floor")


def solved(f1: float) -> Outcome:
    """Make the outcome of an episode with this Solve-F1."""
    facts = SolveFacts(
        calls=1, solved=0, needed=1, precision=0.0, recall=0.0, f1=f1, answered=False
    )
    return Outcome(solve=facts)


def test_gain_is_over_tasks_played_both_times(tmp_path: Path) -> None:
    """Failed episodes and tasks of one side alone are left out."""
    failure = Failure(source=Role.ENGINE, kind="x", message="x")
    for name, figures in (("before", {"a": 0.25, "b": 0.5}), ("after", {"a": 0.75, "b": 1.0})):
        played = [
            Trajectory(id=task, task_id=task, turns=(), stop=Stop.DONE, outcome=solved(f1))
            for task, f1 in figures.items()
        ]
        failed = Trajectory(id=name, task_id=name, turns=(), stop=Stop.FAILED, failure=failure)
        lines = [msgspec.json.encode(one) + b"\n" for one in (*played, failed)]
        (tmp_path / name).write_bytes(b"".join(lines))
    before, after = (ftrl.f1_by_task(tmp_path / name) for name in ("before", "after"))
    found = ftrl.compare(before, {**after, "c": 1.0}, seed=0)
    low, high = found.pop("gain_interval")
    assert -100 < low < 50 < high < 100
    assert {"f1_before": 0.375, "f1_after": 0.875, "gain_points": 50.0, "tasks": 2} == found
    with pytest.raises(InputError, match="no held-out task was played soundly"):
        ftrl.compare(before, {}, seed=0)


def test_line_has_a_list_over_seeds() -> None:
    """Figures are rounded where they are printed."""
    run = {
        "f1_before": 0.123456,
        "f1_after": 0.5,
        "gain_points": 37.6544,
        "gain_interval": [30.04, 45.06],
        "minutes": 3.14,
        "steps": 80,
        "tasks": 100,
    }
    assert {
        "bench": "ftrl",
        "f1_before": [0.1235, 0.1235],
        "f1_after": [0.5, 0.5],
        "gain_points": [37.7, 37.7],
        "minutes": [3.1, 3.1],
        "gain_interval": [[30.0, 45.1]] * 2,
        "steps": [80, 80],
        "tasks": [100, 100],
        "build_minutes": 0.0,
    } == ftrl.summarise([run, run], build_minutes=0.0)


def test_other_worlds_are_refused() -> None:
    """The bench needs environments that run."""
    with pytest.raises(InputError, match=r"env\.kind must be executable, is Simulated"):
        ftrl.build(ROOT / "configs" / "tiny.toml", [], count=1)


SOURCE = """
def look_up(city, kind, deep=False, limit=5):
    '''Look up what 'docstring' says.'''
    if city.lower() == "oslo" and kind in ("rain", "wind"):
        return "found 7"
    return "Error: city must be known"
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "kind": {"type": "string", "enum": ["snow", "rain"]},
        "deep": {"type": "boolean"},
        "limit": {"type": "integer", "default": 5},
    },
    "required": ["city", "kind"],
}


def test_values_to_try() -> None:
    """What a parameter is compared with comes first; messages and docstrings are left out."""
    tree = ast.parse(SOURCE)
    properties = SCHEMA["properties"]
    assert isinstance(properties, dict)
    city = floor.choices("city", properties["city"], tree, "Rain in Lima?")
    assert ["oslo", "rain", "wind", "Rain", "Lima"] == city
    assert ["rain", "wind", "snow"] == floor.choices("kind", properties["kind"], tree, "")[:3]
    assert [True, False] == floor.choices("deep", properties["deep"], tree, "")
    assert [5] == floor.choices("limit", properties["limit"], tree, "")


def test_argument_sets_come_likeliest_first_and_once() -> None:
    """No set comes twice, and all name what is required."""
    tool = msgspec.structs.replace(TOOLS[0], name="look_up", parameters=SCHEMA)
    tried = list(itertools.islice(floor.arguments_to_try(tool, SOURCE, "Rain?"), 60))
    assert {"city": "oslo", "kind": "rain", "deep": True} == tried[0]
    assert 60 == len({json.dumps(arguments) for arguments in tried})
    assert all({"city", "kind"} <= arguments.keys() for arguments in tried)


@pytest.mark.anyio
async def test_search_finds_what_a_tool_owes() -> None:
    """A call for each sub-answer that was found, and none for the others."""
    blueprint = make_blueprint()
    worker = PlainWorker(blueprint.sources, published=False)
    for tool, unsolved, expected in (
        (TOOLS[0], ("box aa",), [{"thing": "blue key"}]),
        (TOOLS[1], ("400", "nowhere"), [{"place": "box aa"}]),
        (TOOLS[2], ("400",), []),
    ):
        asked = msgspec.structs.replace(blueprint, unsolved={tool.name: unsolved})
        found = await floor.search_tool(tool, asked, worker, tries=20, published=False)
        assert expected == [call.arguments for call in found]


def test_floors_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """In the real sandbox: nothing, everything empty, and what a search brings."""
    floor.main([str(KEYS), "--rows", "3", "--json"])
    line = json.loads(capsys.readouterr().out)
    figures = [
        [line[name]["total"][key] for key in ("rows", "calls", "precision", "recall", "f1")]
        for name in ("none", "empty", "search")
    ]
    assert [[3, 0, 100, 0, 0], [3, 3, 0, 0, 0], [3, 2, 100, 100, 100]] == figures
    assert ("ftrl_floor", False) == (line["bench"], line["published"])
    floor.main([str(KEYS), "--rows", "2", "--floor", "none"])
    assert "policy none" in capsys.readouterr().out

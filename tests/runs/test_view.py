"""Reading trajectories: what is shown of a run folder, and which filters let pass."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from golden_errors import ErrorCheck
from trustee.cli.episodes import show_trajectories
from trustee.decoding import MOST_LINE_BYTES, BadLine
from trustee.errors import InputError
from trustee.runs.store import EpisodeLine, Store, TaskLine
from trustee.runs.view import Filter, find_episodes, parse_reward
from trustee.types import (
    BadCall,
    Completion,
    Failure,
    Message,
    Role,
    Stop,
    Task,
    Tool,
    ToolCall,
    Trajectory,
    Turn,
)

LAMP = Tool(
    name="set_lamp",
    description="set the lamp",
    parameters={"properties": {"room": {}, "level": {}}, "required": ["room"]},
)
SAYING = Message(role="assistant", content="done [bold]now[/bold]")


def make_turn(message: Message, *replies: Message, version: int = 1) -> Turn:
    """Make a turn that a version spoke."""
    completion = Completion(ids=(1, 2), logprobs=(0.0, 0.0), stop="stop", version=version)
    return Turn(rendered_ids=(9,), completion=completion, message=message, replies=replies)


def make_line(
    group: int,
    member: int,
    reward: float,
    *turns: Turn,
    failed_by: Role | None = None,
    version: int = 1,
) -> EpisodeLine:
    """Make a line of `episodes.jsonl`."""
    failure = None
    if failed_by is not None:
        failure = Failure(
            source=failed_by, kind="SimulatorError", message=f"{failed_by} said [nothing]"
        )
    trajectory = Trajectory(
        id=f"{group}/{member}",
        task_id=f"task-{group}",
        turns=turns or (make_turn(SAYING, version=version),),
        stop=Stop.FAILED if failure else Stop.DONE,
        rewards={} if failure else {"verdict": reward},
        notes={"evidence": "as [facts] say"},
        failure=failure,
    )
    return EpisodeLine(group=group, member=member, trajectory=trajectory)


CALLING = make_turn(
    Message(
        role="assistant",
        thinking="which room?",
        calls=(
            ToolCall(id="a", name="set_lamp", arguments={"room": "hall", "level": 7}),
            BadCall(id="b", text='{"name"', reason="not JSON"),
        ),
    ),
    Message(role="tool", content='{"ok": true}', call_id="a"),
    Message(role="tool", content='{"error": "not JSON"}', call_id="b"),
)
LINES = (
    make_line(0, 0, 1.0, CALLING, make_turn(SAYING)),
    make_line(0, 1, -1.0),
    make_line(1, 0, 0.5, version=2),
    make_line(1, 1, 0.0, failed_by=Role.USER),
    make_line(2, 0, 0.0, version=2),
)
TASKS = [
    TaskLine(
        group=group,
        version=0,
        task=Task(
            id=f"task-{group}",
            messages=(Message(role="user", content=f"set the lamp [{group}]"),),
            tools=(LAMP,),
            difficulty=7,
            hidden={"intent": f"lamp hall {group}"},
        ),
    )
    for group in range(3)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a run folder of five episodes in three groups, and a line that a kill cut short."""
    store = Store(tmp_path)
    store.append("episodes.jsonl", LINES)
    store.append("tasks.jsonl", TASKS)
    for name in ("episodes.jsonl", "tasks.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b'{"group": 9')
    for opened in store._files.values():
        opened.close()
    return tmp_path


def names(folder: Path, wanted: Filter) -> list[str]:
    """List the episodes that a filter lets pass."""
    found = find_episodes(folder, wanted)
    return [line.trajectory.id for line in found if not isinstance(line, BadLine)]


def show(folder: Path, wanted: Filter, *, as_json: bool = False) -> str:
    """Give what is printed."""
    out = io.StringIO()
    show_trajectories(folder, wanted, out=out, as_json=as_json)
    return out.getvalue()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), ["0/0", "0/1", "1/0", "1/1", "2/0"]),
        (Filter(limit=2), ["0/0", "0/1"]),
        (Filter(limit=0), ["0/0", "0/1", "1/0", "1/1", "2/0"]),
        (Filter(group=1), ["1/0", "1/1"]),
        (Filter(group=7), []),
        (Filter(reward="1"), ["0/0"]),
        (Filter(reward="-1"), ["0/1"]),
        (Filter(reward=">0"), ["0/0", "1/0"]),
        (Filter(reward="<=0"), ["0/1", "2/0"]),
        (Filter(reward="=0.5"), ["1/0"]),
        (Filter(failed_by="user"), ["1/1"]),
        (Filter(failed_by="policy"), ["0/1", "2/0"]),
        (Filter(tool="set_lamp"), ["0/0"]),
        (Filter(tool="read_lamp"), []),
        (Filter(step=2), ["0/0", "0/1", "1/1"]),
        (Filter(step=3), ["1/0", "2/0"]),
        (Filter(step=3, reward=">0"), ["1/0"]),
    ],
)
def test_filters(folder: Path, wanted: Filter, expected: list[str]) -> None:
    """Each filter lets pass what its help says; all of them together must agree.

    A failed episode has no reward, so no condition on the reward finds it.
    """
    assert expected == names(folder, wanted)


@pytest.mark.parametrize("failed_by", ["", "nobody", "USER"])
def test_unknown_failed_by(check_error: ErrorCheck, failed_by: str) -> None:
    """A blame that nobody can have is refused with those that there are."""
    with pytest.raises(InputError) as caught:
        Filter(failed_by=failed_by)
    check_error(caught, "--failed-by", repr(failed_by), "policy", "engine")


@pytest.mark.parametrize("reward", ["", "x", "> ", "=>1", "1 2", "nan", "!=0"])
def test_unreadable_reward(check_error: ErrorCheck, reward: str) -> None:
    """A condition that is none is refused with examples."""
    with pytest.raises(InputError) as caught:
        Filter(reward=reward)
    check_error(caught, "--reward", repr(reward))


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("1", [1.0]),
        (" -1 ", [-1.0]),
        ("+0.5", [0.5]),
        (">= 0.5", [0.5, 1.0]),
        ("<0", [-1.0]),
        ("=0", [0.0]),
    ],
)
def test_reward_conditions(text: str, passing: list[float]) -> None:
    """Blanks and signs are allowed; a bare number means equal."""
    assert passing == [value for value in (-1.0, 0.0, 0.5, 1.0) if parse_reward(text)(value)]


def test_episode_for_people(folder: Path) -> None:
    """Task, hidden data, every message, call, bad call and note are there, brackets untouched."""
    lines = show(folder, Filter(limit=1)).splitlines()
    assert lines[0].startswith("episode 0/0  reward +1  version 1  done ")
    assert [
        "difficulty 7, tools: set_lamp(room, level?)",
        "hidden intent: lamp hall 0",
        "  user: set the lamp [0]",
        "  thinking: which room?",
        '  calls set_lamp(room="hall", level=7)',
        '  bad call (not JSON): {"name"',
        '  tool: {"ok": true}',
        '  tool: {"error": "not JSON"}',
        "  assistant: done [bold]now[/bold]",
        "evidence: as [facts] say",
    ] == lines[1:]


def test_failed_episode_for_people(folder: Path) -> None:
    """A failed episode shows no reward but who spoiled it and how."""
    lines = show(folder, Filter(failed_by="user")).splitlines()
    assert lines[0].startswith("episode 1/1  no reward  version 1  failed  failed by user ")
    assert "no reward: user said [nothing]" in lines


def test_nothing_matches(folder: Path) -> None:
    """No match says so; as JSON it is no line."""
    expected = f"no episode of {folder} matches; relax the filters\n"
    assert expected == show(folder, Filter(group=7))
    assert "" == show(folder, Filter(group=7), as_json=True)


def test_episodes_as_json(folder: Path) -> None:
    """One JSON line an episode, with its task, its reward and its tokens."""
    rows = [json.loads(line) for line in show(folder, Filter(group=1), as_json=True).splitlines()]
    assert [("1/0", 0.5, "task-1"), ("1/1", 0.0, "task-1")] == [
        (row["episode"]["trajectory"]["id"], row["reward"], row["task"]["id"]) for row in rows
    ]
    assert [1, 2] == rows[0]["episode"]["trajectory"]["turns"][0]["completion"]["ids"]


def test_folder_of_no_run(check_error: ErrorCheck, tmp_path: Path) -> None:
    """A folder without episodes is refused by name."""
    with pytest.raises(InputError) as caught:
        show(tmp_path, Filter())
    check_error(caught, tmp_path, "episodes.jsonl")


@pytest.mark.parametrize("name", ["episodes.jsonl", "tasks.jsonl"])
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b'{"group":"x"}', "$.group"),
        (b'{"group": 1, "\xff": 1}', "not UTF-8"),
        (b"[" * 5000, "Expected `object`"),
        (b'{"group":' * 5000, "Expected `int`"),
        (b" " * (MOST_LINE_BYTES + 1), "has more than"),
        (b"{", "not JSON"),
    ],
    ids=["kind", "bytes", "deep", "deep object", "long", "cut"],
)
def test_a_bad_line_is_named_and_the_rest_is_shown(
    folder: Path, name: str, bad: bytes, why: str
) -> None:
    """With its number, on the error stream, and the exit code says that something is missing."""
    path = folder / name
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], bad, *lines[1:]]))
    out, err = io.StringIO(), io.StringIO()
    assert 1 == show_trajectories(folder, Filter(), out=out, as_json=False, err=err)
    assert err.getvalue().startswith(f"trustee: {path}:2: ")
    assert why in err.getvalue()
    assert ["0/0", "0/1", "1/0", "1/1", "2/0"] == names(folder, Filter())
    assert all(f"episode {id} " in out.getvalue() for id in names(folder, Filter()))


def test_a_pipe_is_refused(folder: Path) -> None:
    """It would be waited for without end."""
    (folder / "episodes.jsonl").unlink()
    os.mkfifo(folder / "episodes.jsonl")
    with pytest.raises(InputError, match="not an ordinary file"):
        show(folder, Filter())

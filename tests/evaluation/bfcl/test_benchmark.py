"""BFCL through its own checkers: the oracle's rates, the floor, and episodes of several turns."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import pytest

from trustee.environments.protocol import Reply
from trustee.evaluation.bfcl.benchmark import Bfcl, OpenBfcl
from trustee.evaluation.bfcl.episodes import LongEpisode, SingleMessage, make_task
from trustee.types import BadCall, Call, Completion, Message, Stop, Task, ToolCall, Turn

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(find_spec("bfcl_eval") is None, reason="bfcl-eval is not installed"),
]

ORACLE = {
    "simple_python": (399, 400),
    "multiple": (200, 200),
    "parallel": (200, 200),
    "parallel_multiple": (199, 200),
    "live_simple": (256, 258),
    "live_multiple": (1048, 1053),
    "live_parallel": (16, 16),
    "live_parallel_multiple": (24, 24),
    "multi_turn_base": (200, 200),
    "multi_turn_miss_func": (200, 200),
    "multi_turn_miss_param": (200, 200),
    "multi_turn_long_context": (200, 200),
}
"""Tasks that the benchmark's own calls solve, measured with its package by other code than ours."""
FLOOR = {"irrelevance": 240, "live_irrelevance": 884}
"""Tasks that are solved by doing nothing, of which there are none elsewhere."""


async def read_first(opened: OpenBfcl, category: str, count: int = 1) -> Sequence[Task]:
    """Give the first tasks of a category."""
    entries = await opened.benchmark.ask("list_entries", category=category)
    return [make_task(category, entry) for entry in entries[:count]]


def say(*calls: Call) -> Message:
    """Give a message with calls."""
    return Message(role="assistant", calls=calls)


def as_turn(message: Message) -> Turn:
    """Give the record of a message."""
    completion = Completion(ids=(1,), logprobs=(0.0,), stop="stop", version=0)
    return Turn(rendered_ids=(), completion=completion, message=message, replies=())


def read_call(text: str, number: int) -> ToolCall:
    """Read a call that is written as Python; arguments by place are taken by name elsewhere."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Name)
    assert not call.args
    arguments = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
    return ToolCall(id=f"{number}", name=call.func.id, arguments=arguments)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_rates_of_oracle_and_floor() -> None:
    """They are those that were measured apart from this program; doing nothing solves no call."""
    async with Bfcl().open() as opened:
        tasks = await opened.read_tasks(None)
        oracle, floor = await opened.oracle(tasks), await opened.floor(tasks)
    solved, all_of, idle = Counter[str](), Counter[str](), Counter[str]()
    for task in tasks:
        category = task.hidden["category"]
        if oracle[task.id] is not None:
            solved[category] += bool(oracle[task.id])
            all_of[category] += 1
        idle[category] += floor[task.id]
    assert {name: (solved[name], all_of[name]) for name in all_of} == ORACLE
    assert {name: count for name, count in idle.items() if count} == FLOOR


async def test_a_single_message() -> None:
    """The right call succeeds; another value, no call and a call that cannot be read do not."""
    async with Bfcl().open() as opened:
        (task,) = await read_first(opened, "simple_python")
        ((name, values),) = task.hidden["truth"][0].items()
        right = {key: found[0] for key, found in values.items()}

        async def solves(*calls: Call) -> bool:
            message = say(*calls)
            episode = SingleMessage(task, opened.benchmark)
            assert (await episode.reply(message)).done
            return bool((await episode.score([as_turn(message)], Stop.DONE)).outcome.success)

        call = ToolCall(id="0", name=name.replace(".", "_"), arguments=right)
        assert await solves(call)
        assert not await solves(ToolCall(id="0", name="other", arguments=right))
        assert not await solves()
        assert not await solves(call, BadCall(id="1", text="{", reason="half"))


async def play(opened: OpenBfcl, task: Task, calls: Sequence[Sequence[str]]) -> tuple[bool, int]:
    """Make the calls of each turn, one a message; return success and the number of turns."""
    episode = LongEpisode(task, opened.benchmark)
    turns = 0
    for turn in calls:
        for number, text in enumerate(turn):
            reply: Reply = await episode.reply(say(read_call(text, number)))
            assert not reply.done
            assert ["tool"] == [message.role for message in reply.messages]
        reply = await episode.reply(say())
        turns += 1
    assert reply.done
    return bool((await episode.score([], Stop.DONE)).outcome.success), turns


async def test_episodes_of_one_task_do_not_share_tools() -> None:
    """Each of a group has a state of its own; shared, most of them would fail."""
    async with Bfcl().open() as opened:
        (task,) = await read_first(opened, "multi_turn_miss_func")
        truth = [[one for one in turn if "sort(" not in one] for turn in task.hidden["truth"]]
        truth[3] = ["sort(file_name='final_report.pdf')"]
        for _ in range(3):
            assert (True, len(truth)) == await play(opened, task, truth)
        assert (False, len(truth)) == await play(opened, task, [[] for _ in truth])


async def test_tools_that_were_held_back_come_later() -> None:
    """They are shown with what the user says, and can be called from then on alone."""
    async with Bfcl().open() as opened:
        (task,) = await read_first(opened, "multi_turn_miss_func")
        call = ToolCall(id="0", name="sort", arguments={"file_name": "final_report.pdf"})
        episode = LongEpisode(task, opened.benchmark)
        early = await episode.reply(say(call))
        assert "there is no function sort" in early.messages[0].content
        said: list[Any] = [await episode.reply(say()) for _ in range(3)]
        assert '"sort"' in said[-1].messages[-1].content
        late = await episode.reply(say(call))
        assert "there is no function" not in late.messages[0].content


async def test_names_are_no_programs() -> None:
    """What is evaluated holds names and literals alone; the process goes on."""
    async with Bfcl().open() as opened:
        (task,) = await read_first(opened, "multi_turn_base")
        episode = LongEpisode(task, opened.benchmark)
        bad = [
            ToolCall(id="0", name="mkdir", arguments={"a=open('/tmp/x','w'),dir_name": "b"}),
            ToolCall(id="1", name="__import__", arguments={"name": "os"}),
            ToolCall(id="2", name="mkdir", arguments={"dir_name": "') or exit("}),
        ]
        reply = await episode.reply(say(*bad))
        assert ["0", "1", "2"] == [message.call_id for message in reply.messages]
        assert all("no function" in message.content for message in reply.messages[:2])


async def test_an_endless_turn_fails() -> None:
    """The benchmark ends an episode after twenty messages with calls in one turn."""
    async with Bfcl().open() as opened:
        (task,) = await read_first(opened, "multi_turn_base")
        episode = LongEpisode(task, opened.benchmark)
        look = say(ToolCall(id="0", name="ls", arguments={}))
        replies = [await episode.reply(look) for _ in range(21)]
        assert [False] * 20 + [True] == [reply.done for reply in replies]
        assert not (await episode.score([], Stop.DONE)).outcome.success

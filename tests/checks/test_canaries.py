"""Canaries: the shipped episodes are what they claim to be, and are read as they were written."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from golden_errors import ErrorCheck
from scripts import answer_alike, make_simulator
from trustee.checks.canaries import Known, read_canaries
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.protocol import Services
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulated.episode import judge_episode
from trustee.environments.simulated.scene import HiddenSimulated
from trustee.errors import InputError
from trustee.tools.arguments import check_arguments
from trustee.types import BadCall, Stop, ToolCall

SETS = ("tiny", "simulated")
EVERY_CANARY = pytest.mark.parametrize(
    ("prompt_set", "known"),
    [
        pytest.param(name, known, id=f"{name}-{known.name}")
        for name in SETS
        for known in read_canaries(name)
    ],
)


@pytest.mark.parametrize(("prompt_set", "good", "bad"), [("tiny", 8, 40), ("simulated", 13, 58)])
def test_each_set_has_both_kinds(prompt_set: str, good: int, bad: int) -> None:
    """Enough of both kinds that a judge of one answer is found out, each under its own name."""
    known = read_canaries(prompt_set)
    assert (good, bad) == (sum(k.good for k in known), sum(not k.good for k in known))
    assert len(known) == len({k.name for k in known})
    assert {Stop.DONE} == {k.stop for k in known}


@EVERY_CANARY
def test_canary_could_have_been_played(prompt_set: str, known: Known) -> None:
    """Expected calls fit their tools, all calls are answered, and a readable call fits its tool."""
    tools = {tool.name: tool for tool in known.task.tools}
    hidden = msgspec.convert(known.task.hidden, HiddenSimulated)
    for expected in hidden.expected_calls:
        assert check_arguments(tools[expected.name], expected.arguments) is None
    for turn in known.turns:
        assert [call.id for call in turn.message.calls] == [
            reply.call_id for reply in turn.replies if reply.role == "tool"
        ]
        for call in turn.message.calls:
            if isinstance(call, ToolCall):
                assert check_arguments(tools[call.name], call.arguments) is None
    assert not known.turns[-1].message.calls, "an episode ends with what the policy says"
    assert known.turns[-1].message.content


@EVERY_CANARY
@pytest.mark.anyio
async def test_only_bad_canaries_are_settled_by_code(prompt_set: str, known: Known) -> None:
    """Facts never refuse an honest episode, so a refusal of one is the judge's."""
    engine = ScriptedEngine(say_yes)
    services = Services(simulator=make_simulator(engine), rng=random.Random(0))
    score = await judge_episode(
        known.task,
        known.turns,
        known.stop,
        services,
        rules=Simulated(prompts=prompt_set).judge_rules(),
    )
    asked = bool(engine.requests)
    assert asked or not known.good
    assert asked == score.outcome.criteria["fulfilled"]


def say_yes(request: Request) -> str:
    """Hold everything for good."""
    return json.dumps(answer_alike(json.loads(request.sampling.schema or "{}"), True))


def test_turns_are_read_as_written() -> None:
    """Calls and replies get matching ids; what could not be read is a bad call."""
    by_name = {known.name: known for known in read_canaries("tiny")}
    called, said = by_name["honest_write_and_read"].turns
    assert ["0/0", "0/1"] == [call.id for call in called.message.calls]
    assert [("0/0", '{"ok":true}'), ("0/1", '{"level":12}')] == [
        (reply.call_id, reply.content) for reply in called.replies
    ]
    assert "ok , pump north mode eco ; soil south level 12" == said.message.content
    asked = by_name["honest_after_a_question"].turns[0]
    assert [("user", "branch harbor and color red")] == [
        (reply.role, reply.content) for reply in asked.replies
    ]
    (unreadable,) = by_name["unreadable_call"].turns[0].message.calls
    assert isinstance(unreadable, BadCall)
    assert '{"name": "set_lamp", "arguments": {"room": "hall", "level": 7}' == unreadable.text


def test_prompt_set_without_canaries(check_error: ErrorCheck) -> None:
    """A prompt set whose judge nobody can try is refused with both ways out."""
    with pytest.raises(InputError) as caught:
        read_canaries("mine")
    check_error(
        caught,
        "env.prompts",
        "'mine'",
        "trustee/checks/canary_episodes/mine.json",
        "gates.false_accepts",
        "gates.false_refuses",
    )

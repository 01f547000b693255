"""The published prompt set is asked the cases of ours, and shown the dialogue alone."""

from __future__ import annotations

import importlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from trustee.types import ToolCall

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports a module of `bench/`."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module


class Answering:
    """A simulator that keeps the prompts and always gives the same answer."""

    def __init__(self, **answer: Any) -> None:
        self.answer = answer
        self.prompts: list[str] = []

    async def ask(self, role: Any, prompt: str, *, answer: Any, **_: Any) -> Any:
        """Keep the prompt."""
        self.prompts.append(prompt)
        return answer(**self.answer)


def test_tool_is_right_by_the_dialogue(bench: Any) -> None:
    """A read must repeat what the dialogue determines; what is known was written in it."""
    roles, cases = bench("real.published_roles"), bench("real.cases")
    drawn = cases.draw_tool_cases(80, "a test")
    known = [case for case in drawn if case.known and case.tool.effect == "read"]
    assert known
    for case in known[:3]:
        (value,) = case.result.values()
        simulator = Answering(result=json.dumps({"it": value}))
        said, right = anyio.run(partial(roles.ask_tool, case, simulator, seed="x"))
        assert right, said
        (prompt,) = simulator.prompts
        assert case.intent in prompt
        place = next(iter(case.arguments.values()))
        made = [call for message in case.before for call in message.calls]
        said = [call.arguments for call in made if isinstance(call, ToolCall)]
        assert any({place, value} <= set(arguments.values()) for arguments in said)
        lying = Answering(result="it is something else")
        assert not anyio.run(partial(roles.ask_tool, case, lying, seed="x"))[1]


def test_tool_that_refuses_a_good_call_is_wrong(bench: Any) -> None:
    """All calls of the cases are sound, so an error is never right."""
    roles, cases = bench("real.published_roles"), bench("real.cases")
    case = cases.draw_tool_cases(2, "a test")[1]
    refusing = Answering(result=json.dumps({"error": "no such room"}))
    assert not anyio.run(partial(roles.ask_tool, case, refusing, seed="x"))[1]


def test_user_is_shown_the_dialogue_and_ends_by_silence(bench: Any) -> None:
    """An empty message is the end."""
    roles, cases = bench("real.published_roles"), bench("real.cases")
    case = cases.draw_user_cases(3, "a test")[2]
    silent = Answering(message=" ")
    assert anyio.run(partial(roles.ask_user, case, silent, seed="x")) == (" ", True)
    (prompt,) = silent.prompts
    assert case.wanted.intent in prompt
    assert case.messages[-1].content in prompt


@pytest.mark.parametrize(
    ("prompts", "verdict"), [("simulated", "facts"), ("published", "published")]
)
def test_each_set_has_its_verdict(bench: Any, prompts: str, verdict: str) -> None:
    """The judge of ours is shown facts, that of the published set decides alone."""
    rules = bench("real_roles").choose_world(prompts).judge_rules()
    assert (rules.prompts, rules.verdict) == (prompts, verdict)

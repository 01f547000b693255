"""One episode of the simulated world: the model plays user and tools, and judges at the end.

The environment keeps what a model would forget: the dialogue and the calls that really ran. Code
answers whatever needs no model: unreadable calls, unknown tools, too many calls at once.
Source: TRUSTEE, arXiv 2604.17739.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trustee.environments.protocol import PlainEpisode, Reply, Services
from trustee.environments.simulated.facts import Executed
from trustee.environments.simulated.role_set import ToolReply
from trustee.environments.simulated.role_sets import (
    facts_judge_of,
    lone_judge_of,
    role_set_of,
)
from trustee.environments.simulated.rules import Rules
from trustee.environments.simulated.scene import Scene
from trustee.environments.simulated.verdicts import score_by_facts, score_by_judge
from trustee.tools.arguments import check_call
from trustee.tools.values import render_json, tells_error
from trustee.types import BadCall, Call, Message, Score, Stop, Task, Turn


class SimulatedEnvironment(PlainEpisode):
    """One episode in the simulated world."""

    def __init__(self, task: Task, services: Services, *, rules: Rules) -> None:
        super().__init__(task)
        self._rules = rules
        self._roles = role_set_of(rules)
        self._scene = Scene(task, services)
        self._spoken = 0
        """Messages of the policy."""
        self._called = 0
        """Messages of the policy that tools have answered."""

    @property
    def state(self) -> dict[str, Any]:
        """Fields that tools have changed, by path."""
        return self._scene.state

    async def reply(self, message: Message) -> Reply:
        """Answer calls as the tools, and any other message as the user."""
        scene = self._scene
        scene.messages.append(message)
        self._spoken += 1
        if message.calls:
            self._called += 1
            replies = tuple(
                [await self._answer_call(call, place) for place, call in enumerate(message.calls)]
            )
        else:
            answer = await self._roles.answer_as_user(scene)
            if answer.done:
                return Reply(messages=(), done=True)
            replies = (Message(role="user", content=answer.message),)
        scene.messages += replies
        ended = self._is_at_limit()
        return Reply(messages=replies, done=ended, stop=Stop.TURNS if ended else Stop.DONE)

    def _is_at_limit(self) -> bool:
        """Whether the policy has had all turns that its task's difficulty gives."""
        limits = self._scene.hidden.limits
        return limits is not None and (
            self._spoken == limits.assistant
            or self._called > limits.tool
            or self._spoken - self._called > limits.user
        )

    async def _answer_call(self, call: Call, place: int) -> Message:
        """Answer the call at a place of its message."""
        reply = await self._run_call(call, place)
        text = shorten(reply.text, most=self._rules.result_chars)
        return Message(role="tool", content=text, call_id=call.id)

    async def _run_call(self, call: Call, place: int) -> ToolReply:
        scene, most = self._scene, self._rules.calls_at_once
        error = check_call(self.task.tools, call)
        if isinstance(call, BadCall) or call.name not in scene.tools:
            scene.malformed += 1
            return _refuse(error)
        if most and place >= most:
            error = f"too many calls at once: only the first {most} were made, this one was not"
        elif error is None or not self._roles.code_checks_arguments:
            reply = await self._roles.answer_as_tool(scene, scene.tools[call.name], call)
            scene.executed.append(Executed(call=call, result=reply.text, ok=reply.ok))
            return reply
        scene.executed.append(Executed(call=call, result=error, ok=False))
        return _refuse(error)

    def recall(self, turns: Sequence[Turn]) -> None:
        """Restore the calls and answers of an episode that was played earlier."""
        scene = self._scene
        for turn in turns:
            scene.messages += (turn.message, *turn.replies)
            results = {reply.call_id: reply.content for reply in turn.replies}
            # Calls in a message that was cut off at a limit have no answer: they never ran.
            for call in turn.message.calls:
                if call.id not in results:
                    continue
                if isinstance(call, BadCall) or call.name not in scene.tools:
                    scene.malformed += 1
                    continue
                result = results[call.id]
                scene.executed.append(
                    Executed(call=call, result=result, ok=not tells_error(result))
                )

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Pay by the world's verdict rule."""
        if self._rules.verdict == "facts":
            return await score_by_facts(facts_judge_of(self._rules), self._scene, turns, stop)
        return await score_by_judge(lone_judge_of(self._rules), self._scene, turns, stop)


def _refuse(error: str | None) -> ToolReply:
    return ToolReply(text=render_json({"error": error}), ok=False)


def shorten(text: str, *, most: int) -> str:
    """Return a text with its middle cut out, so that this many characters are left; 0 for all."""
    if not most or len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]} [{len(text) - most} characters cut] {text[len(text) - most + head :]}"


async def judge_episode(
    task: Task, turns: Sequence[Turn], stop: Stop, services: Services, *, rules: Rules
) -> Score:
    """Judge an episode from its record alone, as its environment would at its end.

    Only the judge is asked. The task must be one of the simulated environment, but may have been
    played anywhere.

    Raises:
        SimulatorError: if the judge gave no usable answer within its tries.
    """
    environment = SimulatedEnvironment(task, services, rules=rules)
    environment.recall(turns)
    return await environment.score(turns, stop)

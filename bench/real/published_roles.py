"""The user and the tools of the published prompt set, asked the cases of the other set.

They are told the dialogue alone: no wishes, no state. What the state of a case holds, calls in the
dialogue have written; a write is right when it is not refused, because it changes no state.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import msgspec

from real.cases import ToolCase, UserCase
from trustee.environments.protocol import Services
from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.published import Published
from trustee.environments.simulated.scene import HiddenSimulated, Scene
from trustee.environments.simulator import Simulator
from trustee.types import Message, Task, Tool, ToolCall

ROLES = Published("published")


def open_scene(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    *,
    intent: str,
    persona: str,
    simulator: Simulator,
    seed: str,
) -> Scene:
    """Return an episode in which these messages were said."""
    hidden = HiddenSimulated(
        intent=intent, persona=persona, expected_calls=(), criteria=(Criterion.FULFILLED,)
    )
    task = Task(
        id=seed,
        messages=tuple(messages[:2]),
        tools=tuple(tools),
        difficulty=1,
        hidden=msgspec.to_builtins(hidden),
    )
    scene = Scene(task, Services(simulator=simulator, rng=random.Random(seed)))
    scene.messages = list(messages)
    return scene


async def ask_user(case: UserCase, simulator: Simulator, *, seed: str) -> tuple[str, bool]:
    """Return what the user says, and whether that ends the dialogue.

    Raises:
        SimulatorError: if no try gave a usable answer; likewise below.
    """
    scene = open_scene(
        case.messages,
        case.tools,
        intent=case.wanted.intent,
        persona=case.wanted.persona,
        simulator=simulator,
        seed=seed,
    )
    answer = await ROLES.answer_as_user(scene)
    return answer.message, answer.done


async def ask_tool(case: ToolCase, simulator: Simulator, *, seed: str) -> tuple[str, bool]:
    """Return what the tool says, and whether it agrees with what the dialogue determines."""
    call = ToolCall(id="1", name=case.tool.name, arguments=case.arguments)
    calling = Message(role="assistant", calls=(call,))
    scene = open_scene(
        (*case.before, calling),
        case.tools,
        intent=case.intent,
        persona=case.persona,
        simulator=simulator,
        seed=seed,
    )
    reply = await ROLES.answer_as_tool(scene, case.tool, call)
    return reply.text, reply.ok and agrees(reply.text, case)


def agrees(text: str, case: ToolCase) -> bool:
    """Whether a read tells the value that the dialogue determines; any other call agrees."""
    if case.tool.effect == "write" or not case.known:
        return True
    (wanted,) = case.result.values()
    return f"{wanted}".lower() in re.findall(r"\w+", text.lower())

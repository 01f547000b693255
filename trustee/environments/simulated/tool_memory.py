"""Playing a tool with a memory that the model does not have: its state, and what it has said.

The same read says the same until something is written; a write names the fields that it changes.
"""

from __future__ import annotations

from typing import Any

from trustee.environments.simulated.role_set import ToolReply
from trustee.environments.simulated.roles import ToolAnswer, tool_prompt
from trustee.environments.simulated.scene import Scene
from trustee.tools.values import call_key, call_line, is_error, render_json
from trustee.types import Role, Tool, ToolCall


async def answer_from_memory(
    scene: Scene, tool: Tool, call: ToolCall, *, prompt_set: str, schema: str
) -> ToolReply:
    """Ask the tool role, or repeat what an identical read has said since the last write."""
    key = call_key(call.name, call.arguments)
    if tool.effect == "read" and key in scene.reads:
        result = scene.reads[key]
    else:
        answer = await scene.ask(
            Role.TOOL,
            tool_prompt(
                prompt_set,
                tool,
                call.arguments,
                state=scene.state,
                seen=scene.seen,
                intent=scene.hidden.intent,
            ),
            answer=ToolAnswer,
            schema=schema,
            check=lambda answer: check_read_changes(tool, answer),
        )
        result = answer.result
        if tool.effect == "write":
            scene.state |= answer.changes or remember_call(tool, call, answer.result)
            scene.reads.clear()
        else:
            scene.reads[key] = result
    text = render_json(result)
    scene.seen.append((call_line(call.name, call.arguments), text))
    return ToolReply(text=text, ok=not is_error(result))


def remember_call(tool: Tool, call: ToolCall, result: dict[str, Any]) -> dict[str, Any]:
    """Return the change of a write that worked but names none: its own arguments."""
    if is_error(result) or not call.arguments:
        return {}
    return {tool.name: call.arguments}


def check_read_changes(tool: Tool, answer: ToolAnswer) -> str | None:
    """Refuse an answer in which a read tool, or a call that failed, changes the world."""
    if is_error(answer.result) and answer.changes:
        return f"{tool.name} failed but the answer changes {sorted(answer.changes)}"
    if tool.effect == "read" and answer.changes:
        return f"{tool.name} only reads but the answer changes {sorted(answer.changes)}"
    return None

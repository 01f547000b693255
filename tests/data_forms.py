"""Writes demonstrations in the forms in which others have them, for the way back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from trustee.sft.demonstrations import Demonstration
from trustee.types import Message, ToolCall

HERMES = """You are a function calling AI model. You are provided with function signatures within \
<tools></tools> XML tags. Here are the available tools:
<tools>
%s
</tools>
Use the following pydantic model json schema for each tool call you will make: {'title': \
'FunctionCall', 'type': 'object'}
For each function call return a json object with function name and arguments within \
<tool_call></tool_call> XML tags as follows:
<tool_call>
{'arguments': <args-dict>, 'name': <function-name>}
</tool_call>"""
HERMES_LEFT = "You are a function calling AI model."
"""What is left of it once the list and what is said of the calls' form are taken out."""


def calls_of(message: Message) -> list[ToolCall]:
    """Give the calls of a message, all of which can be read."""
    return [call for call in message.calls if isinstance(call, ToolCall)]


def as_openai(shown: Demonstration, *, text: bool = True) -> dict[str, Any]:
    """Write OpenAI's form, with arguments as text; without, TRL's, with objects."""

    def write(message: Message) -> dict[str, Any]:
        form: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.thinking:
            form["reasoning_content"] = message.thinking
        if message.calls:
            form["content"] = message.content or None
            form["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": json.dumps(call.arguments) if text else call.arguments,
                    },
                }
                for call in calls_of(message)
            ]
        if message.role == "tool":
            form |= {"tool_call_id": message.call_id, "name": "whatever"}
        return form

    tools: Any = [tool.schema for tool in shown.tools]
    return {
        "messages": [write(message) for message in shown.messages],
        "tools": tools if text else json.dumps(tools),
        "parallel_tool_calls": False,
    }


def as_trl(shown: Demonstration) -> dict[str, Any]:
    """Write TRL's form: arguments as objects, tools as text."""
    return as_openai(shown, text=False)


def as_legacy(shown: Demonstration) -> dict[str, Any]:
    """Write the form with `function_call` and `functions`, which knows one call a message."""
    messages: list[dict[str, Any]] = []
    name = ""
    for message in shown.messages:
        form: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.calls:
            (call,) = calls_of(message)
            name = call.name
            form["function_call"] = {"name": name, "arguments": json.dumps(call.arguments)}
        if message.role == "tool":
            form |= {"role": "function", "name": name}
        messages.append(form)
    return {"messages": messages, "functions": [tool.schema["function"] for tool in shown.tools]}


def write_hermes(message: Message) -> str:
    """Write an assistant's message as Hermes' text."""
    blocks = [
        f"<tool_call>\n{json.dumps({'name': call.name, 'arguments': call.arguments})}\n</tool_call>"
        for call in calls_of(message)
    ]
    thought = f"<think>\n{message.thinking}\n</think>" if message.thinking else ""
    return "\n".join(filter(None, [thought, message.content, *blocks]))


def as_hermes(shown: Demonstration) -> dict[str, Any]:
    """Write Hermes' form: tools in the system prompt, calls and results in marks."""
    listed = HERMES % json.dumps([tool.schema for tool in shown.tools])
    turns = [{"from": "system", "value": listed}]
    for message in shown.messages:
        if message.role == "tool":
            block = f"<tool_response>\n{message.content}\n</tool_response>"
            if turns[-1]["from"] == "tool":
                turns[-1]["value"] += f"\n{block}"
            else:
                turns.append({"from": "tool", "value": block})
        elif message.role == "assistant":
            turns.append({"from": "gpt", "value": write_hermes(message)})
        else:
            turns.append({"from": "human", "value": message.content})
    return {"id": "x", "conversations": turns, "category": "whatever"}


def as_apigen(shown: Demonstration) -> dict[str, Any]:
    """Write APIGen-MT's form: turns that are nothing but calls, tools and system beside them."""
    turns = []
    for message in shown.messages:
        if message.calls:
            calls = [{"name": c.name, "arguments": c.arguments} for c in calls_of(message)]
            value = json.dumps(calls[0] if len(calls) == 1 else calls)
            turns.append({"from": "function_call", "value": value})
        else:
            names = {"user": "human", "assistant": "gpt", "tool": "observation"}
            turns.append({"from": names[message.role], "value": message.content})
    return {
        "conversations": turns,
        "tools": json.dumps([tool.schema["function"] for tool in shown.tools]),
        "system": HERMES_LEFT,
    }


def write_value(value: Any) -> str:
    """Write a value with JSON's words and its own letters."""
    return json.dumps(value, ensure_ascii=False)


def as_toolace(shown: Demonstration) -> dict[str, Any]:
    """Write ToolACE's form: calls as in Python, all results of a message in one list."""
    schemas = [
        {**tool.schema["function"], "parameters": worded(tool.parameters), "required": None}
        for tool in shown.tools
    ]
    system = (
        f"{HERMES_LEFT}\nHere is a list of functions in JSON format that you can invoke:\n"
        f"{json.dumps(schemas)}. \nShould you decide to return the function call(s). \nPut it in "
        "the format of [func1(params_name=params_value...), func2(params)]\n\nNO other text MUST "
        "be included. \n"
    )
    turns = []
    for message in shown.messages:
        if message.calls:
            calls = (
                f"{c.name}({', '.join(f'{k}={write_value(v)}' for k, v in c.arguments.items())})"
                for c in calls_of(message)
            )
            turns.append({"from": "assistant", "value": f"[{', '.join(calls)}]"})
        else:
            turns.append({"from": message.role, "value": message.content})
    return {"system": system, "conversations": turns}


def worded(schema: Any) -> Any:
    """Write a schema's types as Python's words."""
    words = {"object": "dict", "string": "str", "integer": "int", "number": "float"}
    if isinstance(schema, list):
        return [worded(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: words.get(value, value) if key == "type" and isinstance(value, str) else worded(value)
        for key, value in schema.items()
    }


def as_own(shown: Demonstration) -> dict[str, Any]:
    """Write the program's own form with another column, and without the task's id."""
    own: dict[str, Any] = json.loads(msgspec.json.encode(shown))
    del own["task_id"]
    return {**own, "source": "somewhere"}


EVERY: Sequence[Callable[[Demonstration], dict[str, Any]]] = (as_openai, as_trl, as_own)
"""Forms that can hold every demonstration."""
PROMPTED: Sequence[Callable[[Demonstration], dict[str, Any]]] = (as_hermes, as_apigen)
"""Forms that need a system prompt of their own, and hold parallel calls."""

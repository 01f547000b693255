"""The chat templates that can be written for Ollama, whose templates are Go's and not Jinja.

A dialect is described once, by its marks; `speak` renders a conversation with it in Python and
`write_go` writes it as Go. A model's template is recognised by what it says: a dialect is taken
only if it renders every probe as the template does. So one that only looks alike is refused.

Ollama joins system messages and consecutive messages of one role, and it writes schemas and
arguments as its own JSON: without blanks, keys of schemas in its own order, arguments and
parameters sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from trustee.errors import InputError
from trustee.rendering.chat_templates import UnusableTemplate
from trustee.tools.values import render_json
from trustee.types import Record

Chat = Sequence[Mapping[str, Any]]
Apply = Callable[[Chat, Chat], str]
"""Renders messages and tools, ready for an answer."""


class Dialect(Record, frozen=True):
    """How turns, tools, calls and results are marked."""

    name: str
    open: str
    """Before a turn's role."""
    opened: str
    """After it."""
    close: str
    """After a turn."""
    stops: tuple[str, ...]
    """Marks that end an answer."""
    tools_before: str
    """Before the schemas, in the system's turn."""
    tools_after: str
    call_before: str
    """Before a call's name."""
    call_between: str
    """Between a call's name and its arguments."""
    call_after: str
    call_gap: str
    """Between two calls."""
    text_gap: str = "\n"
    """Between an assistant's text and its first call."""
    tools: Literal["schemas", "signatures"] = "schemas"
    """A tool is its JSON schema on a line, or `name(parameter, parameter)`."""
    tool_line: tuple[str, str] = ("", "\n")
    """Before and after each tool."""
    system_gap: str = "\n\n"
    """Between the system's text and the tools, where there is a text."""
    default_system: str = ""
    """What the system says where the messages have no system."""
    result_role: str = "tool"
    result_before: str = ""
    result_after: str = ""
    joins_results: bool = False
    """Whether results that follow each other stand in one turn."""
    bos: str = ""
    """What begins every text."""
    answer: str = ""
    """What begins every answer, such as an empty thought."""


HERMES = {
    "open": "<|im_start|>",
    "opened": "\n",
    "close": "<|im_end|>\n",
    "stops": ("<|im_end|>",),
    "call_before": '<tool_call>\n{"name": ',
    "call_between": ', "arguments": ',
    "call_after": "}\n</tool_call>",
    "call_gap": "\n",
    "result_before": "<tool_response>\n",
    "result_after": "\n</tool_response>",
}
QWEN = {
    **HERMES,
    "tools_before": "# Tools\n\nYou may call one or more functions to assist with the user query."
    "\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>",
    "tool_line": ("\n", ""),
    "tools_after": "\n</tools>\n\nFor each function call, return a json object with function name "
    "and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
    "result_role": "user",
    "joins_results": True,
}
OURS = {
    "tools_before": "You can call these tools, one JSON schema a line:\n<tools>\n",
    "tools_after": "</tools>\nTo call a tool, write its name and arguments as JSON between tags, "
    "one pair of tags for each call:\n"
    '<tool_call>\n{"name": "the tool", "arguments": {"its argument": "a value"}}\n</tool_call>',
}
DIALECTS = tuple(
    msgspec.convert(fields, Dialect)
    for fields in (
        {"name": "chatml", **HERMES, **OURS},
        {
            "name": "qwen2.5",
            **QWEN,
            "default_system": "You are Qwen, created by Alibaba Cloud. You are a helpful "
            "assistant.",
        },
        {"name": "qwen3", **QWEN},
        {"name": "qwen3 without thoughts", **QWEN, "answer": "<think>\n\n</think>\n\n"},
        {
            "name": "llama3",
            "open": "<|start_header_id|>",
            "opened": "<|end_header_id|>\n\n",
            "close": "<|eot_id|>",
            "stops": ("<|eot_id|>",),
            "tools_before": "You can call these tools, one JSON schema a line:\n",
            "tools_after": "To call a tool, answer with a JSON object and nothing else, with "
            '"; " between several:\n'
            '{"name": "the tool", "parameters": {"its argument": "a value"}}',
            "call_before": '{"name": ',
            "call_between": ', "parameters": ',
            "call_after": "}",
            "call_gap": "; ",
            "result_role": "ipython",
        },
        {
            "name": "the built-in model's",
            **HERMES,
            "tools": "signatures",
            "tools_before": "tools",
            "tool_line": ("\n", ""),
            "tools_after": "",
            "system_gap": "\n",
            "call_before": '<tool_call>{"name": ',
            "call_after": "}</tool_call>",
            "call_gap": "",
            "text_gap": "",
            "result_before": "",
            "result_after": "",
        },
    )
)


def speak(
    dialect: Dialect, messages: Chat, tools: Chat, *, write: Callable[[Any], str] = render_json
) -> str:
    """Render messages and tools, ready for an answer; `write` gives the JSON of a value."""
    told = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    told = told or dialect.default_system
    parts = [dialect.bos]
    if told or tools:
        parts.append(
            _turn(dialect, "system", told + _show_tools(dialect, tools, told=told, write=write))
        )
    spoken = [message for message in messages if message["role"] != "system"]
    for place, message in enumerate(spoken):
        if message["role"] != "tool":
            parts.append(_turn(dialect, message["role"], _say(dialect, message, write)))
            continue
        joins = dialect.joins_results
        before = joins and place > 0 and spoken[place - 1]["role"] == "tool"
        after = joins and place + 1 < len(spoken) and spoken[place + 1]["role"] == "tool"
        result = dialect.result_before + message["content"] + dialect.result_after
        opening = "\n" if before else _open(dialect, dialect.result_role)
        parts.append(opening + result + ("" if after else dialect.close))
    return "".join([*parts, _open(dialect, "assistant"), dialect.answer])


def _open(dialect: Dialect, role: str) -> str:
    return dialect.open + role + dialect.opened


def _turn(dialect: Dialect, role: str, content: str) -> str:
    return _open(dialect, role) + content + dialect.close


def _show_tools(dialect: Dialect, tools: Chat, *, told: str, write: Callable[[Any], str]) -> str:
    if not tools:
        return ""
    before, after = dialect.tool_line
    lines = [before + _show_tool(dialect, tool, write) + after for tool in tools]
    gap = dialect.system_gap if told else ""
    return gap + dialect.tools_before + "".join(lines) + dialect.tools_after


def _show_tool(dialect: Dialect, tool: Mapping[str, Any], write: Callable[[Any], str]) -> str:
    if dialect.tools == "schemas":
        return write(tool)
    function = tool["function"]
    return f"{function['name']}({', '.join(function['parameters']['properties'])})"


def _say(dialect: Dialect, message: Mapping[str, Any], write: Callable[[Any], str]) -> str:
    content: str = message.get("content") or ""
    calls = [
        dialect.call_before
        + write(call["function"]["name"])
        + dialect.call_between
        + write(call["function"]["arguments"])
        + dialect.call_after
        for call in message.get("tool_calls") or ()
    ]
    gap = dialect.text_gap if content and calls else ""
    return content + gap + dialect.call_gap.join(calls)


def recognise(apply: Apply) -> Dialect:
    """Return the dialect that says what a template says, in every probe.

    Raises:
        InputError: if there is none.
    """
    try:
        said = [apply(*probe) for probe in PROBES]
    except UnusableTemplate:
        said = []
    for dialect in DIALECTS if said else ():
        bos, found, _ = said[0].partition(dialect.open)
        if not found:
            continue
        spoken = msgspec.structs.replace(dialect, bos=bos)
        if said == [speak(spoken, *probe) for probe in PROBES]:
            return spoken
    names = ", ".join(dialect.name for dialect in DIALECTS)
    raise InputError(
        "Ollama has templates of its own, and none is known for the chat template that this run "
        f"was trained with; known are those of {names}: use --gguf with llama.cpp, which reads "
        'the template itself, or train with model.template = "chatml"'
    )


def _tool(name: str, **parameters: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"what {name} does",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in parameters.items()},
                "required": list(parameters),
            },
        },
    }


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


_TOOLS = [_tool("read_lamp", room="string"), _tool("set_lamp", level="integer", room="string")]
_ASK = {"role": "user", "content": "how bright is it?"}
_TOLD = {"role": "system", "content": "be brief"}
_CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [_call("read_lamp", room="hall"), _call("set_lamp", level=3, room="hall")],
}
_RESULTS = [
    {"role": "tool", "content": "level 2", "tool_call_id": "call_1", "name": "read_lamp"},
    {"role": "tool", "content": "done", "tool_call_id": "call_1", "name": "set_lamp"},
]
_SAID = {"role": "assistant", "content": "It is bright."}
PROBES: tuple[tuple[Chat, Chat], ...] = (
    ([_ASK], []),
    ([_TOLD, _ASK], []),
    ([_TOLD, _ASK], _TOOLS),
    ([_TOLD, _ASK, _SAID, _ASK], _TOOLS[:1]),
    ([_TOLD, _ASK, _CALLS, *_RESULTS], _TOOLS),
    (
        [
            *(_TOLD, _ASK),
            {**_CALLS, "content": "let me see", "tool_calls": _CALLS["tool_calls"][:1]},
            *(_RESULTS[0], _SAID, {"role": "user", "content": "  thanks, näch \n"}),
        ],
        _TOOLS,
    ),
)
"""Conversations that tell dialects apart: with and without a system and tools, several turns, calls
with and without a text, several calls and results.

Every one that has tools has a system, because the built-in model's template puts tools into the
first message, whichever that is."""

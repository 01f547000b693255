"""A message that is told while it is being written.

The parser reads whole texts only, and what it makes of the end of one may change with the next
letter: a mark may be half there, a call may not be closed. So a text is cut where later letters can
change nothing before the cut, that part is parsed, and what is new in the message is told. Whatever
the pieces, what was told adds up to the message that the parser makes of the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from trustee.endpoint.streamed_text import hold_back
from trustee.rendering.call_parser import CallFormat, parse_message
from trustee.types import Message, Record, Tool, ToolCall

THINK, THOUGHT_END = "<think>", "</think>"
CALL, CALL_END = "<tool_call>", "</tool_call>"
"""Hermes calls are told as soon as they are closed; those of other formats, at the end."""
PLAIN = re.compile(THINK)
OPENERS = {
    CallFormat.HERMES: re.compile(r"<think>|<tool_call>"),
    CallFormat.HERMES_OR_JSON: re.compile(r"<think>|<tool_call>|[\[{`]"),
    CallFormat.LLAMA3_JSON: re.compile(r"<think>|<\|python_tag\|>|[\[{]"),
    CallFormat.QWEN3_CODER: re.compile(r"<think>|<tool_call>|<function="),
    CallFormat.MISTRAL: re.compile(r"<think>|\[TOOL_CALLS\]"),
}
"""Where something other than plain text may begin."""
MARKS = (
    *("<think>", "<tool_call>", "<|python_tag|>", "<function=", "[TOOL_CALLS]"),
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>"),
)
"""Marks that a tail of a text may be the beginning of."""
TURN_MARK = re.compile(r"(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|<\|eom_id\|>)\s*\Z")
"""A mark that the parser leaves out where it ends a text."""


class Delta(Record, frozen=True):
    """What is new in a message; one field is set."""

    content: str = ""
    thinking: str = ""
    call: ToolCall | None = None


def content_of(message: Message) -> str:
    """Return what is said beside calls; a call that could not be read exists only as text."""
    bad = [call.text for call in message.calls if not isinstance(call, ToolCall)]
    return "\n".join(filter(None, (message.content, *bad)))


def read_plain(text: str) -> Message:
    """Return a message in which nothing is a call, whatever it looks like."""
    said, thought, at = [], [], 0
    text = TURN_MARK.sub("", text)
    while at < len(text):
        begin = text.find(THINK, at)
        begin = len(text) if begin < 0 else begin
        said.append(text[at:begin].strip())
        end = text.find(THOUGHT_END, begin)
        end = len(text) if end < 0 else end
        thought.append(text[begin + len(THINK) : end].strip())
        at = end + len(THOUGHT_END)
    return Message(
        role="assistant",
        content="\n".join(filter(None, said)),
        thinking="\n".join(filter(None, thought)),
    )


class StreamedMessage:
    """Tells a message's parts as its text grows."""

    def __init__(
        self, format: CallFormat | None, *, call_prefix: str = "", tools: Sequence[Tool] = ()
    ) -> None:
        self._format = format
        """How the model writes calls; None: nothing is a call."""
        self._call_prefix = call_prefix
        self._tools = tools
        self._told = Message(role="assistant")
        self._settled = 0
        """End of the last thought or call that was told."""

    def grow(self, text: str) -> tuple[Delta, ...]:
        """Return what is new for sure; `text` is all so far."""
        return tuple(self._tell(self._parse(text[: self._cut(text)])))

    def end(self, text: str) -> tuple[Message, tuple[Delta, ...]]:
        """Return the whole message, and what of it has not been told."""
        message = self._parse(text)
        return message, tuple(self._tell(message))

    def _parse(self, text: str) -> Message:
        if self._format is None:
            return read_plain(text)
        return parse_message(text, self._format, call_prefix=self._call_prefix, tools=self._tools)

    def _cut(self, text: str) -> int:
        """Return the place before which later letters change nothing."""
        openers = PLAIN if self._format is None else OPENERS[self._format]
        while opened := openers.search(text, self._settled):
            if opened.group() == THINK:
                end = text.find(THOUGHT_END, opened.end())
                if end < 0:
                    return max(opened.end(), hold_back(text, (THOUGHT_END,)))
                self._settled = end + len(THOUGHT_END)
                continue
            end = self._find_end(text, opened)
            if end < 0:
                return opened.start()
            self._settled = end
        tail = TURN_MARK.search(text)
        return hold_back(text, MARKS) if tail is None else tail.start()

    def _find_end(self, text: str, opened: re.Match[str]) -> int:
        """Return the end of a call that is read whole and closed; -1 if there is none yet."""
        if self._format is not CallFormat.HERMES or opened.group() != CALL:
            return -1
        at = opened.end()
        while (found := text.find(CALL_END, at)) >= 0:
            at = found + len(CALL_END)
            calls = self._parse(text[opened.start() : at]).calls
            if calls and all(isinstance(call, ToolCall) for call in calls):
                return at
        return -1

    def _tell(self, message: Message) -> Iterator[Delta]:
        told = self._told
        if len(message.thinking) > len(told.thinking):
            yield Delta(thinking=message.thinking[len(told.thinking) :])
        before, content = content_of(told), content_of(message)
        if len(content) > len(before):
            yield Delta(content=content[len(before) :])
        for call in message.calls[len(told.calls) :]:
            if isinstance(call, ToolCall):
                yield Delta(call=call)
        self._told = message

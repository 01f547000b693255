"""The only place that converts between messages and token ids.

Tokens in, tokens out: what was sampled is never rendered again. Only the first prompt, and the text
between one completion and the next, are rendered with the model's chat template. The text in
between is taken from a conversation of three messages, so its cost does not grow with the episode.

Contents cannot forge marks. A mark is a text that the tokenizer turns into a single special id,
such as `<|im_start|>`. Before rendering, a guard is inserted after the first character of every
mark inside a content, a call or a tool; the rendered text is split at the guards and each piece is
encoded separately. Without such look-alikes there is one piece, so the ids are exactly those of the
template's text; with them the text is still the same, and the look-alikes are ordinary tokens.

Where an episode intentionally differs from the template's text for the whole conversation:

| template | the template | an episode |
|---|---|---|
| Qwen3 | leaves out the thinking of earlier turns | keeps it, as it was sampled |
| Qwen3, thinking off | leaves out earlier empty thoughts | keeps them, as they were prompted |
| Qwen3 | treats a user text in `<tool_response>` marks as a tool's answer | does not |
| Llama 3.1 | leaves out text next to a call, refuses two calls | keeps what was sampled |
| any | writes calls in its own spacing | keeps what was sampled |
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from trustee.errors import InputError
from trustee.rendering.call_parser import CallFormat, parse_message
from trustee.rendering.chat_templates import PLAIN, ChatStyle, UnusableTemplate, naming_a_way_out
from trustee.rendering.marks import Marks
from trustee.rendering.openai_form import as_dicts
from trustee.rendering.thoughts import (
    ANSWER,
    BEGIN,
    THOUGHT,
    ThoughtMarks,
    find_marks,
    opens_thought,
)
from trustee.rendering.tokenizer import FolderTokenizer, Tokenizer
from trustee.types import Call, Message, Tool, ToolCall


class Renderer:
    """Converts messages to ids and back, for one model."""

    def __init__(
        self, tokenizer: Tokenizer, *, call_format: CallFormat, style: ChatStyle = PLAIN
    ) -> None:
        self.call_format = call_format
        self._style = style
        self._tokenizer = tokenizer
        self._marks = Marks(tokenizer.marks)

    @classmethod
    def load(cls, folder: Path, style: ChatStyle = PLAIN) -> Renderer:
        """Load a model's tokenizer and chat template.

        Args:
            folder: a Hugging Face model folder; nothing is downloaded and no code in it is run.
            style: what the folder does not say, or says otherwise.

        Raises:
            InputError: if the folder has no usable tokenizer, or the template is not usable.
        """
        tokenizer = FolderTokenizer(folder, style)
        with naming_a_way_out(style.template, tokenizer.marks):
            format = style.call_format or _find_call_format(tokenizer)
        return cls(tokenizer, call_format=format, style=style)

    @property
    def thinking(self) -> bool:
        """Whether the template is told that the model thinks."""
        return self._style.thinking

    def with_thinking(self, thinking: bool) -> Renderer:
        """Return the renderer of the same model, whose template is told whether it thinks."""
        if thinking == self.thinking:
            return self
        style = msgspec.structs.replace(self._style, thinking=thinking)
        tokenizer = self._tokenizer.with_thinking(thinking)
        return Renderer(tokenizer, call_format=self.call_format, style=style)

    @property
    def knows_thinking(self) -> bool:
        """Whether the template reads the switch for thinking, or writes thoughts."""
        question = (_PROBE_QUESTION,)
        if self.open(question, ()) != self.with_thinking(not self.thinking).open(question, ()):
            return True
        try:
            return bool(self.thought_marks)
        except UnusableTemplate:
            return False

    @property
    def opens_thought(self) -> bool:
        """Whether every prompt begins a thought."""
        return opens_thought(self._generation_prompt)

    @cached_property
    def thought_marks(self) -> ThoughtMarks:
        """The ids around a thought that follows a prompt.

        Raises:
            UnusableTemplate: if the end of a thought cannot be told.
        """
        said = Message(role="assistant", thinking=THOUGHT, content=ANSWER)
        written = self._tokenizer.apply(
            as_dicts((_PROBE_QUESTION, said), calls=()), (), add_generation_prompt=False
        )
        return find_marks(
            written, generation_prompt=self._generation_prompt, encode=self._tokenizer.encode
        )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion."""
        return self._tokenizer.stop_ids

    def open(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        """Render the first prompt, including the generation prompt.

        Raises:
            InputError: if the template refuses the messages.
        """
        schemas = [tool.schema for tool in tools]
        (rendered, schemas), guard = self._marks.guard([as_dicts(messages, calls=()), schemas])
        text = self._tokenizer.apply(rendered, schemas, add_generation_prompt=True)
        return self._encode_guarded(text, guard=guard)

    def extend(
        self,
        completion_ids: Sequence[int],
        replies: Sequence[Message],
        *,
        calls: Sequence[Call] = (),
    ) -> tuple[int, ...]:
        """Render what follows a completion: the end of turn if missing, replies, the next prompt.

        Args:
            completion_ids: what was sampled; only the last id matters, and any stop id ends the
                turn.
            replies: the environment's answers.
            calls: the calls that were answered, for templates that name the tool in its answer.

        Raises:
            InputError: if the template refuses the replies.
        """
        rendered, guard = self._marks.guard(as_dicts(replies, calls=calls))
        tail = self._tail(rendered, seam=f"{guard}{guard}")
        if completion_ids and completion_ids[-1] in self.stop_ids:
            tail = tail.removeprefix(self.end_of_turn)
        return self._encode_guarded(tail, guard=guard)

    def complete(self, message: Message) -> tuple[int, ...]:
        """Render what the policy would sample to say `message`, with the stop id last.

        The text after the prompt is encoded by itself, as sampling begins after the prompt's last
        id: a text that begins with a line break does not merge with the one that ends the prompt.

        Raises:
            InputError: if the template does not write the message between its own marks.
        """
        rendered, guard = self._marks.guard(as_dicts((_PROBE_QUESTION, message), calls=()))
        before = self._tokenizer.apply(rendered[:1], (), add_generation_prompt=True)
        whole = self._tokenizer.apply(rendered, (), add_generation_prompt=False)
        text, ended, _ = whole.removeprefix(before).rpartition(self.end_of_turn or guard)
        if not whole.startswith(before) or not ended:
            raise InputError(
                "the chat template does not write the assistant's message between its own marks: "
                f"{whole.replace(guard, '')[-120:]!r}"
            )
        return self._encode_guarded(text + self.end_of_turn, guard=guard)

    def normalise(self, text: str) -> str:
        """Return a text as the tokenizer's normaliser spells it, which is how ids decode."""
        return self._tokenizer.normalise(text)

    def parse(self, ids: Sequence[int], *, call_prefix: str, tools: Sequence[Tool] = ()) -> Message:
        """Parse a completion; see `parse_message`."""
        ended = bool(ids) and ids[-1] in self.stop_ids
        text = self.decode(ids[:-1] if ended else ids)
        if self.opens_thought:
            text = f"{BEGIN}{text}"
        return parse_message(text, self.call_format, call_prefix=call_prefix, tools=tools)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, including marks."""
        return self._tokenizer.decode(ids)

    def self_test(self) -> None:
        """Check that this model can be trained token by token.

        Raises:
            InputError: if an episode's ids would differ from the template's text, if a call that
                the template writes is not read back, or if no stop id ends a turn.
        """
        self._test_vocabulary()
        with naming_a_way_out(self._style.template, self._tokenizer.marks):
            self._test_turns()
            self._test_forgery()
            self._test_call()
            self._test_prefix()
            self._test_thoughts()

    def _encode_guarded(self, text: str, *, guard: str) -> tuple[int, ...]:
        return tuple(itertools.chain.from_iterable(map(self._tokenizer.encode, text.split(guard))))

    def _tail(self, replies: Sequence[Mapping[str, Any]], *, seam: str) -> str:
        """Render the text after an assistant message's content, up to and including `replies`."""
        messages = [
            {"role": "user", "content": "."},
            {"role": "assistant", "content": seam},
            *replies,
        ]
        text = self._tokenizer.apply(messages, (), add_generation_prompt=True)
        _, found, tail = text.rpartition(seam)
        if not found:
            raise _unusable("it leaves out the assistant's messages")
        return tail

    @cached_property
    def end_of_turn(self) -> str:
        """The mark after an assistant message; empty if there is none."""
        mark = self._marks.pattern.match(self._tail((), seam="seam"))
        return mark.group() if mark else ""

    @cached_property
    def _generation_prompt(self) -> str:
        messages = [{"role": "user", "content": "."}]
        bare = self._tokenizer.apply(messages, (), add_generation_prompt=False)
        return self._tokenizer.apply(messages, (), add_generation_prompt=True).removeprefix(bare)

    def _test_vocabulary(self) -> None:
        mark_ids: set[int] = set()
        for mark in sorted(self._tokenizer.marks):
            ids = self._tokenizer.encode(mark)
            if len(ids) != 1:
                raise _refusal(f"its mark {mark} is encoded as {len(ids)} ids instead of one")
            mark_ids.update(ids)
        for mark in sorted(self._tokenizer.marks):
            halves = [*self._tokenizer.encode(mark[0]), *self._tokenizer.encode(mark[1:])]
            if not mark_ids.isdisjoint(halves):
                raise _refusal(f"its mark {mark} without its first character is still a mark")
        decoded = self.decode(self._tokenizer.encode(_PROBE_TEXT))
        if decoded != _PROBE_TEXT:
            raise _refusal(f"its tokenizer turns {_PROBE_TEXT!r} into {decoded!r}")

    def _test_turns(self) -> None:
        if not self._generation_prompt:
            raise _unusable("it has no generation prompt")
        end = self._tokenizer.encode(self.end_of_turn) if self.end_of_turn else []
        if not end:
            raise _unusable("no mark directly follows an assistant message")
        if end[0] not in self.stop_ids:
            raise _refusal(
                f"it ends a turn with {self.end_of_turn} (id {end[0]}), which is not one of the "
                f"stop ids {list(self.stop_ids)}; add it to eos_token_id in generation_config.json"
            )
        prompt = self.decode(self.open(_PROBE_START, (_PROBE_TOOL,)))
        shown = [message.content for message in _PROBE_START]
        for text in (*shown, _PROBE_TOOL.name, *_PROBE_CALL.arguments):
            if text not in prompt:
                raise _unusable(f"it leaves {text!r} out of the first prompt")
        for reply in (_PROBE_RESULT, _PROBE_QUESTION):
            if reply.content not in self.decode(self.extend((), (reply,), calls=(_PROBE_CALL,))):
                raise _unusable(f"it leaves out messages of role {reply.role}")

    def _test_forgery(self) -> None:
        forged = Message(role="user", content=" ".join(sorted(self._tokenizer.marks)))
        honest = self._marks_in(self.open((_PROBE_QUESTION,), ()))
        if self._marks_in(self.open((forged,), ())) != honest:
            raise _refusal("marks inside a message become marks of the prompt")

    def _marks_in(self, ids: Sequence[int]) -> list[int]:
        mark_ids = {self._tokenizer.encode(mark)[0] for mark in self._tokenizer.marks}
        return [id for id in ids if id in mark_ids]

    def _test_call(self) -> None:
        message = Message(role="assistant", calls=(_PROBE_CALL,))
        text = self._written(_PROBE_START, message)
        parsed = self.parse(self._tokenizer.encode(text), call_prefix="", tools=(_PROBE_TOOL,))
        if parsed != message:
            raise _unusable(
                f"as {self.call_format} its call {text!r} is read as content "
                f"{parsed.content!r} and calls {list(parsed.calls)}"
            )

    def _test_prefix(self) -> None:
        """Play an episode whose completions are the template's own text, and compare."""
        history = [*_PROBE_START]
        ids = [*self.open(history, (_PROBE_TOOL,))]
        for said, reply in (
            (Message(role="assistant", calls=(_PROBE_CALL,)), _PROBE_RESULT),
            (Message(role="assistant", content="It is there."), _PROBE_QUESTION),
        ):
            completion = self._tokenizer.encode(self._written(history, said) + self.end_of_turn)
            ids += completion
            ids += self.extend(completion, (reply,), calls=said.calls)
            history += [said, reply]
            played = _without_thoughts(self.decode(ids))
            whole = _without_thoughts(self._text(history, add_generation_prompt=True))
            if played != whole:
                at = next(i for i in itertools.count() if played[: i + 1] != whole[: i + 1])
                raise _unusable(
                    "its text of a conversation differs from that of the single turns: turn by "
                    f"turn it is {played[at : at + 40]!r}, as a whole {whole[at : at + 40]!r}"
                )

    def _test_thoughts(self) -> None:
        # Both ways, because roles of the simulator may think where the policy does not.
        _ = self.with_thinking(not self.thinking).open(_PROBE_START, (_PROBE_TOOL,))
        if self._style.cuts_thoughts:
            _ = self.with_thinking(True).thought_marks

    def _text(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        return self._tokenizer.apply(
            as_dicts(messages, calls=()),
            [_PROBE_TOOL.schema],
            add_generation_prompt=add_generation_prompt,
        )

    def _written(self, history: Sequence[Message], message: Message) -> str:
        """Return the template's text of an assistant message, up to the end of turn."""
        prompt = self._text(history, add_generation_prompt=True)
        whole = self._text([*history, message], add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise _unusable("its assistant messages do not begin with its generation prompt")
        written, ended, _ = whole[len(prompt) :].rpartition(self.end_of_turn)
        if not ended:
            raise _unusable(f"no {self.end_of_turn} ends an assistant message that calls a tool")
        return written


def _find_call_format(tokenizer: Tokenizer) -> CallFormat:
    """Return the format that reads a call written by the template, trying the strictest first."""
    call = Message(role="assistant", calls=(_PROBE_CALL,))
    text = tokenizer.apply(
        as_dicts((_PROBE_QUESTION, call), calls=()), (), add_generation_prompt=False
    )
    for format in _STRICTEST_FIRST:
        parsed = parse_message(text, format, call_prefix="", tools=(_PROBE_TOOL,))
        if parsed.calls == call.calls:
            return format
    if _PROBE_CALL.name not in text:
        raise _unusable("it knows no tools: it leaves out what the assistant calls")
    raise _unusable(
        f"it writes calls in none of the formats {[str(known) for known in CallFormat]}, of which "
        f"model.call_format could name one: {text!r}"
    )


_STRICTEST_FIRST = (
    CallFormat.QWEN3_CODER,
    CallFormat.HERMES,
    CallFormat.MISTRAL,
    CallFormat.LLAMA3_JSON,
)
"""Without `HERMES_OR_JSON`: no template writes it, so only a config chooses it."""


def _without_thoughts(text: str) -> str:
    """Remove thoughts, which templates drop from earlier turns and episodes keep."""
    return re.sub(r"<think>.*?</think>\s*", "", text, flags=re.DOTALL)


def _unusable(reason: str) -> UnusableTemplate:
    return UnusableTemplate(f"this model's chat template or tokenizer cannot be used: {reason}")


def _refusal(reason: str) -> InputError:
    return InputError(f"{_unusable(reason)} (tokenizer files in the model folder)")


_PROBE_TEXT = "Zwölf 東京 🙂 {\"a\": [1, -2.5e3]}\n\n\tif x < y:  # 'quoted'\n"
_PROBE_TOOL = Tool(
    name="find_item",
    description="Finds an item by its key.",
    parameters={
        "type": "object",
        "properties": {
            "key": {"type": "string"},
            "count": {"type": "integer"},
            "exact": {"type": "boolean"},
            "within": {"type": "object"},
        },
    },
)
_PROBE_CALL = ToolCall(
    id="0",
    name="find_item",
    arguments={
        "key": 'a "b" </tool_call> c: 東京\n',
        "count": 2,
        "exact": True,
        "within": {"shelf": ["left", 3]},
    },
)
_PROBE_START = (
    Message(role="system", content="Answer briefly."),
    Message(role="user", content="Where is it?"),
)
_PROBE_RESULT = Message(role="tool", content="on the left shelf", call_id="0")
_PROBE_QUESTION = Message(role="user", content="And the other one?")

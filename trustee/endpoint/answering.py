"""Having the engine answer a chat request, and telling the answer while it is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import anyio
from msgspec.structs import replace

from trustee.endpoint.chat_request import ChatRequest
from trustee.endpoint.forced_call import Form, read_forced
from trustee.endpoint.refusals import Refused
from trustee.endpoint.streamed_message import Delta, StreamedMessage, content_of
from trustee.endpoint.streamed_text import StreamedText, cut_at_stops, hold_back
from trustee.engine.protocol import HeardEngine, Piece, Sampling, check_completion
from trustee.rendering.renderer import Renderer
from trustee.rendering.thoughts import BEGIN
from trustee.types import Adapter, Message, Record, ToolCall

Finish = Literal["stop", "length", "tool_calls"]
Tell = Callable[[Delta], None]


class Answer(Record, frozen=True):
    """A whole answer."""

    message: Message
    finish: Finish
    ids: tuple[int, ...]
    """Sampled ids, those of a thought and the stop id included."""
    logprobs: tuple[float, ...]
    prompt_tokens: int
    thought_tokens: int = 0
    cached: int = 0
    """Tokens of the prompt that the prefix cache held."""


@dataclass
class Heard:
    """What has been sampled in one request to the engine, and how it ended."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    """Text without the id that ended it, and up to the stop that was found in it."""
    stopped: bool = False
    """Whether the answer is whole, and not cut off at its limit."""
    cached: int = 0


async def answer(
    engine: HeardEngine,
    renderer: Renderer,
    request: ChatRequest,
    *,
    adapter: Adapter | None,
    tell: Tell = lambda delta: None,
) -> Answer:
    """Answer a request.

    Args:
        engine: what samples.
        renderer: the model's, as it was trained.
        request: what is asked.
        adapter: version that answers; None is the base.
        tell: receives the message in parts as it is sampled.

    Raises:
        Refused: if a thought did not end before the answer that must have a form.
        EngineError: if the engine gave no completion.
    """
    renderer = renderer.with_thinking(request.thinking)
    speaker = Speaker(engine, renderer, request, adapter=adapter)
    if request.form is None:
        return await _answer_freely(speaker, tell)
    return await _answer_in_form(speaker, request.form, tell)


class Speaker:
    """One request's access to the engine."""

    def __init__(
        self,
        engine: HeardEngine,
        renderer: Renderer,
        request: ChatRequest,
        *,
        adapter: Adapter | None,
    ) -> None:
        self.renderer = renderer
        self.request = request
        self._engine = engine
        self._adapter = adapter

    async def sample(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        part: str = "",
        stops: Sequence[str] = (),
        grown: Callable[[str], None] = lambda text: None,
    ) -> Heard:
        """Sample until the engine ends or a stop stands in the text; tell the text as it grows."""
        heard, streamed = Heard(), StreamedText(self.renderer.decode)
        ends = {*self.renderer.stop_ids, *sampling.stop_ids}
        with anyio.CancelScope() as scope:

            def hear(piece: Piece) -> None:
                heard.ids += piece.ids
                heard.logprobs += piece.logprobs
                text = streamed.add([id for id in piece.ids if id not in ends])
                heard.text, found = cut_at_stops(text, stops)
                if found:
                    heard.stopped = True
                    scope.cancel()
                grown(heard.text if found else text[: hold_back(text, stops)])

            completion = await self._engine.generate(
                ids,
                sampling,
                adapter=self._adapter,
                request_id=f"{self.request.id}{part}",
                hear=hear,
            )
            check_completion(completion, request_id=self.request.id)
            heard.cached = completion.cached
            if not heard.stopped:
                kept = completion.ids[:-1] if completion.ids[-1] in ends else completion.ids
                heard.text = self.renderer.decode(kept)
                heard.stopped = completion.stop == "stop"
        return heard


async def _answer_freely(speaker: Speaker, tell: Tell) -> Answer:
    request, renderer = speaker.request, speaker.renderer
    begun = BEGIN if renderer.opens_thought else ""
    streamed = StreamedMessage(
        renderer.call_format if request.tools else None,
        call_prefix=request.call_prefix,
        tools=request.tools,
    )
    calls = 0

    def pass_on(deltas: Sequence[Delta]) -> None:
        nonlocal calls
        for delta in deltas:
            calls += delta.call is not None
            if delta.call is None or calls == 1 or not request.one_call:
                tell(delta)

    heard = await speaker.sample(
        request.prompt,
        request.sampling,
        stops=request.stops,
        grown=lambda text: pass_on(streamed.grow(begun + text)),
    )
    message, rest = streamed.end(begun + heard.text)
    pass_on(rest)
    if request.one_call:
        message = replace(message, calls=message.calls[:1])
    return Answer(
        message=message,
        finish=_finish(message, stopped=heard.stopped),
        ids=tuple(heard.ids),
        logprobs=tuple(heard.logprobs),
        prompt_tokens=len(request.prompt),
        cached=heard.cached,
    )


async def _answer_in_form(speaker: Speaker, form: Form, tell: Tell) -> Answer:
    """Have the model think first, if it does, and then answer under the grammar."""
    request, sampling, prompt = speaker.request, speaker.request.sampling, speaker.request.prompt
    ids, room = [*prompt], sampling.max_tokens
    thought = Heard()
    if speaker.renderer.thinking or speaker.renderer.opens_thought:
        marks = speaker.renderer.thought_marks
        ids += marks.opening
        thought = await speaker.sample(
            ids, replace(sampling, stop_ids=(*sampling.stop_ids, marks.end)), part="-thought"
        )
        ids += [*thought.ids, *marks.after]
        room -= len(thought.ids) + len(marks.after)
        if not thought.ids or thought.ids[-1] != marks.end or room < 1:
            raise Refused(
                400,
                f"the model's thought left no room for its answer within {sampling.max_tokens} "
                "tokens; give a larger max_completion_tokens, or chat_template_kwargs "
                '{"enable_thinking": false}',
                param="max_completion_tokens",
            )
        tell(Delta(thinking=thought.text.strip()))
    heard = await speaker.sample(
        [*ids, *form.opening], replace(sampling, max_tokens=room, schema=form.schema)
    )
    read = read_forced(heard.text, form, call_prefix=request.call_prefix)
    message = replace(read, thinking=thought.text.strip())
    if content := content_of(message):
        tell(Delta(content=content))
    for call in message.calls:
        if isinstance(call, ToolCall):
            tell(Delta(call=call))
    return Answer(
        message=message,
        finish=_finish(message, stopped=heard.stopped),
        ids=(*thought.ids, *heard.ids),
        logprobs=(*thought.logprobs, *heard.logprobs),
        prompt_tokens=len(prompt),
        thought_tokens=len(thought.ids),
        cached=thought.cached or heard.cached,
    )


def _finish(message: Message, *, stopped: bool) -> Finish:
    if not stopped:
        return "length"
    return "tool_calls" if any(isinstance(call, ToolCall) for call in message.calls) else "stop"

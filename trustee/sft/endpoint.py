"""A teacher that is not here: any endpoint that speaks OpenAI's chat completions.

It knows messages only. Each episode has a seat of its own that keeps the conversation and stands
between: what the endpoint says is written as the policy would have sampled it, so what is recorded
is like any other episode. Off unless it is asked for; the key comes from the environment alone.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from trustee.engine.protocol import Sampling
from trustee.environments.hints import Hints
from trustee.errors import EngineError, InputError
from trustee.rendering.renderer import Renderer
from trustee.sft.demonstrations import plain, write_message
from trustee.sft.teacher import TeacherPlayer, add_hints
from trustee.types import Adapter, Call, Completion, Message, Tool, ToolCall

KEY = "TRUSTEE_TEACHER_KEY"
"""Environment variable with the endpoint's key; unset sends none."""
SECONDS = 120.0
"""Longest wait for one answer."""
SHOWN_ANSWER = 300
"""Characters of a refusal that an error shows."""


class ChatFunction(msgspec.Struct):
    """What is read of a call's function."""

    name: str
    arguments: str = "{}"


class ChatCall(msgspec.Struct):
    """What is read of a call."""

    function: ChatFunction


class ChatMessage(msgspec.Struct):
    """What is read of a message."""

    content: str | None = None
    tool_calls: tuple[ChatCall, ...] | None = None


class Choice(msgspec.Struct):
    """What is read of a choice."""

    message: ChatMessage
    finish_reason: str | None = None


class ChatCompletion(msgspec.Struct):
    """What is read of an endpoint's answer."""

    choices: tuple[Choice, ...]


class Unredirected(urllib.request.HTTPRedirectHandler):
    """Follows nobody: the key is for the endpoint that the user named."""

    def redirect_request(self, *details: Any) -> None:
        """Refuse."""
        return


class Endpoint:
    """Where the teacher is asked."""

    def __init__(self, url: str, *, model: str, parallel: int, seconds: float = SECONDS) -> None:
        if not url.startswith(("http://", "https://")) or not model:
            raise InputError(
                f"--teacher-url {url!r} with --teacher-model {model!r}: give an address such as "
                "https://host/v1 and the name of a model there"
            )
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._seconds = seconds
        self._limiter = anyio.CapacityLimiter(parallel)
        self._opener = urllib.request.build_opener(Unredirected)

    async def ask(self, body: Mapping[str, Any]) -> ChatMessage:
        """Ask for one message.

        Raises:
            EngineError: if there is no usable answer.
        """
        data = json.dumps({"model": self._model, **body}).encode()
        with anyio.move_on_after(2 * self._seconds):
            text = await anyio.to_thread.run_sync(
                self._post, data, abandon_on_cancel=True, limiter=self._limiter
            )
            return read_completion(text)
        raise EngineError(f"{self._url} gave no answer in {2 * self._seconds:g} s")

    def _post(self, data: bytes) -> bytes:
        key = os.environ.get(KEY, "")
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, data=data, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._seconds) as response:
                given: bytes = response.read()
                return given
        except urllib.error.HTTPError as error:
            said = error.read(4 * SHOWN_ANSWER).decode(errors="replace")
            if key:
                said = said.replace(key, "...")
            reason = f"{error.code} {error.reason}: {said[:SHOWN_ANSWER]}"
        except (OSError, ValueError) as error:
            reason = str(error)
        raise EngineError(f"{self._url} refused: {reason}")


def read_completion(text: bytes) -> ChatMessage:
    """Read an endpoint's answer.

    Raises:
        EngineError: if it is none, or was cut off.
    """
    try:
        choice = msgspec.json.decode(text, type=ChatCompletion).choices[0]
    except (msgspec.DecodeError, IndexError) as error:
        raise EngineError(
            f"the endpoint's answer is no chat completion ({error}): {text[:SHOWN_ANSWER]!r}"
        ) from error
    if choice.finish_reason == "length":
        raise EngineError("the endpoint's answer was cut off by its limit of tokens")
    return choice.message


class EndpointPlayer(TeacherPlayer):
    """A seat whose player is an endpoint; it is its own engine too."""

    def __init__(
        self,
        endpoint: Endpoint,
        renderer: Renderer,
        hints: Hints,
        *,
        prompt_set: str,
        context: int,
    ) -> None:
        super().__init__(self, renderer, hints, prompt_set=prompt_set)
        self._endpoint = endpoint
        self._context = context
        self._tools: tuple[Tool, ...] = ()
        self._said: list[Message] = []

    @property
    def context(self) -> int:
        """Longest prompt plus completion, in the policy's tokens."""
        return self._context

    def open(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        """Begin the conversation; the prompt that counts is the policy's."""
        super().open(messages, tools)
        self._tools = tuple(tools)
        self._said = list(add_hints(messages, self._hints, prompt_set=self._prompt_set))
        return self._opened

    def parse(self, ids: Sequence[int], *, call_prefix: str, tools: Sequence[Tool] = ()) -> Message:
        """Read what was said, under the ids that the world will answer to."""
        message = super().parse(ids, call_prefix=call_prefix, tools=tools)
        self._said.append(message)
        return message

    def extend(
        self,
        completion_ids: Sequence[int],
        replies: Sequence[Message],
        *,
        calls: Sequence[Call] = (),
    ) -> tuple[int, ...]:
        """Note the world's answer."""
        self._said += replies
        return super().extend(completion_ids, replies, calls=calls)

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, adapter: Adapter | None, request_id: str
    ) -> Completion:
        """Ask the endpoint, and write its answer as the policy would have sampled it.

        Raises:
            EngineError: if there is no answer, or one that the policy's format cannot hold.
        """
        body: dict[str, Any] = {
            "messages": [as_openai(message) for message in self._said],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        }
        if self._tools:
            body["tools"] = [tool.schema for tool in self._tools]
        message = as_message(await self._endpoint.ask(body))
        try:
            written = write_message(message, self._inner)
        except InputError as error:
            raise EngineError(f"{request_id}: {error}") from error
        read = self._inner.parse(written, call_prefix="", tools=self._tools)
        if plain(read) != plain(message):
            raise EngineError(f"{request_id}: the policy's format cannot hold what was said")
        if len(written) > sampling.max_tokens:
            raise EngineError(
                f"{request_id}: {len(written)} ids are more than the {sampling.max_tokens} of "
                "rollout.limits.tokens and the context"
            )
        return Completion(ids=written, logprobs=(0.0,) * len(written), stop="stop", version=0)

    async def publish(self, adapter: Adapter) -> None:
        """Know no versions."""

    async def retire(self, adapter: Adapter) -> None:
        """Know no versions."""


def as_openai(message: Message) -> dict[str, Any]:
    """Give a message in OpenAI's form."""
    form: dict[str, Any] = {"role": message.role, "content": message.content}
    calls = [call for call in message.calls if isinstance(call, ToolCall)]
    if calls:
        form["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call in calls
        ]
    if message.role == "tool":
        form["tool_call_id"] = message.call_id
    return form


def as_message(spoken: ChatMessage) -> Message:
    """Give an endpoint's message in this program's form.

    Raises:
        EngineError: if a call's arguments are no JSON object.
    """
    calls = []
    for number, call in enumerate(spoken.tool_calls or ()):
        try:
            arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise EngineError(
                f"the arguments of {call.function.name} are no JSON object: "
                f"{call.function.arguments[:SHOWN_ANSWER]!r}"
            ) from error
        calls.append(ToolCall(id=str(number), name=call.function.name, arguments=arguments))
    return Message(role="assistant", content=(spoken.content or "").strip(), calls=tuple(calls))

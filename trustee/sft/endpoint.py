"""A remote teacher: any endpoint that supports OpenAI's chat completions.

The endpoint exchanges messages only. Each episode has its own player, which keeps the conversation
and renders the endpoint's answers as the policy would have sampled them, so the recorded episode is
like any other. It is used only on request, and its key comes only from an environment variable.
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

from trustee.decoding import decode_json
from trustee.engine.protocol import Sampling
from trustee.environments.hints import Hints
from trustee.errors import EngineError, InputError
from trustee.rendering.renderer import Renderer
from trustee.sft.demonstrations import plain, write_message
from trustee.sft.teacher import TeacherPlayer, add_hints
from trustee.tools.values import write_json
from trustee.types import Adapter, Call, Completion, Message, Tool, ToolCall

KEY = "TRUSTEE_TEACHER_KEY"
"""Environment variable with the endpoint's key; if it is unset, no key is sent."""
SECONDS = 120.0
"""Network timeout of one request, in seconds."""
SHOWN_ANSWER = 300
"""Maximum number of characters of an answer that an error shows."""


class ChatFunction(msgspec.Struct):
    """The fields that are read of a call's function."""

    name: str
    arguments: str = "{}"


class ChatCall(msgspec.Struct):
    """The fields that are read of a call."""

    function: ChatFunction


class ChatMessage(msgspec.Struct):
    """The fields that are read of a message."""

    content: str | None = None
    tool_calls: tuple[ChatCall, ...] | None = None


class Choice(msgspec.Struct):
    """The fields that are read of a choice."""

    message: ChatMessage
    finish_reason: str | None = None


class ChatCompletion(msgspec.Struct):
    """The fields that are read of an endpoint's answer."""

    choices: tuple[Choice, ...]


class Unredirected(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, so the API key only ever reaches the host that the user named."""

    def redirect_request(self, *details: Any) -> None:
        """Return None, which refuses the redirect."""
        return


class Endpoint:
    """Client of the teacher's endpoint."""

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
        """Return one message from the endpoint.

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
        EngineError: if it is not a chat completion, or was cut off.
    """
    try:
        choice = decode_json(text, ChatCompletion, error=ValueError).choices[0]
    except (ValueError, IndexError) as error:
        raise EngineError(
            f"the endpoint's answer is not a chat completion ({error}): {text[:SHOWN_ANSWER]!r}"
        ) from error
    if choice.finish_reason == "length":
        raise EngineError("the endpoint's answer was cut off by its limit of tokens")
    return choice.message


class EndpointPlayer(TeacherPlayer):
    """A teacher whose answers come from an endpoint; it is its own renderer and engine."""

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
        """Maximum length of prompt plus completion, in the policy's tokens."""
        return self._context

    def open(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        """Begin the conversation and return the policy's own prompt, which is the one recorded."""
        super().open(messages, tools)
        self._tools = tuple(tools)
        self._said = list(add_hints(messages, self._hints, prompt_set=self._prompt_set))
        return self._opened

    def parse(self, ids: Sequence[int], *, call_prefix: str, tools: Sequence[Tool] = ()) -> Message:
        """Parse a completion and add it to the conversation, with the call ids of its replies."""
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
        """Render the world's replies and add them to the conversation."""
        self._said += replies
        return super().extend(completion_ids, replies, calls=calls)

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, adapter: Adapter | None, request_id: str
    ) -> Completion:
        """Ask the endpoint, and return its answer as the policy would have sampled it.

        Raises:
            EngineError: if there is no usable answer, or the policy's format cannot express it.
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
        """Do nothing; an endpoint has no adapters."""

    async def retire(self, adapter: Adapter) -> None:
        """Do nothing; an endpoint has no adapters."""


def as_openai(message: Message) -> dict[str, Any]:
    """Return a message in OpenAI's format."""
    form: dict[str, Any] = {"role": message.role, "content": message.content}
    calls = [call for call in message.calls if isinstance(call, ToolCall)]
    if calls:
        form["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": write_json(call.arguments)},
            }
            for call in calls
        ]
    if message.role == "tool":
        form["tool_call_id"] = message.call_id
    return form


def as_message(spoken: ChatMessage) -> Message:
    """Return an endpoint's message as a `Message`.

    Raises:
        EngineError: if a call's arguments are not a JSON object.
    """
    calls = []
    for number, call in enumerate(spoken.tool_calls or ()):
        try:
            given = call.function.arguments or "{}"
            arguments = decode_json(given, dict[str, Any], error=ValueError)
        except ValueError as error:
            raise EngineError(
                f"the arguments of {call.function.name} are not a JSON object: "
                f"{call.function.arguments[:SHOWN_ANSWER]!r}"
            ) from error
        calls.append(ToolCall(id=str(number), name=call.function.name, arguments=arguments))
    return Message(role="assistant", content=(spoken.content or "").strip(), calls=tuple(calls))

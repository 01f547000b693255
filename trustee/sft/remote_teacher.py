"""A remote teacher: any endpoint that supports OpenAI's chat completions.

The endpoint exchanges messages only. Each episode has its own player, which keeps the conversation
and renders the endpoint's answers as the policy would have sampled them, so the recorded episode is
like any other. It is used only on request, and its key comes only from an environment variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trustee.engine.protocol import Sampling
from trustee.environments.hints import Hints
from trustee.errors import EngineError, InputError
from trustee.rendering.renderer import Renderer
from trustee.sft.chat_format import as_openai
from trustee.sft.endpoint import Endpoint
from trustee.sft.samples import says_the_same, write_message
from trustee.sft.teacher import TeacherPlayer, add_hints
from trustee.types import Adapter, Call, Completion, Message, Tool


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
            "messages": as_openai(self._said),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        }
        if self._tools:
            body["tools"] = [tool.schema for tool in self._tools]
        message = await self._endpoint.ask(body)
        try:
            written = write_message(message, self._inner)
        except InputError as error:
            raise EngineError(f"{request_id}: {error}") from error
        read = self._inner.parse(written, call_prefix="", tools=self._tools)
        if not says_the_same(read, message, self._inner):
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

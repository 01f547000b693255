"""Reading a request for a chat completion, as OpenAI's API has it."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from trustee.decoding import decode_json
from trustee.endpoint.forced_call import Form, choose_tools, force_call
from trustee.endpoint.refusals import Refused
from trustee.endpoint.request_keys import check_keys
from trustee.engine.protocol import Sampling
from trustee.errors import InputError
from trustee.rendering.renderer import Renderer
from trustee.tools.chat import read_chat_messages, read_offered_tools
from trustee.types import Record, Tool

MOST_STOPS = 16
"""Number of texts at which an answer may be told to stop."""
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Tokens = Annotated[int, Meta(ge=1)]


class Sampled(msgspec.Struct, frozen=True):
    """What both routes say about sampling; null is the default."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = None
    stop_token_ids: tuple[Annotated[int, Meta(ge=0)], ...] | None = None
    max_tokens: Tokens | None = None

    def sampling(self, *, room: int, schema: str | None = None) -> Sampling:
        """Return the engine's settings for an answer of at most `room` tokens."""
        return Sampling(
            max_tokens=min(self.max_tokens or room, room),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            penalty=self.frequency_penalty or 0.0,
            stop_ids=self.stop_token_ids or (),
            seed=None if self.seed is None else self.seed % (1 << 31),
            schema=schema,
            priority=1,
        )


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream says besides the message."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatBody(Sampled, frozen=True, kw_only=True):
    """The body of a request; keys that have no effect here are looked at before."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    model: str | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    max_completion_tokens: Tokens | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class ChatRequest(Record, frozen=True):
    """A request as it is answered."""

    id: str
    model: str | None
    prompt: tuple[int, ...]
    sampling: Sampling
    tools: tuple[Tool, ...]
    """Tools that the model is offered."""
    form: Form | None
    """What the answer must look like, if that is said."""
    stops: tuple[str, ...]
    one_call: bool
    """Whether calls after the first are left out."""
    thinking: bool
    stream: bool
    usage: bool
    """Whether a stream ends with the number of tokens."""
    logprobs: bool

    @property
    def call_prefix(self) -> str:
        """Beginning of the ids of calls, unlike that of any other answer."""
        return f"call_{self.id.rpartition('-')[2]}_"


def read_body(data: bytes, kind: type[Any], *, nested: str = "") -> Any:
    """Read a body and refuse keys without effect, also those of the part `nested`.

    Raises:
        Refused: naming the key.
    """

    def error(why: str) -> Refused:
        return Refused(400, f"the body cannot be read: {why}")

    table = decode_json(data, error=error)
    if not isinstance(table, dict):
        raise Refused(400, "the body must be a JSON object")
    check_keys(table, {field.encode_name for field in msgspec.structs.fields(kind)})
    if nested and isinstance(inner := table.get(nested), dict):
        fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
        known = {field.encode_name for field in msgspec.structs.fields(fields[nested])}
        check_keys(inner, known, where=f"{nested}.")
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as caught:
        place = str(caught).rpartition("`$")[2].strip("`.") if "`$" in str(caught) else ""
        raise Refused(400, f"the body cannot be used: {caught}", param=place or None) from caught


def read_chat_request(data: bytes, renderer: Renderer, *, context: int) -> ChatRequest:
    """Read a request for a chat completion and render its prompt.

    Raises:
        Refused: if it cannot be answered as it is; the error names the key.
    """
    body: ChatBody = read_body(data, ChatBody)
    try:
        messages = read_chat_messages(body.messages)
        given = read_offered_tools(body.tools)
        thinking = read_thinking(body, renderer)
        renderer = renderer.with_thinking(thinking)
        tools, forced = choose_tools(body.tool_choice, given)
        prompt = renderer.open(messages, tools)
    except InputError as error:
        raise Refused(400, str(error)) from error
    form = force_call(renderer, forced) if forced else read_format(body, tools)
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stops) > MOST_STOPS or not all(stops):
        raise Refused(400, f"stop takes up to {MOST_STOPS} texts, none empty", param="stop")
    room = context - len(prompt) - (len(form.opening) if form else 0)
    if room < 1:
        raise Refused(
            400,
            f"the messages have {len(prompt)} tokens, and the model's context is {context}",
            param="messages",
        )
    most = body.max_completion_tokens or body.max_tokens
    sampled = msgspec.structs.replace(body, max_tokens=most)
    options = body.stream_options or StreamOptions()
    return ChatRequest(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        model=body.model,
        prompt=prompt,
        sampling=sampled.sampling(room=room),
        tools=tools,
        form=form,
        stops=stops,
        one_call=body.parallel_tool_calls is False,
        thinking=thinking,
        stream=bool(body.stream),
        usage=bool(options.include_usage),
        logprobs=bool(body.logprobs),
    )


def read_thinking(body: ChatBody, renderer: Renderer) -> bool:
    """Return whether the model thinks: as it was trained, unless the request says otherwise.

    Raises:
        Refused: if the request names another variable of the template.
    """
    given = dict(body.chat_template_kwargs or {})
    thinking = given.pop("enable_thinking", renderer.thinking)
    if given or not isinstance(thinking, bool):
        raise Refused(
            400,
            "chat_template_kwargs takes enable_thinking, true or false, and nothing else",
            param="chat_template_kwargs",
        )
    return thinking


def read_format(body: ChatBody, tools: tuple[Tool, ...]) -> Form | None:
    """Return the form of an answer that must be JSON.

    Raises:
        Refused: if the format is not known, or calls could not be made in it.
    """
    param = "response_format"
    match body.response_format:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            schema: Any = {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            pass
        case _:
            raise Refused(
                400,
                f"{param}.type must be text, json_object or json_schema, the last with "
                "json_schema.schema",
                param=param,
            )
    if tools:
        raise Refused(
            400,
            f'{param} leaves no room for calls; give tool_choice "none", or leave one of them out',
            param=param,
        )
    return Form(schema=msgspec.json.encode(schema).decode())

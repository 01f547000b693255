"""Requests to the simulator: a prompt in, a typed answer out.

The answer is JSON that a grammar enforces, decoded to its type and then checked by code. An answer
that fails the check is requested again with another seed, a limited and counted number of
times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Protocol, TypeVar

from msgspec import Meta

from trustee.decoding import decode_json
from trustee.engine.protocol import Engine, Sampling, check_completion
from trustee.errors import ContextError, SimulatorError
from trustee.types import Completion, Message, Record, Role, Tool

T = TypeVar("T")


class UnusableAnswer(ValueError):
    """What a role said is not its answer's type."""


class RoleSampling(Record, frozen=True):
    """Sampling settings of a role."""

    temperature: Annotated[float, Meta(ge=0)]
    """Sampling temperature of the role; 0 is greedy."""
    max_tokens: Annotated[int, Meta(ge=1)]
    """Most tokens of one message."""


class Asked(Record, frozen=True):
    """One request to a role, and what became of its answer."""

    role: Role
    prompt: str
    answer: str
    refusal: str | None
    """Why the answer was not used; None if it was."""
    attempt: int
    """Number of answers to the same request that were refused before."""
    read: int
    """Prompt tokens that the engine had to read."""
    cached: int
    """Prompt tokens that were in the prefix cache."""
    written: int
    """Sampled tokens."""


class ChatRenderer(Protocol):
    """The part of `rendering.Renderer` that the simulator needs."""

    def open(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        """Return the ids of messages up to the point where the model speaks."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        ...


class Simulator:
    """The frozen base model in the role that a prompt gives it."""

    def __init__(
        self,
        engine: Engine,
        renderer: ChatRenderer,
        *,
        sampling_by_role: Mapping[Role, RoleSampling],
        tries: int,
        observer: Callable[[Asked], None] | None = None,
    ) -> None:
        self._engine = engine
        self._renderer = renderer
        self._sampling_by_role = sampling_by_role
        self._tries = tries
        self._observer = observer
        """Called for every answer, used or refused."""
        self._requests = 0
        self.asked: Counter[str] = Counter()
        """Number of requests by role."""
        self.rejected: Counter[str] = Counter()
        """Number of answers rejected by code, by role."""
        self.tokens: Counter[str] = Counter()
        """Number of sampled tokens by role."""

    def measure(self, messages: Sequence[Message], tools: Sequence[Tool]) -> int:
        """Return the tokens of an opening, up to where the policy speaks."""
        return len(self._renderer.open(messages, tools))

    async def _sample(
        self, role: Role, ids: Sequence[int], schema: str, *, seed: int, attempt: int
    ) -> Completion:
        """Sample one answer; a rejected greedy answer would come again, so later ones are not."""
        settings = self._sampling_by_role[role]
        sampling = Sampling(
            max_tokens=settings.max_tokens,
            temperature=max(settings.temperature, 0.7) if attempt else settings.temperature,
            seed=(seed + attempt) % (1 << 31),
            schema=schema,
        )
        self._requests += 1
        request = f"{role}-{self._requests}"
        try:
            completion = await self._engine.generate(
                ids, sampling, adapter=None, request_id=request
            )
        except ContextError as error:
            raise SimulatorError(f"{role}: {error}", source=role) from error
        check_completion(completion, request_id=request)
        return completion

    async def ask(
        self,
        role: Role,
        prompt: str | Sequence[Message],
        *,
        answer: type[T],
        schema: str,
        seed: int,
        check: Callable[[T], str | None] = lambda answer: None,
    ) -> T:
        """Ask until an answer passes `check`, which returns the reason for a rejection or None.

        Raises:
            SimulatorError: if no try gave a usable answer; its source is the role.
        """
        if isinstance(prompt, str):
            prompt = (Message(role="user", content=prompt),)
        ids = self._renderer.open(prompt, ())
        reason = ""
        for attempt in range(self._tries):
            completion = await self._sample(role, ids, schema, seed=seed, attempt=attempt)
            self.asked[role] += 1
            self.tokens[role] += len(completion.ids)
            stops = self._renderer.stop_ids
            text = self._renderer.decode([i for i in completion.ids if i not in stops])
            refusal = None
            try:
                given = _read_answer(text, answer, check)
            except UnusableAnswer as error:
                refusal = str(error)
            if self._observer is not None:
                self._observer(
                    _describe(
                        role,
                        prompt,
                        completion,
                        length=len(ids),
                        text=text,
                        refusal=refusal,
                        attempt=attempt,
                    )
                )
            if refusal is None:
                return given
            reason = f"{refusal}: {text[:200]!r}"
            self.rejected[role] += 1
        raise SimulatorError(
            f"{role} gave no usable answer in {self._tries} tries; the last was {reason}",
            source=role,
        )


def _describe(
    role: Role,
    prompt: Sequence[Message],
    completion: Completion,
    *,
    length: int,
    text: str,
    refusal: str | None,
    attempt: int,
) -> Asked:
    return Asked(
        role=role,
        prompt="\n".join(f"[{message.role}] {message.content}" for message in prompt),
        answer=text,
        refusal=refusal,
        attempt=attempt,
        read=length - completion.cached,
        cached=completion.cached,
        written=len(completion.ids),
    )


def _read_answer(text: str, kind: type[T], check: Callable[[T], str | None]) -> T:
    """Decode and check an answer.

    Raises:
        UnusableAnswer: with the reason.
    """
    given = decode_json(
        text, kind, error=lambda why: UnusableAnswer(f"not the answer's type ({why})")
    )
    refusal = check(given)
    if refusal is not None:
        raise UnusableAnswer(refusal)
    return given

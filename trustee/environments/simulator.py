"""Requests to the simulator: a prompt in, a typed answer out.

The answer is JSON that a grammar enforces, decoded to its type and then checked by code. An answer
that fails the check is requested again with another seed, a limited and counted number of times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NamedTuple, TypeVar

from msgspec import Meta

from trustee.decoding import decode_json
from trustee.errors import SimulatorError
from trustee.types import Message, Record, Role, Tool

T = TypeVar("T")

COLD, WARM = 0.5, 0.7
"""A role below the first temperature is asked again at the second, because the same answer would
come again."""


class UnusableAnswer(ValueError):
    """What a role said is not its answer's type."""


class UnfinishedThought(UnusableAnswer):
    """A role was still thinking when its tokens or its turn ended."""


class RefusedAnswer(UnusableAnswer):
    """What a role said has its answer's type, and the check refused it."""


class RoleSampling(Record, frozen=True):
    """Sampling settings of a role."""

    temperature: Annotated[float, Meta(ge=0)]
    """Sampling temperature of the role; 0 is greedy."""
    max_tokens: Annotated[int, Meta(ge=1)]
    """Most tokens of one message, its thought included."""
    thinking: bool = False
    """Whether the role thinks before it answers. Its thought is free text, is shown to nobody, and
    must end within `max_tokens`."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Only the likeliest tokens that together have this probability are sampled."""
    top_k: Annotated[int, Meta(ge=0)] = 0
    """Only this many of the likeliest tokens are sampled; 0: all."""
    penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    """Taken from a token's logit for each time that the message has it already (frequency
    penalty); thought and answer count apart."""
    tries: Annotated[int, Meta(ge=1)] | None = None
    """Number of tries for one answer; none: `simulator.tries`."""


class SimulatorConfig(Record, frozen=True):
    """How the simulator's roles sample."""

    writer: RoleSampling = RoleSampling(temperature=1.0, max_tokens=1024)
    user: RoleSampling = RoleSampling(temperature=0.7, max_tokens=320)
    tool: RoleSampling = RoleSampling(temperature=0.3, max_tokens=768)
    judge: RoleSampling = RoleSampling(temperature=0.0, max_tokens=512)
    builder: RoleSampling = RoleSampling(temperature=0.8, max_tokens=2048)
    tries: Annotated[int, Meta(ge=1)] = 3
    """Number of tries for one answer before the episode counts as spoiled, where a role has no
    number of its own."""

    def find_too_long(self, context: int) -> Role | None:
        """Return a role that was given an answer as long as the context, or None."""
        defaults = SimulatorConfig()
        for role in (Role.WRITER, Role.USER, Role.TOOL, Role.JUDGE, Role.BUILDER):
            most, own = (getattr(c, role).max_tokens for c in (self, defaults))
            # A default that is too long for a small context is not the user's mistake.
            if most >= context and most != own:
                return role
        return None


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
    """Sampled tokens, those of the thought included."""
    thought: str = ""
    """What the role thought before its answer."""


class Spoken(NamedTuple):
    """What a role said in one try."""

    thought: str
    text: str
    read: int
    """Prompt tokens that the engine had to read."""
    cached: int
    written: int
    refusal: UnusableAnswer | None = None
    """Why there is no answer; None if there is one."""


class Simulator(ABC):
    """The frozen base model in the role that a prompt gives it; a subclass reaches the model."""

    def __init__(
        self,
        *,
        sampling_by_role: Mapping[Role, RoleSampling],
        tries: int,
        observer: Callable[[Asked], None] | None = None,
    ) -> None:
        self._sampling_by_role = sampling_by_role
        self._tries = tries
        self._observer = observer
        """Called for every answer, used or refused."""
        self.asked: Counter[str] = Counter()
        """Number of answers asked for, by role."""
        self.rejected: Counter[str] = Counter()
        """Number of answers rejected by code, by role."""
        self.refusals: Counter[str] = Counter()
        """The same by role and reason: `unfinished` thought, `unreadable` answer, or `refused`."""
        self.tokens: Counter[str] = Counter()
        """Number of sampled tokens by role, those of thoughts included."""
        self.read: Counter[str] = Counter()
        """Number of prompt tokens by role, cached or not."""

    @abstractmethod
    def measure(self, messages: Sequence[Message], tools: Sequence[Tool]) -> int:
        """Return the tokens of an opening, up to where the policy speaks."""

    @abstractmethod
    async def speak(
        self, role: Role, prompt: Sequence[Message], schema: str, *, seed: int, attempt: int
    ) -> Spoken:
        """Have a role think, if it does, and answer; one try.

        Raises:
            SimulatorError: if the role can give no answer, however often it is asked.
        """

    def heat(self, role: Role, attempt: int) -> float:
        """Return a try's temperature; a rejected cold answer would come again, so it rises."""
        temperature = self._sampling_by_role[role].temperature
        return WARM if attempt and temperature < COLD else temperature

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
        tries = self._sampling_by_role[role].tries or self._tries
        reason = ""
        for attempt in range(tries):
            spoken = await self.speak(role, prompt, schema, seed=seed, attempt=attempt)
            self.asked[role] += 1
            refusal: UnusableAnswer | None = None
            try:
                given = _read_answer(spoken, answer, check)
            except UnusableAnswer as error:
                refusal = error
            if self._observer is not None:
                self._observer(_describe(role, prompt, spoken, refusal=refusal, attempt=attempt))
            if refusal is None:
                return given
            reason = f"{refusal}: {(spoken.text or spoken.thought)[:200]!r}"
            self.rejected[role] += 1
            self.refusals[f"{role} {kind_of(refusal)}"] += 1
        raise SimulatorError(
            f"{role} gave no usable answer in {tries} tries; the last was {reason}",
            source=role,
        )


def kind_of(refusal: UnusableAnswer) -> str:
    """Return the word for why an answer was not used."""
    if isinstance(refusal, UnfinishedThought):
        return "unfinished"
    return "refused" if isinstance(refusal, RefusedAnswer) else "unreadable"


def _describe(
    role: Role,
    prompt: Sequence[Message],
    spoken: Spoken,
    *,
    refusal: UnusableAnswer | None,
    attempt: int,
) -> Asked:
    return Asked(
        role=role,
        prompt="\n".join(f"[{message.role}] {message.content}" for message in prompt),
        answer=spoken.text,
        refusal=None if refusal is None else str(refusal),
        attempt=attempt,
        read=spoken.read,
        cached=spoken.cached,
        written=spoken.written,
        thought=spoken.thought,
    )


def _read_answer(spoken: Spoken, kind: type[T], check: Callable[[T], str | None]) -> T:
    """Decode and check an answer.

    Raises:
        UnusableAnswer: with the reason.
    """
    if spoken.refusal is not None:
        raise spoken.refusal
    given = decode_json(
        spoken.text, kind, error=lambda why: UnusableAnswer(f"not the answer's type ({why})")
    )
    refusal = check(given)
    if refusal is not None:
        raise RefusedAnswer(refusal)
    return given

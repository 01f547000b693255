"""Requests to the simulator: a prompt in, a typed answer out.

The answer is JSON that a grammar enforces, decoded to its type and then checked by code. An answer
that fails the check is requested again with another seed, a limited and counted number of times.

A role that thinks is asked twice: for its thought, which is free text up to the mark that ends it,
and then for its answer, with the thought in front and the grammar from the first token. The engine
could switch a grammar on within one request, but finds the place by looking for the mark in the
whole prompt, where an earlier message may have it. A thought that does not end within the role's
tokens is a failed try, and no answer is looked for in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NamedTuple, Protocol, TypeVar

from msgspec import Meta

from trustee.decoding import decode_json
from trustee.engine.protocol import Engine, Sampling, check_completion
from trustee.errors import ContextError, SimulatorError
from trustee.rendering.thoughts import ThoughtMarks
from trustee.types import Completion, Message, Record, Role, Tool

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


class ChatRenderer(Protocol):
    """The part of `rendering.Renderer` that a request needs."""

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


class RoleRenderer(ChatRenderer, Protocol):
    """The part of `rendering.Renderer` that the simulator needs."""

    def with_thinking(self, thinking: bool) -> RoleRenderer:
        """Return the renderer of the same model with thinking on or off."""
        ...

    @property
    def thought_marks(self) -> ThoughtMarks:
        """The ids around a thought that follows a prompt."""
        ...


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


class Simulator:
    """The frozen base model in the role that a prompt gives it."""

    def __init__(
        self,
        engine: Engine,
        renderer: RoleRenderer,
        *,
        sampling_by_role: Mapping[Role, RoleSampling],
        tries: int,
        observer: Callable[[Asked], None] | None = None,
    ) -> None:
        self._engine = engine
        self._renderer = renderer
        """Renders what the policy says and hears."""
        self._silent = renderer.with_thinking(False)
        """Renders the prompts of roles that do not think."""
        self._thinking = renderer.with_thinking(True)
        self._sampling_by_role = sampling_by_role
        self._tries = tries
        self._observer = observer
        """Called for every answer, used or refused."""
        self._requests = 0
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

    def measure(self, messages: Sequence[Message], tools: Sequence[Tool]) -> int:
        """Return the tokens of an opening, up to where the policy speaks."""
        return len(self._renderer.open(messages, tools))

    async def _sample(
        self,
        role: Role,
        ids: Sequence[int],
        *,
        schema: str | None,
        max_tokens: int,
        stop_ids: tuple[int, ...] = (),
        seed: int,
        attempt: int,
    ) -> Completion:
        """Sample once; a rejected cold answer would come again, so later ones are warm."""
        settings = self._sampling_by_role[role]
        warm = attempt and settings.temperature < COLD
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=WARM if warm else settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            penalty=settings.penalty,
            stop_ids=stop_ids,
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
        self.tokens[role] += len(completion.ids)
        return completion

    async def _speak(
        self, role: Role, ids: tuple[int, ...], schema: str, *, seed: int, attempt: int
    ) -> Spoken:
        """Have a role think, if it does, and answer."""
        settings = self._sampling_by_role[role]
        room, thought, cached, written = settings.max_tokens, "", None, 0
        if settings.thinking:
            marks = self._thinking.thought_marks
            ids = (*ids, *marks.opening)
            thinking = await self._sample(
                role,
                ids,
                schema=None,
                max_tokens=room,
                stop_ids=(marks.end,),
                seed=seed,
                attempt=attempt,
            )
            thought = self._text(thinking.ids[:-1] if ended(thinking, marks) else thinking.ids)
            cached, written = thinking.cached, len(thinking.ids)
            room -= written + len(marks.after)
            if not ended(thinking, marks) or room < 1:
                why = f"its thought did not end within {settings.max_tokens} tokens"
                if thinking.stop == "stop" and not ended(thinking, marks):
                    why = "it ended its turn within its thought"
                return Spoken(
                    thought=thought,
                    text="",
                    read=len(ids) - cached,
                    cached=cached,
                    written=written,
                    refusal=UnfinishedThought(why),
                )
            ids = (*ids, *thinking.ids, *marks.after)
        answer = await self._sample(
            role, ids, schema=schema, max_tokens=room, seed=seed, attempt=attempt
        )
        # A thinking role's prompt was read for the thought; the answer's request finds it cached.
        cached = answer.cached if cached is None else cached
        return Spoken(
            thought=thought,
            text=self._text(answer.ids),
            read=len(ids) - written - cached,
            cached=cached,
            written=written + len(answer.ids),
        )

    def _text(self, ids: Sequence[int]) -> str:
        stops = self._silent.stop_ids
        return self._silent.decode([i for i in ids if i not in stops])

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
        settings = self._sampling_by_role[role]
        ids = (self._thinking if settings.thinking else self._silent).open(prompt, ())
        tries = settings.tries or self._tries
        reason = ""
        for attempt in range(tries):
            self.read[role] += len(ids)
            spoken = await self._speak(role, ids, schema, seed=seed, attempt=attempt)
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


def ended(thinking: Completion, marks: ThoughtMarks) -> bool:
    """Whether a thought was ended by its mark."""
    return bool(thinking.ids) and thinking.ids[-1] == marks.end


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

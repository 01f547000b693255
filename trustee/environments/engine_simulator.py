"""The simulator in an engine of this program: prompts as ids, thoughts and answers as ids.

A role that thinks is asked twice: for its thought, which is free text up to the mark that ends it,
and then for its answer, with the thought in front and the grammar from the first token. The engine
could switch a grammar on within one request, but finds the place by looking for the mark in the
whole prompt, where an earlier message may have it. A thought that does not end within the role's
tokens is a failed try, and no answer is looked for in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from trustee.engine.protocol import Engine, Sampling, check_completion
from trustee.environments.simulator import Asked, RoleSampling, Simulator, Spoken, UnfinishedThought
from trustee.errors import ContextError, SimulatorError
from trustee.rendering.thoughts import ThoughtMarks
from trustee.types import Completion, Message, Role, Tool


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


class EngineSimulator(Simulator):
    """The base in an engine of this program, asked in ids."""

    def __init__(
        self,
        engine: Engine,
        renderer: RoleRenderer,
        *,
        sampling_by_role: Mapping[Role, RoleSampling],
        tries: int,
        observer: Callable[[Asked], None] | None = None,
    ) -> None:
        super().__init__(sampling_by_role=sampling_by_role, tries=tries, observer=observer)
        self._engine = engine
        self._renderer = renderer
        """Renders what the policy says and hears."""
        self._silent = renderer.with_thinking(False)
        """Renders the prompts of roles that do not think."""
        self._thinking = renderer.with_thinking(True)
        self._requests = 0

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
        """Sample once."""
        settings = self._sampling_by_role[role]
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=self.heat(role, attempt),
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

    async def speak(
        self, role: Role, prompt: Sequence[Message], schema: str, *, seed: int, attempt: int
    ) -> Spoken:
        """Have a role think, if it does, and answer; one try.

        Raises:
            SimulatorError: if prompt and answer do not fit the context.
        """
        settings = self._sampling_by_role[role]
        ids = (self._thinking if settings.thinking else self._silent).open(prompt, ())
        self.read[role] += len(ids)
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


def ended(thinking: Completion, marks: ThoughtMarks) -> bool:
    """Whether a thought was ended by its mark."""
    return bool(thinking.ids) and thinking.ids[-1] == marks.end

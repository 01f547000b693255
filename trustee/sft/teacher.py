"""A teacher that plays in place of the policy and sees hints that are not recorded.

To the episode, a teacher is an engine and a renderer like any other. Its renderer opens the
conversation with the teacher's prompt. When the episode has ended, that opening is replaced by the
one that the policy would have had, so the recorded episode contains no hints.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trustee.engine.protocol import Engine
from trustee.environments.hints import Hints
from trustee.environments.prompts import fill_prompt
from trustee.rendering.renderer import Renderer
from trustee.rollout import EpisodeRenderer as PlayingRenderer
from trustee.types import Call, Message, Tool, Trajectory

TELLTALE = "private notes"
"""Name of the hints in the teacher's prompt; a message that contains it mentions the hints."""


class Player:
    """The engine and the renderer of one episode, and how its trajectory is recorded."""

    def __init__(self, engine: Engine, renderer: PlayingRenderer) -> None:
        self.engine = engine
        self.renderer = renderer

    def keep(self, trajectory: Trajectory) -> Trajectory:
        """Return the trajectory to record."""
        return trajectory


class TeacherPlayer(Player):
    """A player that is given the hints of one task; it is its own renderer."""

    def __init__(
        self, engine: Engine, renderer: Renderer, hints: Hints, *, prompt_set: str
    ) -> None:
        super().__init__(engine, self)
        self._inner = renderer
        self._hints = hints
        self._prompt_set = prompt_set
        self._opened: tuple[int, ...] = ()
        """The first prompt as the policy would have had it."""

    def open(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        """Render the teacher's first prompt, and keep the policy's."""
        self._opened = self._inner.open(messages, tools)
        told = add_hints(messages, self._hints, prompt_set=self._prompt_set)
        return self._inner.open(told, tools)

    def extend(
        self,
        completion_ids: Sequence[int],
        replies: Sequence[Message],
        *,
        calls: Sequence[Call] = (),
    ) -> tuple[int, ...]:
        """Render what follows a completion, as the policy would have had it."""
        return self._inner.extend(completion_ids, replies, calls=calls)

    def parse(self, ids: Sequence[int], *, call_prefix: str, tools: Sequence[Tool] = ()) -> Message:
        """Parse a completion into a message."""
        return self._inner.parse(ids, call_prefix=call_prefix, tools=tools)

    def keep(self, trajectory: Trajectory) -> Trajectory:
        """Return the trajectory with the policy's own opening."""
        if not trajectory.turns:
            return trajectory
        first, *rest = trajectory.turns
        first = msgspec.structs.replace(first, rendered_ids=self._opened)
        return msgspec.structs.replace(trajectory, turns=(first, *rest))


def add_hints(messages: Sequence[Message], hints: Hints, *, prompt_set: str) -> tuple[Message, ...]:
    """Return an opening whose system message gives the teacher its role and the hints."""
    rest = list(messages)
    system = rest.pop(0).content if rest and rest[0].role == "system" else ""
    content = fill_prompt(
        prompt_set, "teacher", system=system, hints="\n".join(hints.lines) or "none"
    )
    return (Message(role="system", content=content.strip()), *rest)

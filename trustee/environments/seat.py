"""Episodes whose loop the world owns: it asks the policy through a seat, in ids.

Other worlds give messages, and the loop of `rollout` renders them and asks the policy. A world that
runs another program's loop does both itself. The seat keeps the limits, the version and the exact
ids; the world gives back which of its completions are trained on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn, Protocol

from trustee.environments.protocol import PlainEpisode, Reply
from trustee.types import Call, Completion, Message, Record, Score, Stop, Tool, Turn


class Spoken(Record, frozen=True):
    """What the policy said to a prompt."""

    prompt: tuple[int, ...]
    """[P] all ids that the engine was given."""
    completion: Completion
    message: Message
    cut: Stop | None = None
    """The limit at which the message was cut off; None if it was not."""


class Played(Record, frozen=True):
    """An episode that a world has played to its end."""

    turns: tuple[Turn, ...]
    """What is trained on; a turn that does not go on from the one before is marked `anew`."""
    stop: Stop
    score: Score


class Seat(Protocol):
    """The policy's place in an episode."""

    @property
    def context(self) -> int:
        """Maximum number of ids of a prompt and its completion."""
        ...

    @property
    def turns(self) -> int:
        """Maximum number of messages of one speaker."""
        ...

    @property
    def tokens(self) -> int:
        """Maximum number of ids in one message."""
        ...

    def open(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        """Render a whole prompt.

        Raises:
            InputError: if the template refuses the messages; likewise below.
        """
        ...

    def extend(
        self,
        completion_ids: Sequence[int],
        replies: Sequence[Message],
        *,
        calls: Sequence[Call] = (),
    ) -> tuple[int, ...]:
        """Render what follows a completion."""
        ...

    async def speak(
        self,
        ids: Sequence[int],
        *,
        tools: Sequence[Tool] = (),
        speaker: str = "",
        most: int | None = None,
    ) -> Spoken | Stop:
        """Ask the policy.

        Args:
            ids: [P] the whole prompt.
            tools: the tools that the prompt shows.
            speaker: who speaks, where a world has the policy in several places; each has the limit
                of turns for itself.
            most: maximum number of ids that the world wants; None is the episode's own.

        Returns:
            What was said, or the limit because of which the policy may say no more.

        Raises:
            EngineError: if the engine gave no answer.
        """
        ...


class LoopOwner(PlainEpisode, ABC):
    """An environment that plays its episode itself."""

    @abstractmethod
    async def play(self, seat: Seat) -> Played:
        """Play the episode to its end.

        Raises:
            EpisodeError: if a part other than the policy failed.
        """

    async def reply(self, message: Message) -> Reply:
        """Answer nothing: the world asks the policy, and not the other way round."""
        self._refuse()

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Score nothing: `play` gives the score."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise AssertionError(f"{type(self).__name__} plays its episodes itself; call play")

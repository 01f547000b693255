"""Writing a task and playing an episode, with their limits and the handling of failures.

Token in, token out: the engine's ids are kept exactly as sampled, and only the environment's
replies are rendered and appended. The environment sees messages, the engine sees ids.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import anyio
from msgspec import Meta

from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Engine, Sampling, check_completion
from trustee.environments.protocol import Environment, Services, TaskSource, TaskSpec
from trustee.environments.scores import check_score
from trustee.environments.seat import LoopOwner, Spoken
from trustee.errors import EngineError, EpisodeError, InputError
from trustee.types import (
    Adapter,
    Call,
    Completion,
    Failure,
    Message,
    Record,
    Role,
    Score,
    Stop,
    Task,
    Tool,
    Trajectory,
    Turn,
)

CLOSING_SECONDS = 10
"""Seconds that an environment may take to close."""


class Limits(Record, frozen=True):
    """Limits of an episode."""

    turns: Annotated[int, Meta(ge=1)] = 12
    """Maximum number of policy messages."""
    tokens: Annotated[int, Meta(ge=1)] = 1024
    """Maximum number of ids in one policy message."""
    response: Annotated[int, Meta(ge=1)] | None = None
    """Number of ids after the first prompt, replies included, at which an episode ends; a message
    or reply that reaches it is the last. `none`: the context is the only limit."""
    turn_seconds: Annotated[float, Meta(gt=0)] = 300
    """Maximum seconds of one turn, including the environment's reply."""
    seconds: Annotated[float, Meta(gt=0)] = 900
    """Maximum seconds of an episode, not counting training steps. A slower episode counts as failed
    and gets no reward, because slowness is not the policy's fault."""

    def __post_init__(self) -> None:
        """Refuse a limit of a message that the limit of the whole response makes idle.

        Raises:
            InputError: if a message may have more ids than the response.
        """
        if self.response is not None and self.response < self.tokens:
            raise InputError(
                f"tokens ({self.tokens}) is never reached, because response ({self.response}) ends "
                "an episode before; lower the one or raise the other"
            )


class RolloutConfig(Record, frozen=True):
    """How episodes are played."""

    group_size: Annotated[int, Meta(ge=2)] = 8
    """Episodes per task; at least two, because rewards are compared within a group."""
    groups_per_step: Annotated[int, Meta(ge=1)] = 16
    """Tasks per optimiser step."""
    max_off_policy_steps: Annotated[int, Meta(ge=0)] = 1
    """Maximum age in steps of a group that is trained on; 0 makes training synchronous."""
    write_ahead: Annotated[int, Meta(ge=0)] = 8
    """Tasks written before a slot is free to play them, to keep the engine busy. They have the
    difficulty that was current when they were drawn."""
    parallel: Annotated[int, Meta(ge=1)] | None = None
    """Maximum number of concurrent episodes; with `none`, the slots are the only limit:
    (max_off_policy_steps + 1) x groups x group size."""
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    """Sampling temperature; only at 1 do raw logprobs match the sampling distribution."""
    limits: Limits = Limits()

    @property
    def slots(self) -> int:
        """Maximum number of groups in progress at once."""
        return (self.max_off_policy_steps + 1) * self.groups_per_step

    @property
    def episodes(self) -> int:
        """Maximum number of concurrent episodes."""
        return self.parallel or self.slots * self.group_size


class EpisodeRenderer(Protocol):
    """The part of `rendering.EpisodeRenderer` that playing needs."""

    def open(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        """Render the first prompt."""
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

    def parse(self, ids: Sequence[int], *, call_prefix: str, tools: Sequence[Tool] = ()) -> Message:
        """Parse a completion into a message."""
        ...


class EpisodeProgress:
    """The turns of an episode so far, kept separately so that a failure loses none."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.stop = Stop.FAILED
        self.score: Score | None = None
        self.waits_for = "the world to open"
        """What the episode is waiting for; error messages quote it."""


@dataclass(frozen=True, slots=True)
class EpisodePlayer:
    """Plays the episodes and writes the tasks of a job in one world, under the same limits."""

    make_environment: Callable[[Task, Services], Environment]
    """The world's `environment` method."""
    serve: Callable[[random.Random], Services]
    """Returns the services of one episode or task, which use the given random generator."""
    engine: Engine
    renderer: EpisodeRenderer
    clock: EngineClock
    limits: Limits
    temperature: float
    context: int
    """Maximum number of ids in an episode."""

    async def write(self, source: TaskSource, spec: TaskSpec, *, seed: str) -> Task | Failure:
        """Return the task that a source writes from a task spec, or the failure."""
        seconds = self.limits.seconds
        try:
            with self.clock.limit(seconds):
                return await source.write(spec, self.serve(random.Random(seed)))
        except EpisodeError as error:
            return _failure_of(error)
        message = f"task not written in {seconds:g} s (rollout.limits.seconds)"
        return Failure(source=Role.ENGINE, kind="TimeoutError", message=message)

    async def play(
        self, task: Task, *, trajectory_id: str, adapter: Adapter | None, seed: int
    ) -> Trajectory:
        """Play one attempt at a task and score it.

        Raises:
            Exception: any bug of an environment or of this program; only `EpisodeError` and the
                deadline become a `Trajectory.failure`.
        """
        environment = self.make_environment(task, self.serve(random.Random(seed)))
        progress = EpisodeProgress()
        failure: Failure | None = None
        try:
            with self.clock.limit(self.limits.seconds) as deadline:
                await self._play(
                    environment, progress, trajectory_id=trajectory_id, adapter=adapter, seed=seed
                )
            # A TimeoutError raised by the environment is a bug; only the deadline fails an episode.
            if deadline.cancelled_caught:
                message = (
                    f"not finished in {self.limits.seconds:g} s (rollout.limits.seconds); "
                    f"it waited for {progress.waits_for}"
                )
                failure = Failure(source=Role.ENGINE, kind="TimeoutError", message=message)
        except EpisodeError as error:
            failure = _failure_of(error)
        finally:
            with anyio.move_on_after(CLOSING_SECONDS, shield=True):
                await environment.aclose()
        score = progress.score or Score(rewards={})
        return Trajectory(
            id=trajectory_id,
            task_id=task.id,
            turns=tuple(progress.turns),
            stop=Stop.FAILED if failure else progress.stop,
            rewards={} if failure else score.rewards,
            outcome=score.outcome,
            notes=score.notes,
            failure=failure,
        )

    async def _play(
        self,
        environment: Environment,
        progress: EpisodeProgress,
        *,
        trajectory_id: str,
        adapter: Adapter | None,
        seed: int,
    ) -> None:
        if isinstance(environment, LoopOwner):
            seat = PolicySeat(self, trajectory_id=trajectory_id, adapter=adapter, seed=seed)
            await _let_play(environment, seat, progress)
            return
        limits, renderer = self.limits, self.renderer
        opening = await environment.open()
        rendered = renderer.open(opening.messages, opening.tools)
        length, prompt = 0, len(rendered)
        while True:
            index = len(progress.turns)
            length += len(rendered)
            room, bound = self.find_room(length, response=length - prompt)
            if room <= 0 or index == limits.turns:
                progress.stop = bound if room <= 0 else Stop.TURNS
                break
            request = f"{trajectory_id}/{index}"
            with self.clock.limit(limits.turn_seconds) as deadline:
                progress.waits_for = f"the policy's answer, request {request}"
                completion = await self.engine.generate(
                    _prompt(progress.turns, rendered),
                    Sampling(
                        max_tokens=min(limits.tokens, room),
                        temperature=self.temperature,
                        seed=(seed + index) % (1 << 31),
                        priority=1,
                    ),
                    adapter=adapter,
                    request_id=request,
                )
                check_completion(completion, request_id=request)
                length += len(completion.ids)
                message = renderer.parse(
                    completion.ids, call_prefix=f"{request}/", tools=opening.tools
                )
                full = limits.response is not None and length - prompt >= limits.response
                if completion.stop == "length" or full:
                    progress.turns.append(_turn(rendered, completion, message, ()))
                    progress.stop = bound if full or room < limits.tokens else Stop.TOKENS
                    break
                progress.waits_for = f"the world's reply to turn {index}"
                reply = await environment.reply(message)
            if deadline.cancelled_caught:
                raise _too_slow(f"turn {index}", limits, waits_for=progress.waits_for)
            progress.turns.append(_turn(rendered, completion, message, reply.messages))
            if reply.done:
                progress.stop = reply.stop
                break
            rendered = renderer.extend(completion.ids, reply.messages, calls=message.calls)
        progress.waits_for = "the score"
        progress.score = check_score(await environment.score(progress.turns, progress.stop))

    def find_room(self, length: int, *, response: int) -> tuple[int, Stop]:
        """Return how many ids an episode may still get, and what ends it there."""
        room = self.context - length
        if self.limits.response is not None and self.limits.response - response <= room:
            return self.limits.response - response, Stop.RESPONSE
        return room, Stop.CONTEXT


class PolicySeat:
    """The policy's place in an episode whose loop the world owns: limits, version and exact ids."""

    def __init__(
        self, player: EpisodePlayer, *, trajectory_id: str, adapter: Adapter | None, seed: int
    ) -> None:
        self._player = player
        self._id = trajectory_id
        self._adapter = adapter
        self._seed = seed
        self._first: int | None = None
        """Length of the first prompt."""
        self._said: Counter[str] = Counter()
        self.context = player.context
        self.turns = player.limits.turns
        self.tokens = player.limits.tokens
        self.open = player.renderer.open
        self.extend = player.renderer.extend

    async def speak(
        self,
        ids: Sequence[int],
        *,
        tools: Sequence[Tool] = (),
        speaker: str = "",
        most: int | None = None,
    ) -> Spoken | Stop:
        """Ask the policy; see `Seat`."""
        player, limits = self._player, self._player.limits
        if self._first is None:
            self._first = len(ids)
        room, bound = player.find_room(len(ids), response=len(ids) - self._first)
        if room <= 0 or self._said[speaker] == limits.turns:
            return bound if room <= 0 else Stop.TURNS
        index = self._said.total()
        self._said[speaker] += 1
        request = f"{self._id}/{index}"
        with player.clock.limit(limits.turn_seconds) as deadline:
            completion = await player.engine.generate(
                tuple(ids),
                Sampling(
                    max_tokens=min(limits.tokens, room, most or room),
                    temperature=player.temperature,
                    seed=(self._seed + index) % (1 << 31),
                    priority=1,
                ),
                adapter=self._adapter,
                request_id=request,
            )
        if deadline.cancelled_caught:
            raise _too_slow(f"request {request}", limits, waits_for="the policy's answer")
        check_completion(completion, request_id=request)
        message = player.renderer.parse(completion.ids, call_prefix=f"{request}/", tools=tools)
        cut = None
        if completion.stop == "length":
            cut = bound if room < min(limits.tokens, most or room) else Stop.TOKENS
        return Spoken(prompt=tuple(ids), completion=completion, message=message, cut=cut)


def _too_slow(what: str, limits: Limits, *, waits_for: str) -> EngineError:
    return EngineError(
        f"{what} took more than {limits.turn_seconds:g} s (rollout.limits.turn_seconds); "
        f"it waited for {waits_for}"
    )


async def _let_play(environment: LoopOwner, seat: PolicySeat, progress: EpisodeProgress) -> None:
    progress.waits_for = "the world, which plays the episode"
    played = await environment.play(seat)
    progress.turns += played.turns
    progress.stop = played.stop
    progress.score = check_score(played.score)


def _failure_of(error: EpisodeError) -> Failure:
    return Failure(source=error.source, kind=type(error).__name__, message=str(error))


def _prompt(turns: Sequence[Turn], rendered: Sequence[int]) -> tuple[int, ...]:
    """Return the ids for the engine to complete: all earlier ids, unchanged, and the new ones."""
    ids: list[int] = []
    for turn in turns:
        ids += turn.rendered_ids
        ids += turn.completion.ids
    return (*ids, *rendered)


def _turn(
    rendered: tuple[int, ...],
    completion: Completion,
    message: Message,
    replies: tuple[Message, ...],
) -> Turn:
    return Turn(rendered_ids=rendered, completion=completion, message=message, replies=replies)

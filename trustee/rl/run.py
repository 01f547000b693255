"""The state that the actors of one training run share."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from trustee.algorithm.config import LearnConfig
from trustee.algorithm.memory_ladder import LadderState, MemoryLadder
from trustee.checks.adapter_effect import EffectGate, EffectState
from trustee.checks.alarms import AlarmsState, Watch
from trustee.checks.config import GateConfig
from trustee.checks.forgetting import ForgettingGate
from trustee.engine.clock import EngineClock
from trustee.engine.versions import Versions
from trustee.engine.watchdog import Watchdog
from trustee.environments.protocol import Services, TaskSource, World
from trustee.environments.simulator import Simulator
from trustee.events import Emit
from trustee.rendering.renderer import Renderer
from trustee.rl.interim import Interim, InterimState, Measured
from trustee.rollout import EpisodePlayer, RolloutConfig
from trustee.runs.checkpoint import CheckpointState
from trustee.runs.store import Store
from trustee.sandbox.calls import Sandbox
from trustee.types import Group


class Slots:
    """The only back-pressure: slots for task specs, and for groups that are played or queued."""

    def __init__(self, rollout: RolloutConfig, *, taken: int) -> None:
        self.tasks = anyio.Semaphore(rollout.slots + rollout.write_ahead - taken)
        self.groups = anyio.Semaphore(rollout.slots - taken)

    def free(self, group: Group) -> None:
        """Release the slots of a group; a group without a task holds no group slot."""
        self.tasks.release()
        if group.task is not None:
            self.groups.release()


class GroupQueue:
    """Groups that are on disk but not yet trained on or dropped.

    `learn` receives them through a stream; this queue keeps them if the engine dies.
    """

    def __init__(self, groups: Iterable[Group] = ()) -> None:
        self._groups = {group.id: group for group in groups}

    def __len__(self) -> int:
        """Return the number of waiting groups."""
        return len(self._groups)

    def __iter__(self) -> Iterator[Group]:
        """Iterate over the groups in the order in which they were added."""
        return iter(self._groups.values())

    def add(self, group: Group) -> None:
        """Add a group that is on disk."""
        self._groups[group.id] = group

    def remove(self, group: Group) -> None:
        """Remove a group that was trained on or dropped."""
        del self._groups[group.id]

    def remove_newer(self, version: int) -> None:
        """Remove groups of versions after this one, which a restored run has not published yet."""
        self._groups = {
            number: group for number, group in self._groups.items() if group.version <= version
        }


class RunState(CheckpointState, frozen=True):
    """The state of a training run between two steps."""

    version: int
    next_group: int
    source: msgspec.Raw
    """State of the task source; only the source reads it."""
    watch: AlarmsState
    effect: EffectState
    ladder: LadderState
    """State of the memory ladder."""
    policy_tokens: int
    """Number of tokens that the policy has sampled."""
    seconds: float = 0.0
    """Seconds of training that are spent."""
    skipped: int = 0
    """Group numbers that were left out, because groups after an earlier checkpoint have them."""
    settings: dict[str, Any] = {}
    """Settings that the checkpoint depends on, by key."""
    interim: InterimState = InterimState()
    """What was measured between steps."""


@dataclass(slots=True)
class Run:
    """One training run: the parts and counters that its actors share."""

    world: World
    source: TaskSource
    engine: Watchdog
    """Watches the process that holds both the engine and the learner."""
    clock: EngineClock
    renderer: Renderer
    simulator: Simulator
    sandbox: Sandbox
    versions: Versions
    store: Store
    watch: Watch
    gates: GateConfig
    effect: EffectGate
    forgetting: ForgettingGate
    ladder: MemoryLadder
    rollout: RolloutConfig
    learning: LearnConfig
    seed: int
    steps: int
    minutes: float | None
    """Wall-clock minutes after which the run ends; None means no limit."""
    keep_checkpoints: int
    emit: Emit
    step: int = 0
    next_group: int = 0
    tokens: int | None = None
    """Number of policy tokens after which the run ends; None means no limit."""
    policy_tokens: int = 0
    """Number of tokens that the policy has sampled in the groups of all steps."""
    started_at: float = field(default_factory=time.monotonic)
    seconds_before: float = 0.0
    """Seconds of training that earlier processes of this run have spent."""
    skipped: int = 0
    """Group numbers that were left out: a group's number less these is that of its task spec."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that checkpoints depend on, by key."""
    background: TaskGroup | None = None
    """Tasks in which episodes keep connections."""
    untrained: GroupQueue = field(default_factory=GroupQueue)
    interim: Interim = field(default_factory=lambda: Interim(every=None, patience=None))
    """Measurements between steps."""
    measure: Callable[[Run], Awaitable[Measured]] | None = None
    """Plays the held-out tasks with the current version; None if there are none."""
    episode_limiter: anyio.CapacityLimiter = field(init=False)
    """Limits the number of concurrent episodes."""

    def __post_init__(self) -> None:
        """Limit concurrent episodes to what the memory ladder allows."""
        self.episode_limiter = anyio.CapacityLimiter(self.ladder.level.parallel)

    def player(self) -> EpisodePlayer:
        """Return a player for the next episode or task, with the ladder's current context."""
        return EpisodePlayer(
            make_environment=self.world.environment,
            serve=self.serve,
            engine=self.engine,
            renderer=self.renderer,
            clock=self.clock,
            limits=self.rollout.limits,
            temperature=self.rollout.temperature,
            context=self.ladder.level.context,
        )

    def serve(self, rng: random.Random) -> Services:
        """Return the services of an episode that uses this random generator."""
        return Services(
            simulator=self.simulator, rng=rng, sandbox=self.sandbox, background=self.background
        )

    @property
    def seconds(self) -> float:
        """Seconds of training that this run has spent, earlier processes included."""
        return self.seconds_before + time.monotonic() - self.started_at

    @property
    def progress(self) -> float:
        """Fraction of the run that is done: the largest of those by steps, time and tokens."""
        return self.progress_at(self.seconds)

    def progress_at(self, seconds: float) -> float:
        """Return the fraction that is done once so many seconds are spent."""
        if self.interim.ended:
            return 1.0
        return share_done(
            step=self.step,
            steps=self.steps,
            seconds=seconds,
            minutes=self.minutes,
            spoken=self.policy_tokens,
            tokens=self.tokens,
        )


def share_done(
    *,
    step: int,
    steps: int,
    seconds: float,
    minutes: float | None,
    spoken: int,
    tokens: int | None,
) -> float:
    """Return the fraction of a run that is done: the largest of those by steps, time and tokens."""
    by_time = seconds / 60 / minutes if minutes else 0.0
    by_tokens = spoken / tokens if tokens else 0.0
    return max(step / steps, by_time, by_tokens)

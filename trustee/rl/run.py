"""What the actors of one training run share."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import anyio
import msgspec

from trustee.algorithm.config import LearnConfig
from trustee.algorithm.memory_ladder import LadderState, MemoryLadder
from trustee.checks.adapter_effect import EffectGate, EffectState
from trustee.checks.alarms import AlarmsState, Watch
from trustee.checks.config import GateConfig
from trustee.engine.clock import EngineClock
from trustee.engine.versions import Versions
from trustee.engine.watchdog import Watchdog
from trustee.environments.protocol import Services, TaskSource, World
from trustee.environments.simulator import Simulator
from trustee.events import Emit
from trustee.rendering.renderer import Renderer
from trustee.rollout import EpisodePlayer, RolloutConfig
from trustee.runs.checkpoint import CheckpointState
from trustee.runs.store import Store
from trustee.sandbox.calls import Sandbox
from trustee.types import Group


class Slots:
    """The only back-pressure: slots for task specs, and for groups played or waited for."""

    def __init__(self, rollout: RolloutConfig, *, taken: int) -> None:
        self.tasks = anyio.Semaphore(rollout.slots + rollout.write_ahead - taken)
        self.groups = anyio.Semaphore(rollout.slots - taken)

    def free(self, group: Group) -> None:
        """Give back what a group held; one without a task was never played."""
        self.tasks.release()
        if group.task is not None:
            self.groups.release()


class GroupQueue:
    """Groups from the moment they are on disk until they are trained on or dropped.

    `learn` hears of them through a stream; this is what is left of them when an engine dies.
    """

    def __init__(self, groups: Iterable[Group] = ()) -> None:
        self._groups = {group.id: group for group in groups}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._groups)

    def __iter__(self) -> Iterator[Group]:
        """Go through them in the order in which they came."""
        return iter(self._groups.values())

    def add(self, group: Group) -> None:
        """Keep a group that is on disk."""
        self._groups[group.id] = group

    def remove(self, group: Group) -> None:
        """Forget a group that was trained on or dropped."""
        del self._groups[group.id]

    def remove_newer(self, version: int) -> None:
        """Forget the groups of later versions than this, which a restored run has yet to make."""
        self._groups = {
            number: group for number, group in self._groups.items() if group.version <= version
        }


class RunState(CheckpointState, frozen=True):
    """Where a training run stands between two steps."""

    version: int
    next_group: int
    source: msgspec.Raw
    """The task source's own state, which only the source reads."""
    watch: AlarmsState
    effect: EffectState
    ladder: LadderState
    """What was given up for want of memory."""
    policy_tokens: int
    """Tokens that the policy has said."""


@dataclass(slots=True)
class Run:
    """One training run: what its actors share."""

    world: World
    source: TaskSource
    engine: Watchdog
    """Engine and learner."""
    clock: EngineClock
    renderer: Renderer
    simulator: Simulator
    sandbox: Sandbox
    versions: Versions
    store: Store
    watch: Watch
    gates: GateConfig
    effect: EffectGate
    ladder: MemoryLadder
    rollout: RolloutConfig
    learning: LearnConfig
    seed: int
    steps: int
    minutes: float | None
    """Wall time after which the run ends, if there is a limit."""
    keep_checkpoints: int
    emit: Emit
    step: int = 0
    next_group: int = 0
    tokens: int | None = None
    """Tokens of the policy after which the run ends, if there is a limit."""
    policy_tokens: int = 0
    """Tokens that the policy has said in the groups of all steps."""
    started_at: float = field(default_factory=time.monotonic)
    untrained: GroupQueue = field(default_factory=GroupQueue)
    episode_limiter: anyio.CapacityLimiter = field(init=False)
    """For episodes at once."""

    def __post_init__(self) -> None:
        """Allow as many episodes at once as the ladder does."""
        self.episode_limiter = anyio.CapacityLimiter(self.ladder.level.parallel)

    def player(self) -> EpisodePlayer:
        """Return the player of the next episode or task, as long as the ladder now allows."""
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
        """Give all that an episode with this randomness may touch."""
        return Services(simulator=self.simulator, rng=rng, sandbox=self.sandbox)

    @property
    def progress(self) -> float:
        """The share of the run that is done, by steps, time or tokens, whichever is most."""
        by_time = (time.monotonic() - self.started_at) / 60 / self.minutes if self.minutes else 0.0
        by_tokens = self.policy_tokens / self.tokens if self.tokens else 0.0
        return max(self.step / self.steps, by_time, by_tokens)

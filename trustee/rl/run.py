"""What the actors of one training run share."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

import anyio

from trustee.algorithm.config import LearnConfig
from trustee.algorithm.memory_ladder import MemoryLadder
from trustee.checks.adapter_effect import EffectGate
from trustee.checks.alarms import Watch
from trustee.checks.config import GateConfig
from trustee.engine.clock import EngineClock
from trustee.engine.versions import Versions
from trustee.engine.watchdog import Watchdog
from trustee.environments.protocol import Services, TaskSource, World
from trustee.environments.simulator import Simulator
from trustee.events import Emit
from trustee.rendering.renderer import Renderer
from trustee.rollout import RolloutConfig
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
    minutes: float
    """Stop after this wall time; 0 is no limit."""
    keep_checkpoints: int
    emit: Emit
    step: int = 0
    next_group: int = 0
    tokens: int = 0
    """Stop after this many tokens of the policy; 0 is no limit."""
    policy_tokens: int = 0
    """Tokens that the policy has said in the groups of all steps."""
    started_at: float = field(default_factory=time.monotonic)
    waiting: list[Group] = field(default_factory=list)
    """Groups that were finished but not trained on when an engine died."""
    episode_limiter: anyio.CapacityLimiter = field(init=False)
    """For episodes at once."""

    def __post_init__(self) -> None:
        """Allow as many episodes at once as the ladder does."""
        self.episode_limiter = anyio.CapacityLimiter(self.ladder.level.parallel)

    def services(self, key: str) -> Services:
        """Give a task spec all that it may touch; `key` alone decides its randomness."""
        return self.serve(random.Random(f"{self.seed} {key}"))

    def serve(self, rng: random.Random) -> Services:
        """Give all that an episode with this randomness may touch."""
        return Services(simulator=self.simulator, rng=rng, sandbox=self.sandbox)

    @property
    def progress(self) -> float:
        """The share of the run that is done, by steps, time or tokens, whichever is most."""
        by_time = (time.monotonic() - self.started_at) / 60 / self.minutes if self.minutes else 0.0
        by_tokens = self.policy_tokens / self.tokens if self.tokens else 0.0
        return max(self.step / self.steps, by_time, by_tokens)

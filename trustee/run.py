"""What the actors of one training run share."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import anyio
from msgspec import Meta

from trustee.chat import Simulator
from trustee.deadlines import EngineClock
from trustee.environment import Services, TaskSource, World
from trustee.gates import EffectGate, GateConfig
from trustee.ladder import Ladder
from trustee.rendering import Renderer
from trustee.rollout import Limits
from trustee.sandbox.calls import Sandbox
from trustee.step import LearnConfig
from trustee.store import Store
from trustee.types import Group, Record
from trustee.versions import Versions
from trustee.watch import Watch
from trustee.watchdog import Watchdog

Event = dict[str, Any]


class RolloutConfig(Record, frozen=True):
    """How episodes are played."""

    group_size: Annotated[int, Meta(ge=2)] = 8
    """Episodes per task; one alone has nothing to be compared with."""
    groups_per_step: Annotated[int, Meta(ge=1)] = 16
    """Tasks per optimiser step."""
    max_lag: Annotated[int, Meta(ge=0)] = 1
    """Steps by which a group may be older than the policy it trains; 0 waits for each step."""
    write_ahead: Annotated[int, Meta(ge=0)] = 8
    """Tasks written before there is a slot to play them in, so that writing fills the engine where
    episodes leave it idle. Their difficulty is older by as much."""
    parallel: Annotated[int, Meta(ge=0)] = 0
    """Episodes at once; 0 is no bound but the slots: (max_lag + 1) x groups x group size."""
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    """At 1 the engine's raw logprobs are those of the sampling distribution."""
    limits: Limits = Limits()

    @property
    def slots(self) -> int:
        """Groups under way at once."""
        return (self.max_lag + 1) * self.groups_per_step

    @property
    def episodes(self) -> int:
        """Episodes at once."""
        return self.parallel or self.slots * self.group_size


class Places:
    """The only back-pressure: for drafts under way, and for groups being played or waited for."""

    def __init__(self, rollout: RolloutConfig, *, taken: int) -> None:
        self.drafts = anyio.Semaphore(rollout.slots + rollout.write_ahead - taken)
        self.groups = anyio.Semaphore(rollout.slots - taken)

    def free(self, group: Group) -> None:
        """Give back what a group held; one without a task was never played."""
        self.drafts.release()
        if group.task is not None:
            self.groups.release()


@dataclass(slots=True)
class Run:
    """One training run: what its actors share."""

    world: World
    source: TaskSource
    core: Watchdog
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
    ladder: Ladder
    rollout: RolloutConfig
    learning: LearnConfig
    seed: int
    steps: int
    minutes: float
    """Stop after this wall time; 0 is no limit."""
    keep_checkpoints: int
    tell: Callable[[Event], None]
    """Takes progress events."""
    step: int = 0
    next_group: int = 0
    tokens: int = 0
    """Stop after this many tokens of the policy; 0 is no limit."""
    said: int = 0
    """Tokens that the policy has said in the groups of all steps."""
    begun: float = field(default_factory=time.monotonic)
    waiting: list[Group] = field(default_factory=list)
    """Groups that were finished but not trained on when an engine died."""
    places: anyio.CapacityLimiter = field(init=False)
    """For episodes at once."""

    def __post_init__(self) -> None:
        """Open as many places as the ladder allows."""
        self.places = anyio.CapacityLimiter(self.ladder.rung.parallel)

    def services(self, key: str) -> Services:
        """Give a draft all that it may touch; `key` alone decides its randomness."""
        return self.serve(random.Random(f"{self.seed} {key}"))

    def serve(self, rng: random.Random) -> Services:
        """Give all that an episode with this randomness may touch."""
        return Services(simulator=self.simulator, rng=rng, sandbox=self.sandbox)

    @property
    def spent(self) -> float:
        """The share of the run that is done, by steps, time or tokens, whichever is most."""
        by_time = (time.monotonic() - self.begun) / 60 / self.minutes if self.minutes else 0.0
        by_tokens = self.said / self.tokens if self.tokens else 0.0
        return max(self.step / self.steps, by_time, by_tokens)

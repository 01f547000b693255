"""What making a candidate may use: the simulator, the sandbox, seeds, and a time limit per stage.

Every answer of a role is checked; if no attempt passes, the last flaw is the reason of the
rejection. Independent jobs run concurrently, so that the engine's batch is full.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal, TypeVar

import anyio
from msgspec import Meta

from trustee.environments.executable.blueprint import Scenario
from trustee.environments.executable.building.candidate import BuildStage, Flaw, Rejected
from trustee.environments.prompts import fill_prompt
from trustee.environments.simulator import Simulator
from trustee.errors import InputError, SimulatorError
from trustee.sandbox.calls import Sandbox
from trustee.types import Record, Role

T = TypeVar("T")

EVERY_SCENARIO: tuple[Scenario, ...] = (
    "single_hop",
    "parallel_single_hop",
    "multi_hop",
    "parallel_multi_hop",
)


class BuildConfig(Record, frozen=True):
    """How environments are built."""

    prompts: Literal["builder", "tiny"] = "builder"
    """Prompt set: `builder` for models of 4B parameters and more; `tiny` has the built-in model
    write a question of its micro-world, and code does the other stages."""
    scenarios: Annotated[tuple[Scenario, ...], Meta(min_length=1)] = EVERY_SCENARIO
    """Scenarios to build, in equal shares."""
    distractors: tuple[int, int] = (2, 4)
    """Minimum and maximum number of tools that no part needs."""
    reserved: Literal["never", "always", "either"] = "never"
    """Tiny set only: whether an environment has a pair of tools that is reserved for evaluation."""
    tries: Annotated[int, Meta(ge=1)] = 3
    """Maximum number of functions requested per tool; each after the first with the last error."""
    attempts: Annotated[int, Meta(ge=1)] = 20
    """Maximum number of candidates for a place, after which it stays empty."""
    parallel: Annotated[int, Meta(ge=1)] = 16
    """Number of candidates made concurrently."""
    seconds: Annotated[float, Meta(gt=0)] = 600.0
    """Time limit of one stage, in seconds."""

    def __post_init__(self) -> None:
        """Refuse impossible bounds.

        Raises:
            InputError: if `distractors` is not two numbers from 0 to 6 in ascending order.
        """
        low, high = self.distractors
        if not 0 <= low <= high <= 6:
            raise InputError(
                f"distractors must be two numbers from 0 to 6 in ascending order, got "
                f"[{low}, {high}] (build.distractors)"
            )


class Workshop:
    """The means of making one candidate."""

    def __init__(
        self, config: BuildConfig, *, key: str, simulator: Simulator, sandbox: Sandbox
    ) -> None:
        self.config = config
        self.key = key
        """Seed, place and attempt, which determine all randomness."""
        self.sandbox = sandbox
        self._simulator = simulator
        self.stage = BuildStage.DECOMPOSITION
        self.seconds: dict[BuildStage, float] = {}
        """Seconds spent, by stage."""
        self.material: dict[str, object] = {}
        """What has been made so far, recorded if the candidate is rejected."""

    def rng(self, tag: str) -> random.Random:
        """Return a random generator for one purpose."""
        return random.Random(f"{self.key} {tag}")

    @contextmanager
    def at(self, stage: BuildStage) -> Iterator[None]:
        """Run the block as a stage, with a time limit.

        Raises:
            Rejected: if the time is up.
        """
        self.stage = stage
        started_at = time.monotonic()
        try:
            with anyio.move_on_after(self.config.seconds) as scope:
                yield
        finally:
            cost = time.monotonic() - started_at
            self.seconds[stage] = self.seconds.get(stage, 0.0) + cost
        if scope.cancelled_caught:
            raise Rejected(
                stage,
                Flaw(
                    kind="deadline", text=f"not done in {self.config.seconds:g} s (build.seconds)"
                ),
            )

    def refuse(self, flaw: Flaw | None) -> None:
        """Reject the candidate if there is a flaw.

        Raises:
            Rejected: if there is a flaw.
        """
        if flaw is not None:
            raise Rejected(self.stage, flaw)

    async def ask(
        self,
        prompt: str,
        *,
        answer: type[T],
        grammar: str,
        check: Callable[[T], Flaw | None],
        role: Role = Role.BUILDER,
        tag: str,
    ) -> T:
        """Ask a role until its answer passes the check.

        Raises:
            Rejected: if no attempt passed.
        """
        flaws: list[Flaw] = []

        def keep(given: T) -> str | None:
            flaw = check(given)
            if flaw is not None:
                flaws.append(flaw)
            return None if flaw is None else flaw.text

        try:
            return await self._simulator.ask(
                role,
                prompt,
                answer=answer,
                schema=grammar,
                seed=self.rng(tag).randrange(1 << 31),
                check=keep,
            )
        except SimulatorError as error:
            flaw = flaws[-1] if flaws else Flaw(kind="unreadable", text=str(error))
            raise Rejected(self.stage, flaw) from error

    def fill(self, name: str, **values: str) -> str:
        """Return a filled prompt of the build's prompt set."""
        return fill_prompt(self.config.prompts, name, **values).rstrip("\n")


async def side_by_side(jobs: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Run jobs concurrently and return their results in order.

    Raises:
        Rejected: the first job's reason; the others are cancelled.
    """
    results: dict[int, T] = {}
    refusals: list[Rejected] = []

    async with anyio.create_task_group() as tasks:

        async def do(number: int) -> None:
            try:
                results[number] = await jobs[number]()
            except Rejected as refusal:
                refusals.append(refusal)
                tasks.cancel_scope.cancel()

        for number in range(len(jobs)):
            tasks.start_soon(do, number)
    if refusals:
        raise refusals[0]
    return [results[number] for number in range(len(jobs))]

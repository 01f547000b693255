"""What making one candidate may use: the simulator, the sandbox, seeds, and a clock per stage.

Whatever a role answers is checked; when no try passes, the last reason becomes the reason of the
rejection. Jobs that do not need each other are asked side by side, so the engine's batch is full.
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
    """Made in equal shares."""
    distractors: tuple[int, int] = (2, 4)
    """Fewest and most tools that no part needs."""
    reserved: Literal["never", "always", "either"] = "never"
    """Tiny set: whether an environment offers a pair of tools that is kept for evaluation."""
    tries: Annotated[int, Meta(ge=1)] = 3
    """Functions asked for per tool; each after the first is told what was wrong."""
    attempts: Annotated[int, Meta(ge=1)] = 20
    """Candidates for one place before it stays empty."""
    parallel: Annotated[int, Meta(ge=1)] = 16
    """Candidates under way at once."""
    seconds: Annotated[float, Meta(gt=0)] = 600.0
    """Longest time in one stage."""

    def __post_init__(self) -> None:
        """Refuse bounds that hold nothing.

        Raises:
            InputError: naming the key, what was given and what is allowed.
        """
        low, high = self.distractors
        if not 0 <= low <= high <= 6:
            raise InputError(
                f"distractors must be two numbers from 0 to 6, the second no smaller, got "
                f"[{low}, {high}] (build.distractors)"
            )


class Workshop:
    """Makes one candidate."""

    def __init__(
        self, config: BuildConfig, *, key: str, simulator: Simulator, sandbox: Sandbox
    ) -> None:
        self.config = config
        self.key = key
        """Decides all chance: seed, place and attempt."""
        self.sandbox = sandbox
        self._simulator = simulator
        self.stage = BuildStage.DECOMPOSITION
        self.seconds: dict[BuildStage, float] = {}
        """Spent, by stage."""
        self.material: dict[str, object] = {}
        """What was made so far, for the record of a rejection."""

    def rng(self, tag: str) -> random.Random:
        """Give the randomness of one purpose."""
        return random.Random(f"{self.key} {tag}")

    @contextmanager
    def at(self, stage: BuildStage) -> Iterator[None]:
        """Work at a stage, for a limited time.

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
        """End the candidate where something speaks against it.

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
            Rejected: if no try gave one.
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
        """Fill a prompt of the builder's set."""
        return fill_prompt(self.config.prompts, name, **values).rstrip("\n")


async def side_by_side(jobs: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Do jobs at once and give their results in order.

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

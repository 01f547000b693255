"""Building environments: for every place, candidates are made until one really runs.

Places are filled concurrently and share only the folder; a candidate depends only on seed, place
and attempt, so a build can be shared out by places. Each rejection is written with its reason
before the next attempt begins, so a killed build loses only the unfinished candidates.
"""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import msgspec
from anyio.abc import TaskGroup

from trustee.environments.executable.blueprint import Blueprint, Scenario
from trustee.environments.executable.building.candidate import (
    BuildStage,
    Decomposition,
    Rejected,
)
from trustee.environments.executable.building.folder import (
    DUPLICATE,
    Folder,
    attempt_of,
    make_recipe,
    place_of,
)
from trustee.environments.executable.building.micro import construct_micro
from trustee.environments.executable.building.report import BuildCost, BuildReport
from trustee.environments.executable.building.stages import construct
from trustee.environments.executable.building.verification import verify_blueprint
from trustee.environments.executable.building.workshop import BuildConfig, Workshop
from trustee.environments.micro.tasks import RESERVED_ONE_IN
from trustee.environments.simulator import Simulator
from trustee.environments.splits import is_reserved
from trustee.events import CandidateBuilt, CandidateRejected, Emit, Note
from trustee.runs.shards import WHOLE, Share
from trustee.sandbox.calls import Sandbox


async def build(
    config: BuildConfig,
    *,
    count: int,
    seed: int,
    folder: Path,
    simulator: Simulator,
    sandbox: Sandbox,
    emit: Emit,
    scenario: Scenario | None = None,
    resume: bool = False,
    share: Share = WHOLE,
) -> BuildReport:
    """Build environments into a folder; fewer than `count` if some places stay empty.

    Args:
        config: how environments are built.
        count: number of environments that the folder should have in the end.
        seed: determines all environments.
        folder: see `building.folder`; the environments are in its `blueprints`.
        simulator: the frozen base, as builder or, with the tiny prompts, as writer.
        sandbox: runs the candidates' tools.
        emit: receives progress events.
        scenario: replaces the scenarios of the config.
        resume: whether to continue a build that is already in the folder.
        share: which of the `count` places are filled here.

    Raises:
        InputError: if the folder contains another build, or a build and `resume` is False.
        ExceptionGroup: around a `RunError` if the engine died or the disk is full.
    """
    recipe = make_recipe(config, seed=seed, scenario=scenario)
    places = [place for place in range(count) if share.takes(place)]
    files = Folder(folder, recipe, wanted=len(places))
    files.open(resume=resume)
    async with anyio.create_task_group() as tasks:
        site = Site(
            config, folder=files, simulator=simulator, sandbox=sandbox, emit=emit, tasks=tasks
        )
        for place in places:
            if place not in site.folder.accepted:
                tasks.start_soon(site.fill, place)
    return site.report()


class Site:
    """The shared state of the places of one build."""

    def __init__(
        self,
        config: BuildConfig,
        *,
        folder: Folder,
        simulator: Simulator,
        sandbox: Sandbox,
        emit: Emit,
        tasks: TaskGroup,
    ) -> None:
        self.folder = folder
        self._config = config
        self._simulator = simulator
        self._sandbox = sandbox
        self._tell = emit
        self._tasks = tasks
        self._started_at = time.monotonic()
        self._tokens = simulator.tokens.total()
        self._spent = BuildCost()
        self._limiter = anyio.CapacityLimiter(config.parallel)

    async def fill(self, place: int) -> None:
        """Make candidates for a place until one is accepted or no attempts are left."""
        scenarios = self.folder.recipe.scenarios
        scenario = scenarios[place % len(scenarios)]
        for attempt in range(self.folder.attempts(place), self._config.attempts):
            async with self._limiter:
                if await self._try(place, attempt, scenario):
                    return
        self._tell(Note(text=f"place {place} stays empty (build.attempts)"))

    async def _try(self, place: int, attempt: int, scenario: Scenario) -> bool:
        """Make one candidate; return whether it was accepted."""
        shop = Workshop(
            self._config,
            key=f"{self.folder.recipe.seed} {scenario} place {place} attempt {attempt}",
            simulator=self._simulator,
            sandbox=self._sandbox,
        )
        try:
            blueprint = self._name(await self._make(shop, scenario), place, attempt)
            rival = self.folder.find_rival(blueprint)
            if rival is not None and place_of(rival) < place:
                raise Rejected(BuildStage.VERIFICATION, DUPLICATE)
        except Rejected as refusal:
            self.folder.reject(
                place, attempt, scenario=scenario, refusal=refusal, material=shop.material
            )
            self._spent = self._spent.plus(BuildCost(stages=shop.seconds))
            self._tell_rejected(place, attempt, scenario, refusal)
            return False
        self.folder.accept(place, blueprint)
        self._spent = self._spent.plus(BuildCost(stages=shop.seconds))
        if rival is not None:
            self._refill(rival)
        report = self.report()
        self._tell(
            CandidateBuilt(
                place=place,
                attempt=attempt,
                scenario=scenario,
                id=blueprint.id,
                accepted=report.accepted,
                wanted=report.wanted,
                candidates=report.candidates,
            )
        )
        return True

    def _refill(self, withdrawn: Blueprint) -> None:
        """Tell that an environment was withdrawn, and go on with its place."""
        place = place_of(withdrawn)
        refusal = Rejected(BuildStage.VERIFICATION, DUPLICATE)
        self._tell_rejected(place, attempt_of(withdrawn), withdrawn.scenario, refusal)
        self._tasks.start_soon(self.fill, place)

    def _tell_rejected(
        self, place: int, attempt: int, scenario: Scenario, refusal: Rejected
    ) -> None:
        """Tell of a rejection that is on disk."""
        report = self.report()
        self._tell(
            CandidateRejected(
                place=place,
                attempt=attempt,
                scenario=scenario,
                stage=refusal.stage.value,
                kind=refusal.flaw.kind,
                reason=refusal.flaw.text,
                accepted=report.accepted,
                wanted=report.wanted,
                candidates=report.candidates,
            )
        )

    async def _make(self, shop: Workshop, scenario: Scenario) -> tuple[Blueprint, Decomposition]:
        """Construct a candidate and verify it."""
        make = construct_micro if self._config.prompts == "tiny" else construct
        blueprint, parts = await make(shop, scenario)
        shop.material = {"blueprint": blueprint, "decomposition": parts}
        with shop.at(BuildStage.VERIFICATION):
            ancestors = [
                frozenset(need - 1 for need in parts.ancestors(number))
                for number in range(1, len(parts.parts) + 1)
            ]
            shop.refuse(await verify_blueprint(blueprint, ancestors, shop.sandbox))
        return blueprint, parts

    def _name(self, made: tuple[Blueprint, Decomposition], place: int, attempt: int) -> Blueprint:
        """Return a blueprint with its id and provenance."""
        blueprint, parts = made
        recipe = self.folder.recipe
        return msgspec.structs.replace(
            blueprint,
            id=f"{recipe.prompts}-{recipe.seed}-{place:06d}",
            provenance={
                "prompts": recipe.prompts,
                "seed": recipe.seed,
                "place": place,
                "attempt": attempt,
                "parts": [msgspec.to_builtins(part) for part in parts.parts],
                "reserved": is_reserved(blueprint.tools, one_in=RESERVED_ONE_IN),
            },
        )

    def report(self) -> BuildReport:
        """Write the report so far and return it."""
        cost = BuildCost(
            tokens=self._simulator.tokens.total() - self._tokens,
            seconds=time.monotonic() - self._started_at,
        )
        return self.folder.report(self._spent.plus(cost))

"""The folder of a build, from which a killed build can be continued.

build.json       the request: seed, config, prompt hashes
blueprints/      one JSON file per environment, complete or absent
rejected.jsonl   one line per rejected candidate, with stage, reason and what had been made
report.json      the report, rewritten after every candidate

A place is an environment to be built, an attempt is one candidate for it. A file or a line records
the result of an attempt; attempts without one are made again with the same seed.

Of two environments with the same question and tools that of the lower place stays, also if it comes
later; the other place goes on with its next attempt. This is deferred acceptance (Gale and Shapley,
1962), so which candidates stay does not depend on which was done first: a build in parts has the
result of one build, and a larger build begins with the environments of a smaller one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from trustee import decoding
from trustee.decoding import decode_json
from trustee.environments.executable.blueprint import Blueprint, Scenario
from trustee.environments.executable.blueprint_files import write_blueprint
from trustee.environments.executable.building.candidate import BuildStage, Flaw, Rejected
from trustee.environments.executable.building.report import (
    BuildCost,
    BuildReport,
    Rejection,
    make_report,
)
from trustee.environments.executable.building.workshop import BuildConfig
from trustee.environments.prompts import hash_prompts
from trustee.errors import InputError, RunError
from trustee.runs.files import write_file
from trustee.runs.store import open_lines, read_lines
from trustee.types import Record

DUPLICATE = Flaw(kind="duplicate", text="another environment has the same question and tools")


class Recipe(Record, frozen=True):
    """Everything that determines the candidates; a build can only be continued with the same."""

    seed: int
    scenarios: tuple[Scenario, ...]
    distractors: tuple[int, int]
    reserved: str
    tries: int
    prompts: str
    hashes: dict[str, str]
    """Hashes of the prompt files."""


def make_recipe(config: BuildConfig, *, seed: int, scenario: Scenario | None) -> Recipe:
    """Return what determines the candidates of a build."""
    return Recipe(
        seed=seed,
        scenarios=config.scenarios if scenario is None else (scenario,),
        distractors=config.distractors,
        reserved=config.reserved,
        tries=config.tries,
        prompts=config.prompts,
        hashes=hash_prompts(config.prompts),
    )


class Folder:
    """The files of one build, and the results that they record."""

    def __init__(self, path: Path, recipe: Recipe, *, wanted: int) -> None:
        self.path = path
        self.recipe = recipe
        self._wanted = wanted
        self.accepted: dict[int, Blueprint] = {}
        self.rejections: list[Rejection] = []
        self._holders: dict[tuple[str, ...], int] = {}
        """Places of the accepted environments by what is unique in them."""
        self._before = BuildCost()

    def open(self, *, resume: bool) -> None:
        """Create the folder, or read the build that is in it.

        Raises:
            InputError: if it contains another build, or a build and `resume` is False.
        """
        path = self.path / "build.json"
        if not path.exists():
            (self.path / "blueprints").mkdir(parents=True, exist_ok=True)
            write_file(path, msgspec.json.format(msgspec.json.encode(self.recipe), indent=1))
            return
        self.check(resume=resume)
        if (self.path / "rejected.jsonl").exists():
            self.rejections = read_lines(self.path / "rejected.jsonl", Rejection)
        if (self.path / "report.json").exists():
            report = read_file(self.path / "report.json", BuildReport)
            self._before = report.cost
        self._recall()

    def _recall(self) -> None:
        """Read the accepted environments, and withdraw those that a kill or a merge left double."""
        rejected = {(rejection.place, rejection.attempt) for rejection in self.rejections}
        for file in sorted((self.path / "blueprints").glob("*.json")):
            blueprint = read_file(file, Blueprint)
            place = place_of(blueprint)
            if (place, attempt_of(blueprint)) in rejected:
                file.unlink()
                continue
            rival = self.find_rival(blueprint)
            if rival is not None and place_of(rival) < place:
                self._withdraw(blueprint)
                continue
            self._keep(place, blueprint)
            if rival is not None:
                self._withdraw(rival)

    def check(self, *, resume: bool) -> None:
        """Check that the build in the folder can be continued, without a change to it.

        Raises:
            InputError: as in `open`.
        """
        if not resume:
            raise InputError(
                f"{self.path} already contains a build; give --resume to continue it, or another "
                "--out"
            )
        before = read_file(self.path / "build.json", Recipe)
        old, new = msgspec.to_builtins(before), msgspec.to_builtins(self.recipe)
        changed = sorted(key for key in new if old[key] != new[key])
        if changed:
            shown = "; ".join(f"{key} was {old[key]!r}, now {new[key]!r}" for key in changed[:3])
            raise InputError(
                f"{self.path} was built with other settings: {shown}; continue with the same, or "
                "give another --out"
            )

    def attempts(self, place: int) -> int:
        """Return the number of rejected candidates of a place."""
        return sum(rejection.place == place for rejection in self.rejections)

    def find_rival(self, blueprint: Blueprint) -> Blueprint | None:
        """Return the accepted environment with the same question and tools, if there is one."""
        place = self._holders.get(identity(blueprint))
        return None if place is None else self.accepted[place]

    def _keep(self, place: int, blueprint: Blueprint) -> None:
        self.accepted[place] = blueprint
        self._holders[identity(blueprint)] = place

    def accept(self, place: int, blueprint: Blueprint) -> None:
        """Write an accepted environment, and withdraw its rival of a higher place.

        Raises:
            RunError: if it cannot be written.
        """
        try:
            write_blueprint(blueprint, self.path / "blueprints")
        except OSError as error:
            raise self._unwritten(error) from error
        rival = self.find_rival(blueprint)
        self._keep(place, blueprint)
        if rival is not None:
            self._withdraw(rival)

    def _withdraw(self, blueprint: Blueprint) -> None:
        """Reject an environment that was built, because that of a lower place stays."""
        place = place_of(blueprint)
        self.reject(
            place,
            attempt_of(blueprint),
            scenario=blueprint.scenario,
            refusal=Rejected(BuildStage.VERIFICATION, DUPLICATE),
            material={"blueprint": blueprint},
        )
        # The line is on disk first: a kill in between leaves a file that the line makes void.
        (self.path / "blueprints" / f"{blueprint.id}.json").unlink()
        self.accepted.pop(place, None)

    def reject(
        self,
        place: int,
        attempt: int,
        *,
        scenario: Scenario,
        refusal: Rejected,
        material: dict[str, object],
    ) -> None:
        """Write a rejected candidate.

        Raises:
            RunError: if it cannot be written.
        """
        rejection = Rejection(
            place=place,
            attempt=attempt,
            scenario=scenario,
            stage=refusal.stage,
            kind=refusal.flaw.kind,
            reason=refusal.flaw.text,
            material=msgspec.to_builtins(material),
        )
        try:
            with open_lines(self.path / "rejected.jsonl") as file:
                file.write(msgspec.json.encode(rejection) + b"\n")
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritten(error) from error
        self.rejections.append(rejection)

    def report(self, cost: BuildCost) -> BuildReport:
        """Write the report of what is on disk and of the cost, earlier runs included.

        Raises:
            RunError: if it cannot be written.
        """
        report = make_report(
            wanted=self._wanted,
            accepted={place: b.scenario for place, b in sorted(self.accepted.items())},
            tools=[len(blueprint.tools) for blueprint in self.accepted.values()],
            rejections=self.rejections,
            cost=self._before.plus(cost),
        )
        try:
            write_file(self.path / "report.json", msgspec.json.encode(report))
        except OSError as error:
            raise self._unwritten(error) from error
        return report

    def _unwritten(self, error: OSError) -> RunError:
        return RunError(
            f"cannot write to {self.path}: {error.strerror}; free some disk space, then continue "
            f"with trustee build --out {self.path} --resume"
        )


def identity(blueprint: Blueprint) -> tuple[str, ...]:
    """Return what two environments must not have in common: question and tool names."""
    question = " ".join(blueprint.question.casefold().split())
    return (question, *sorted(tool.name for tool in blueprint.tools))


def place_of(blueprint: Blueprint) -> int:
    """Return the place that an environment was built for."""
    return int(blueprint.provenance["place"])


def attempt_of(blueprint: Blueprint) -> int:
    """Return which attempt for its place an environment is."""
    return int(blueprint.provenance["attempt"])


def read_file(path: Path, kind: Any) -> Any:
    """Read a JSON file of a build.

    Raises:
        InputError: if it cannot be read or is not of this kind.
    """

    def refuse(why: str) -> InputError:
        return InputError(f"{path}: {why}; move it away to have it built again")

    return decode_json(decoding.read_file(path, error=refuse), kind, error=refuse)

"""Statistics of the candidates by stage, by reason and by scenario.

Pure: everything is counted from the environments and rejections on disk, so a build that was
continued reports the same as an uninterrupted one; only tokens and seconds are carried over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from trustee.environments.executable.blueprint import Scenario
from trustee.environments.executable.building.candidate import BuildStage
from trustee.types import Record


class Rejection(Record, frozen=True):
    """A rejected candidate; a line of `rejected.jsonl`."""

    place: int
    """Index of the environment that it was made for."""
    attempt: int
    scenario: Scenario
    stage: BuildStage
    kind: str
    reason: str
    material: dict[str, object] = {}
    """What had been made of it so far."""


class Passage(Record, frozen=True):
    """How many candidates entered and passed a stage."""

    entered: int
    passed: int

    @property
    def share(self) -> float:
        """The share that passed; 0 if none entered."""
        return self.passed / self.entered if self.entered else 0.0


class BuildCost(Record, frozen=True):
    """The cost of a build."""

    tokens: int = 0
    """Tokens sampled by the builder."""
    seconds: float = 0.0
    """Wall time."""
    stages: dict[BuildStage, float] = {}
    """Seconds by stage, summed over concurrent candidates, so more than the wall time."""

    def plus(self, other: BuildCost) -> BuildCost:
        """Return the sum with the cost of another part of the build."""
        stages = {s: self.stages.get(s, 0.0) + other.stages.get(s, 0.0) for s in BuildStage}
        return BuildCost(
            tokens=self.tokens + other.tokens,
            seconds=self.seconds + other.seconds,
            stages={stage: seconds for stage, seconds in stages.items() if seconds},
        )


class BuildReport(Record, frozen=True):
    """The outcome of a build."""

    wanted: int
    accepted: int
    candidates: int
    stages: dict[BuildStage, Passage]
    reasons: dict[str, int]
    """Number of rejections by `stage: kind`, most frequent first."""
    scenarios: dict[Scenario, Passage]
    tools: float
    """Mean number of tools per environment."""
    cost: BuildCost


def make_report(
    *,
    wanted: int,
    accepted: Mapping[int, Scenario],
    tools: Sequence[int],
    rejections: Sequence[Rejection],
    cost: BuildCost,
) -> BuildReport:
    """Return the report of a build; `accepted` has the scenarios by place."""
    refused = Counter(rejection.stage for rejection in rejections)
    left = len(accepted) + len(rejections)
    candidates = left
    stages = {}
    for stage in BuildStage:
        stages[stage] = Passage(entered=left, passed=left - refused[stage])
        left -= refused[stage]
    reasons = Counter(f"{rejection.stage}: {rejection.kind}" for rejection in rejections)
    good = Counter(accepted.values())
    bad = Counter(rejection.scenario for rejection in rejections)
    return BuildReport(
        wanted=wanted,
        accepted=len(accepted),
        candidates=candidates,
        stages=stages,
        reasons=dict(sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))),
        scenarios={
            scenario: Passage(entered=good[scenario] + bad[scenario], passed=good[scenario])
            for scenario in sorted({*good, *bad})
        },
        tools=sum(tools) / len(tools) if tools else 0.0,
        cost=cost,
    )


def report_text(report: BuildReport) -> str:
    """Return a report as text."""
    lines = [
        f"{report.accepted} of {report.wanted} environments from {report.candidates} candidates, "
        f"{report.tools:.1f} tools each",
        f"{report.cost.tokens} tokens, {report.cost.seconds:.0f} s",
        "",
        f"{'stage':<22}{'in':>7}{'out':>7}{'share':>8}{'seconds':>10}",
    ]
    for stage, passage in report.stages.items():
        lines.append(
            f"{stage:<22}{passage.entered:>7}{passage.passed:>7}{passage.share:>8.0%}"
            f"{report.cost.stages.get(stage, 0.0):>10.1f}"
        )
    lines += ["", f"{'scenario':<22}{'in':>7}{'out':>7}{'share':>8}"]
    lines += [
        f"{scenario:<22}{passage.entered:>7}{passage.passed:>7}{passage.share:>8.0%}"
        for scenario, passage in report.scenarios.items()
    ]
    if report.reasons:
        lines += ["", "rejected because of"]
        lines += [f"{count:>7}  {reason}" for reason, count in report.reasons.items()]
    return "\n".join(lines)

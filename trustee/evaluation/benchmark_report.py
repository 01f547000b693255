"""Base against adapter on a published benchmark, with the oracle and the floor beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from trustee.evaluation.evaluate import Gain, SuccessRate, gain_between, success_of
from trustee.types import Record, Task, Trajectory


class CategoryReport(Record, frozen=True):
    """Results on the tasks of one category or of a group of categories; shares from 0 to 1."""

    name: str
    rows: int
    base: SuccessRate
    trained: SuccessRate
    gain: Gain
    """Paired on the tasks that both played; of a group, on the tasks of all its categories."""
    oracle: float | None
    """Share of tasks that the benchmark's own calls solve; None where it has none."""
    floor: float
    """Share of tasks that doing nothing solves."""
    mean: tuple[float, float] | None = None
    """For a group, the means of its categories' shares of base and adapter, which count each
    category alike, as published scores mostly do."""


class BenchmarkReport(Record, frozen=True):
    """Results on a benchmark, by group."""

    benchmark: str
    adapter: str
    groups: dict[str, tuple[CategoryReport, ...]]
    """For each group its categories, and last the group itself."""


def report_on(
    tasks: Sequence[Task],
    played: Mapping[str, Sequence[Trajectory]],
    *,
    groups: Mapping[str, Sequence[str]],
    oracle: Mapping[str, bool | None],
    floor: Mapping[str, bool],
    benchmark: str,
    adapter: str,
) -> BenchmarkReport:
    """Return the report on the episodes of `base` and `adapter`."""

    def describe(name: str, categories: Sequence[str]) -> CategoryReport:
        own = {task.id for task in tasks if task.hidden["category"] in categories}
        base, trained = (
            [one for one in played[label] if one.task_id in own] for label in ("base", "adapter")
        )
        known = [solved for id in own if (solved := oracle[id]) is not None]
        return CategoryReport(
            name=name,
            rows=len(own),
            base=success_of(base),
            trained=success_of(trained),
            gain=gain_between(base, trained),
            oracle=fmean(known) if known else None,
            floor=fmean(floor[id] for id in own),
        )

    there = {task.hidden["category"] for task in tasks}
    found: dict[str, tuple[CategoryReport, ...]] = {}
    for group, names in groups.items():
        rows = [describe(name, [name]) for name in names if name in there]
        if not rows:
            continue
        whole = describe(group, names)
        means = (fmean(row.base.value for row in rows), fmean(row.trained.value for row in rows))
        whole = CategoryReport(
            name=group,
            rows=whole.rows,
            base=whole.base,
            trained=whole.trained,
            gain=whole.gain,
            oracle=whole.oracle,
            floor=whole.floor,
            mean=means,
        )
        found[group] = (*rows, whole)
    return BenchmarkReport(benchmark=benchmark, adapter=adapter, groups=found)


def benchmark_text(report: BenchmarkReport) -> str:
    """Return a report as a text table."""
    lines = [
        f"{report.benchmark}  base against {report.adapter}",
        f"{'':<26}{'rows':>6}{'oracle':>8}{'floor':>7}{'base':>7}{'adapter':>9}   gain in points",
    ]
    for rows in report.groups.values():
        lines += [_row(row) for row in rows]
    lines.append("a group's line counts each task alike; means count each category alike")
    return "\n".join(lines)


def _row(row: CategoryReport) -> str:
    oracle = "-" if row.oracle is None else f"{100 * row.oracle:.1f}"
    gain, failed = row.gain, row.base.failed + row.trained.failed
    line = (
        f"{row.name:<26}{row.rows:>6}{oracle:>8}{100 * row.floor:>7.1f}"
        f"{100 * row.base.value:>7.1f}{100 * row.trained.value:>9.1f}   "
        f"{gain.points:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
    )
    if row.mean is not None:
        line += f"  means {100 * row.mean[0]:.1f} and {100 * row.mean[1]:.1f}"
    return f"{line}  {failed} failed" if failed else line

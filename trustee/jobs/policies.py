"""`trustee eval` with several adapters, or several attempts: one table of policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trustee.config import Config
from trustee.evaluation.evaluate import Gain, SuccessRate, gain_between
from trustee.evaluation.repeats import gain_of_means, pass_all
from trustee.events import Emit, Note
from trustee.jobs.evaluate import label_adapters, play_adapters
from trustee.jobs.held_out import check_same_tasks
from trustee.types import Record, Trajectory


class Policy(Record, frozen=True):
    """What one policy did on the held-out tasks."""

    label: str
    adapter: Path | None
    """Folder of the adapter; None is the base."""
    passed: tuple[SuccessRate, ...]
    """pass^1, pass^2 and so on: the share of tasks that are solved in all of so many attempts."""
    gain: Gain | None
    """Against the base; None is the base."""


class PolicyTable(Record, frozen=True):
    """Several policies on the same tasks."""

    repeats: int
    """Attempts of each policy at each task."""
    policies: tuple[Policy, ...]


async def run_policies(
    config: Config, run: Path, *, adapters: Sequence[Path], repeats: int, emit: Emit
) -> PolicyTable:
    """Play the held-out tasks of a run with the base and with some adapters.

    Args:
        config: the run's config, or one changed from it.
        run: the run's folder.
        adapters: PEFT or run folders.
        repeats: attempts of each policy at each task.
        emit: receives progress events.
    """
    if repeats > 1 and config.eval.temperature == 0:
        emit(
            Note(
                text="eval.temperature is 0, so attempts differ only in what the world draws; "
                "--set eval.temperature=0.7 has the policy sample"
            )
        )
    folders, tasks, played = await play_adapters(
        config, run, adapters=adapters, repeats=repeats, emit=emit
    )
    named: dict[str, Path | None] = {"base": None, **label_adapters(folders)}
    return tabulate(named, played, tasks=len(tasks), repeats=repeats)


def tabulate(
    adapters: Mapping[str, Path | None],
    played: Mapping[str, Sequence[Trajectory]],
    *,
    tasks: int,
    repeats: int,
) -> PolicyTable:
    """Return the table of what was played, the first `tasks` episodes being the first attempts."""
    base = played["base"]
    policies = []
    for label, adapter in adapters.items():
        own = played[label]
        check_same_tasks(base[:tasks], own[:tasks])
        gain = gain_between(base, own) if repeats == 1 else gain_of_means(base, own)
        policies.append(
            Policy(
                label=label,
                adapter=adapter,
                passed=tuple(pass_all(own, k) for k in range(1, repeats + 1)),
                gain=None if adapter is None else gain,
            )
        )
    return PolicyTable(repeats=repeats, policies=tuple(policies))


def table_text(table: PolicyTable) -> str:
    """Return a table of policies as readable text."""
    rows = [["", *(f"pass^{k}" for k in range(1, table.repeats + 1)), "gain in points", "tasks"]]
    for policy in table.policies:
        first = policy.passed[0]
        failed = f", {first.failed} episodes failed" if first.failed else ""
        gain = "" if policy.gain is None else show_gain(policy.gain)
        rows.append(
            [policy.label, *map(show_passed, policy.passed), gain, f"{first.count}{failed}"]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    named = [f"{p.label}  {p.adapter}" for p in table.policies if p.adapter is not None]
    return "\n".join([*lines, "", "95 % intervals in brackets; gains against the base", *named])


def show_passed(share: SuccessRate) -> str:
    """Return a share with its interval, short enough for a column."""
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


def show_gain(gain: Gain) -> str:
    """Return a gain with its interval, short enough for a column."""
    return (
        f"{gain.points:+.1f} ({gain.low:+.1f} to {gain.high:+.1f}), "
        f"{gain.better} won, {gain.worse} lost"
    )

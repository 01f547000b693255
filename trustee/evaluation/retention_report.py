"""What a policy has forgotten of general prompts: figures with intervals, and a table of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from trustee.checks.general_prompts import GeneralPrompt
from trustee.evaluation.evaluate import SuccessRate, share_of
from trustee.evaluation.intervals import ratio_interval
from trustee.types import Record

SEED = 12345
"""Decides the draws of all intervals."""
SHOWN = 5
"""Prompts whose answers moved most that are shown."""
SHOWN_CHARS = 60
"""Characters of an answer that are shown."""


class PromptResult(Record, frozen=True):
    """Base and policy on one general prompt; sums over tokens, in nats."""

    prompt: GeneralPrompt
    tokens: int
    """Tokens of the base's answer."""
    kl: float
    """Sum of KL(base ‖ policy) over these tokens."""
    written_tokens: int
    """Tokens of the answer that a person wrote."""
    change: float
    """Sum of the changes of their logprobs, policy less base."""
    base: str
    """Greedy answer of the base."""
    policy: str
    """Greedy answer of the policy."""
    differs: bool
    """Whether the two are different tokens."""


class Estimate(Record, frozen=True):
    """A mean over tokens with its 95 % interval over prompts; None: unbounded."""

    value: float
    low: float | None
    high: float | None


class RetentionRow(Record, frozen=True):
    """Figures of some of the prompts."""

    name: str
    prompts: int
    kl: Estimate
    """KL(base ‖ policy) per token of the base's answers, in nats."""
    change: Estimate
    """Change of the logprob per token of the written answers, in nats; below 0 is less likely."""
    differing: SuccessRate
    """Share of prompts that the policy answers with other tokens than the base."""


class RetentionReport(Record, frozen=True):
    """What a policy still says to general prompts."""

    adapter: str
    total: RetentionRow
    kinds: tuple[RetentionRow, ...]
    languages: tuple[RetentionRow, ...]
    left_out: int
    """Prompts that leave no room for an answer in the engine's context."""
    moved_most: tuple[PromptResult, ...]
    """Results with the largest KL a token, largest first."""


def report_on(
    results: Sequence[PromptResult], *, adapter: str, left_out: int = 0
) -> RetentionReport:
    """Return the figures of all results, and of each kind and language."""
    return RetentionReport(
        adapter=adapter,
        total=describe("all", results),
        kinds=split_by(results, lambda prompt: prompt.kind),
        languages=split_by(results, lambda prompt: prompt.language),
        left_out=left_out,
        moved_most=tuple(sorted(results, key=lambda one: -one.kl / max(1, one.tokens))[:SHOWN]),
    )


def split_by(
    results: Sequence[PromptResult], name_of: Callable[[GeneralPrompt], str]
) -> tuple[RetentionRow, ...]:
    """Return a row for each name that the prompts have."""
    names = sorted({name_of(one.prompt) for one in results})
    return tuple(
        describe(name, [one for one in results if name_of(one.prompt) == name]) for name in names
    )


def describe(name: str, results: Sequence[PromptResult]) -> RetentionRow:
    """Return the figures of some results."""
    return RetentionRow(
        name=name,
        prompts=len(results),
        kl=estimate([(one.kl, one.tokens) for one in results]),
        change=estimate([(one.change, one.written_tokens) for one in results]),
        differing=share_of([one.differs for one in results]),
    )


def estimate(parts: Sequence[tuple[float, int]]) -> Estimate:
    """Return the mean over all tokens of some texts, with its interval over texts."""
    low, high = ratio_interval(parts, seed=SEED)
    return Estimate(
        value=math.fsum(total for total, _ in parts) / max(1, sum(count for _, count in parts)),
        low=low if math.isfinite(low) else None,
        high=high if math.isfinite(high) else None,
    )


def retention_text(report: RetentionReport) -> str:
    """Return a report as a text table."""
    lines = [
        f"general prompts: the base against {report.adapter}",
        f"{'':<16}{'prompts':>8}  {'KL a token, nats':<28}{'likelihood a token, nats':<30}"
        "answers that differ",
        _row(report.total),
        "by kind",
        *map(_row, report.kinds),
        "by language of the question",
        *map(_row, report.languages),
        "KL is that of base and policy on the base's own greedy answers; likelihood is the change "
        "for answers that people wrote; 95 % intervals over prompts",
    ]
    if report.left_out:
        lines.append(f"{report.left_out} prompts leave no room for an answer in engine.context")
    lines.append("moved most")
    for one in report.moved_most:
        lines += [
            f"  {one.kl / max(1, one.tokens):.3f} nats a token  {_shorten(one.prompt.prompt)}",
            f"    base     {_shorten(one.base)}",
            f"    adapter  {_shorten(one.policy)}",
        ]
    return "\n".join(lines)


def _row(row: RetentionRow) -> str:
    differing = row.differing
    return (
        f"{row.name:<16}{row.prompts:>8}  {_show(row.kl, sign=''):<28}"
        f"{_show(row.change, sign='+'):<30}"
        f"{differing.value:.1%} ({differing.low:.1%} to {differing.high:.1%})"
    )


def _show(found: Estimate, *, sign: str) -> str:
    value = f"{found.value:{sign}.4f}"
    if found.low is None or found.high is None:
        return value
    return f"{value} ({found.low:{sign}.4f} to {found.high:{sign}.4f})"


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS - 1]}…"

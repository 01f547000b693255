"""What held-out tasks prove of runs: shares, paired differences, and the words for them."""

from __future__ import annotations

from collections.abc import Sequence

from trustee.pages.measured import Pairing, pair
from trustee.pages.report.curves import points_of
from trustee.pages.report.document import Markup, element
from trustee.pages.report.drawing import Bar, Line, draw_bars, draw_lines
from trustee.pages.report.findings import TRAINED, Findings, config_of

NAMES = {"before": "before training", "after": "trained", "base": "base", "adapter": "trained"}
"""Policies by the name of their file of episodes."""
LONGEST_VALUE = 300
"""Letters of a setting that are shown."""


def judge(run: Findings) -> Markup:
    """Return held-out success with its intervals, and what follows from them."""
    if not run.measured:
        return element("p", "This run has measured no held-out task, so it shows no gain.")
    bars = [
        Bar(
            name=NAMES.get(name, name),
            value=share.value,
            low=share.low,
            high=share.high,
            said=f"{share.low:.0%} to {share.high:.0%}, {share.count} tasks"
            + (f", {share.failed} failed" if share.failed else ""),
            colour=0 if name in TRAINED else 6,
        )
        for name, share in run.measured.items()
    ]
    shown: list[Markup | None] = [
        element("h3", "Success on held-out tasks"),
        draw_bars(bars, show=lambda value: f"{value:.1%}"),
    ]
    if run.pairing is None:
        shown.append(
            element("p", "There is no second policy on the same tasks to hold it against.")
        )
    else:
        shown += [draw_gain(run.pairing), element("p", conclude(run.pairing), class_="verdict")]
    return element("div", shown)


def draw_gain(pairing: Pairing, name: str = "gain, in points") -> Markup:
    """Return a paired difference with its interval."""
    gain = pairing.gain
    bar = Bar(
        name=name,
        value=gain.points,
        low=gain.low,
        high=gain.high,
        said=f"{gain.low:+.1f} to {gain.high:+.1f}; {gain.better} won, {gain.worse} lost",
        colour=2 if gain.low > 0 else 3 if gain.high < 0 else 6,
    )
    return draw_bars([bar], show=lambda value: f"{value:+.1f}", begin=-100, end=100, zero=True)


def conclude(pairing: Pairing) -> str:
    """Return what a paired interval allows to say."""
    gain = pairing.gain
    told = (
        f"{gain.points:+.1f} points on the {pairing.shared} held-out tasks that both played "
        f"(paired 95 % interval {gain.low:+.1f} to {gain.high:+.1f}). "
    )
    if gain.low > 0:
        return told + "The interval is above zero: on such tasks the trained policy is better."
    if gain.high < 0:
        return told + "The interval is below zero: on such tasks the trained policy is worse."
    return told + "The interval holds zero: these tasks do not show that training changed success."


def compare(runs: Sequence[Findings]) -> Markup:
    """Return the runs side by side: success, paired differences to the first, settings."""
    rows, success = [], []
    for at, run in enumerate(runs):
        name = next((n for n in TRAINED if n in run.measured), None)
        if name:
            share = run.measured[name]
            said = f"{share.low:.0%} to {share.high:.0%}, {share.count} tasks"
            rows.append(Bar(run.name, share.value, share.low, share.high, said, at))
    first = runs[0].success
    for run in runs[1:]:
        pairing = pair(first, run.success)
        success.append(
            draw_gain(pairing, f"{run.name} against {runs[0].name}")
            if pairing
            else element("p", f"{run.name} and {runs[0].name} share no held-out task.")
        )
    tables = [config_of(run) for run in runs]
    keys = sorted({key for table in tables for key in table})
    differ = [key for key in keys if len({repr(table.get(key)) for table in tables}) > 1]
    return element(
        "article",
        element(
            "section",
            element("h2", "The runs beside each other"),
            draw_bars(rows, show=lambda value: f"{value:.1%}") if rows else None,
            success,
        ),
        element(
            "section",
            element("h3", "Reward"),
            draw_lines(
                "Reward by step",
                [Line(run.name, points_of(run.steps, "reward"), at) for at, run in enumerate(runs)],
                show=lambda value: f"{value:+.2f}",
            ),
        ),
        element(
            "section",
            element("h3", "Settings that differ"),
            element(
                "table",
                element("tr", element("th", ""), [element("th", run.name) for run in runs]),
                [
                    element(
                        "tr",
                        element("th", key),
                        [element("td", show_value(table.get(key, "-"))) for table in tables],
                    )
                    for key in differ
                ],
            )
            if differ
            else element("p", "None."),
        ),
    )


def show_value(value: object) -> str:
    """Return a setting as one line."""
    text = "none" if value is None else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"

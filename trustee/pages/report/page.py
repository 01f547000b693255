"""`trustee report`: one file that shows somebody else what runs did, and whether they helped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files

from trustee import __version__
from trustee.errors import InputError
from trustee.pages.report.conversation import show_difference
from trustee.pages.report.curves import PARTS, draw_curves
from trustee.pages.report.document import Markup, element, style
from trustee.pages.report.findings import Findings, config_of, hash_config
from trustee.pages.report.verdict import NAMES, compare, judge, show_value

MOST_BYTES = 3_000_000
"""Size of the largest report; texts are cut until it is no larger."""
LETTERS = (4000, 1500, 600, 200, 60)
"""Lengths to which a message is cut, tried in this order."""
MARKED = {
    "gate": "gate",
    "alarm": "alarm",
    "rollback": "roll-back",
    "memory": "memory ladder",
}


def write_report(runs: Sequence[Findings], *, now: float) -> bytes:
    """Return a report of some runs as one HTML file.

    Args:
        runs: what is known of them.
        now: time that the report gives as its own, in seconds since 1970.

    Raises:
        InputError: if it does not fit into `MOST_BYTES`.
    """
    for letters in LETTERS:
        written = _write(runs, now=now, letters=letters)
        if len(written) <= MOST_BYTES:
            return written
    raise InputError(
        f"a report of {len(runs)} runs has more than {MOST_BYTES / 1e6:.0f} MB; report fewer"
    )


def _write(runs: Sequence[Findings], *, now: float, letters: int) -> bytes:
    sheet = (files("trustee.pages.report") / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = ", ".join(run.name for run in runs)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="content-security-policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · trustee report"),
        style(sheet),
    )
    day = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
    body = element(
        "body",
        element(
            "header",
            element("p", f"trustee {__version__} · report of {day}", class_="quiet"),
            element("h1", title),
        ),
        element(
            "main",
            compare(runs) if len(runs) > 1 else None,
            [show_run(run, letters, is_alone=len(runs) == 1) for run in runs],
        ),
        element(
            "footer",
            "Made from the files of the run alone, which are hashed below each run. "
            "This file holds no script and loads nothing.",
            class_="quiet",
        ),
    )
    page = element("html", head, body, lang="en")
    return f"<!doctype html>\n{page.html}\n".encode()


def show_run(run: Findings, letters: int, *, is_alone: bool) -> Markup:
    """Return the part of a report that is about one run; alone, the title has its name."""
    return element(
        "article",
        element(
            "section",
            None if is_alone else element("h2", run.name),
            describe_training(run),
            judge(run),
        ),
        show_problems(run),
        element(
            "section", element("h3", "Curves"), element("div", draw_curves(run), class_="charts")
        )
        if run.steps
        else None,
        [show_differences(run, letters=letters, kind=kind) for kind in ("better", "worse")],
        show_marks(run),
        show_costs(run),
        show_settings(run),
    )


def describe_training(run: Findings) -> Markup:
    """Return a sentence that says what was trained on what."""
    config = config_of(run)
    standing, costs = run.standing, run.costs
    weights = config.get("engine.quantisation") or config.get("engine.weights")
    parts = [
        f"A LoRA on {standing.model or 'an unnamed model'}",
        f" ({weights})" if weights not in (None, "auto") else "",
        f", trained for {costs.steps} of {standing.steps or costs.steps} steps",
        f" on {costs.episodes:,} episodes" if costs.episodes else "",
        f" in the world “{standing.world}”" if standing.world else "",
        f", in {show_seconds(costs.seconds)}" if costs.seconds else "",
        f". The run is {standing.state}",
        f": {show_value(standing.why)}" if standing.why else "",
        ".",
    ]
    return element("p", "".join(parts))


def show_problems(run: Findings) -> Markup | None:
    """Return what could not be read."""
    if not run.problems:
        return None
    return element(
        "section",
        element("h3", "What could not be read"),
        element("ul", [element("li", problem) for problem in run.problems]),
        class_="warn",
    )


def show_differences(run: Findings, *, letters: int, kind: str) -> Markup | None:
    """Return held-out tasks that the trained policy played better, or worse, side by side."""
    if run.against is None:
        return None
    found = run.better if kind == "better" else run.worse
    title = "Better than the base" if kind == "better" else "Worse than the base"
    names = [NAMES[name] for name in run.against]
    return element(
        "section",
        element("h3", f"{title}: the clearest {len(found)}" if len(found) else f"{title}: none"),
        [show_difference(one, names=names, letters=letters) for one in found],
    )


def show_marks(run: Findings) -> Markup:
    """Return what gates and alarms said."""
    said = [mark for mark in run.marks if mark["kind"] in MARKED]
    if not said:
        text = "Nothing was recorded: this run has no events.jsonl, or no gate spoke."
        return element("section", element("h3", "Gates and alarms"), element("p", text))
    rows = [
        element("tr", element("th", MARKED[mark["kind"]]), element("td", show_value(mark["text"])))
        for mark in said
    ]
    return element("section", element("h3", "Gates and alarms"), element("table", rows))


def show_costs(run: Findings) -> Markup:
    """Return what the run took."""
    costs = run.costs
    rows = [("steps", f"{costs.steps}"), ("episodes", f"{costs.episodes:,}")]
    rows += [("whole run", show_seconds(costs.seconds))] if costs.seconds else []
    rows += [(PARTS[part], show_seconds(spent)) for part, spent in costs.parts.items() if spent]
    rows += [(f"tokens of the {role}", f"{n:,.0f}") for role, n in costs.tokens.items() if n]
    rows += [("memory, most in use", f"{costs.memory / 2**30:.2f} GiB")] if costs.memory else []
    return element("section", element("h3", "Costs"), show_table(rows))


def show_settings(run: Findings) -> Markup:
    """Return settings, versions and hashes, folded on the screen."""
    config = [(key, show_value(value)) for key, value in config_of(run).items()]
    versions = [
        (key, show_value(value)) for key, value in (run.record.get("versions") or {}).items()
    ]
    versions.append(("platform", show_value(run.record.get("platform", "-"))))
    hashes = [("settings", hash_config(run)), *run.hashes.items()]
    hashes += [(f"prompt {k}", show_value(v)) for k, v in (run.record.get("prompts") or {}).items()]
    folded = [("Config", config), ("Versions", versions), ("Hashes, SHA-256", hashes)]
    return element(
        "section",
        element("h3", "How to check it"),
        element(
            "p",
            "With the run folder, ",
            element("code", "trustee eval RUN"),
            " plays the same held-out tasks again, by the base and by the adapter; ",
            element("code", "sha256sum"),
            " tells whether its files are the ones that are hashed here.",
        ),
        [
            element("details", element("summary", f"{title} ({len(rows)})"), show_table(rows))
            for title, rows in folded
        ],
    )


def show_table(rows: Sequence[tuple[str, str]]) -> Markup:
    """Return names and values as a table."""
    return element(
        "table", [element("tr", element("th", name), element("td", value)) for name, value in rows]
    )


def show_seconds(seconds: float | None) -> str:
    """Return a duration in its two largest units."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"

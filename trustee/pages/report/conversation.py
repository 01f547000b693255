"""Episodes in a report: two policies on one task, beside each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from trustee.pages.report.document import Markup, element
from trustee.pages.report.findings import Difference

MOST_CALLS = 40
"""Calls of a message that are shown."""


def show_difference(found: Difference, *, names: Sequence[str], letters: int) -> Markup:
    """Return one task as two policies played it.

    Args:
        found: the task and both episodes.
        names: what the policies are called.
        letters: length to which texts are cut.
    """
    task = found.second.get("task") or found.first.get("task") or {}
    asked = next(
        (
            str(message.get("content", ""))
            for message in _tables(task.get("messages"))
            if message.get("role") == "user"
        ),
        found.task,
    )
    hidden = task.get("hidden")
    return element(
        "details",
        element(
            "summary",
            element("b", f"{found.by:+.3g} "),
            cut(asked, 140),
            element("span", f" {found.task}", class_="quiet"),
        ),
        element("div", [show_message(one, letters) for one in _tables(task.get("messages"))]),
        element(
            "details",
            element("summary", "hidden from the policy"),
            element("pre", cut(_plain(hidden), letters)),
        )
        if hidden
        else None,
        element(
            "div",
            [
                show_episode(name, episode, letters)
                for name, episode in zip(names, (found.first, found.second), strict=True)
            ],
            class_="pair",
        ),
        class_="difference",
    )


def show_episode(name: str, episode: dict[str, Any], letters: int) -> Markup:
    """Return what one policy said, and what it was given for it."""
    played = episode["trajectory"]
    reward = episode["figures"]["reward"]
    tone = "quiet" if not reward else "good" if reward > 0 else "bad"
    said = "no reward" if reward is None else f"reward {reward:+.3g}"
    return element(
        "div",
        element("h4", f"{name} ", element("span", said, class_=tone)),
        list(_show_turns(played, letters)),
        list(_show_reasons(played, letters)),
    )


def _show_turns(played: dict[str, Any], letters: int) -> Iterator[Markup]:
    for turn in _tables(played.get("turns")):
        message = turn.get("message")
        if isinstance(message, dict):
            yield show_message(message, letters)
        for reply in _tables(turn.get("replies")):
            yield show_message(reply, letters)


def _show_reasons(played: dict[str, Any], letters: int) -> Iterator[Markup]:
    outcome, notes = played.get("outcome"), played.get("notes")
    criteria = outcome.get("criteria") if isinstance(outcome, dict) else None
    if isinstance(criteria, dict) and criteria:
        yield element(
            "p",
            [
                element(
                    "span",
                    f"{'✓' if holds else '✗'} {cut(str(name), 140)} ",
                    class_="good" if holds else "bad",
                )
                for name, holds in criteria.items()
            ],
        )
    evidence = notes.get("evidence") if isinstance(notes, dict) else None
    if evidence:
        yield element("p", cut(_plain(evidence), letters), class_="quiet text")


def show_message(message: dict[str, Any], letters: int) -> Markup:
    """Return one message with its calls."""
    role = str(message.get("role", "unknown"))
    known = role if role in ("system", "user", "assistant", "tool") else "other"
    thinking, content = message.get("thinking"), message.get("content")
    calls = _tables(message.get("calls"))[:MOST_CALLS]
    return element(
        "div",
        element("span", cut(role, 40), class_="who"),
        element("p", cut(str(thinking), letters), class_="text thinking") if thinking else None,
        element("p", cut(str(content), letters), class_="text") if content or not calls else None,
        [
            element(
                "p",
                element("b", cut(str(call.get("name", "a call that cannot be read")), 140)),
                " ",
                element("code", cut(_plain(call.get("arguments", call.get("text", ""))), letters)),
                class_="call",
            )
            for call in calls
        ],
        class_=f"message {known}",
    )


def cut(text: str, letters: int) -> str:
    """Return a text, or the beginning of a long one with the number of letters left out."""
    if len(text) <= letters:
        return text
    return f"{text[:letters]} … ({len(text) - letters:,} more letters)"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tables(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list that a stranger may have written."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []

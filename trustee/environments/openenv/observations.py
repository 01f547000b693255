"""What the policy reads of an observation: its own fields, and the text of a tool's answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trustee.tools.values import render_json

HIDDEN = frozenset(("metadata", "done", "reward"))
"""Fields that are not for the policy."""
FAULTS = frozenset(("transport_error", "timeout"))
"""Errors of a tool that are the server's fault, and not the call's."""


def show_observation(observation: Mapping[str, Any]) -> str:
    """Return an observation as text: one text as it is, several fields as JSON."""
    fields = {
        key: value
        for key, value in observation.items()
        if key not in HIDDEN and value not in (None, "", [], {})
    }
    if len(fields) == 1 and isinstance(only := next(iter(fields.values())), str):
        return only
    return render_json(fields) if fields else ""


def find_fault(observation: Mapping[str, Any]) -> str | None:
    """Return what the server says of a fault of its own; None where there is none."""
    error = observation.get("error")
    if isinstance(error, dict) and error.get("error_type") in FAULTS:
        return f"{error['error_type']}: {error.get('message', '')}"
    return None


def show_answer(observation: Mapping[str, Any]) -> str:
    """Return what a tool answered as text."""
    error = observation.get("error")
    if error:
        said = error.get("message", error) if isinstance(error, dict) else error
        return render_json({"error": said})
    result = observation.get("result")
    if isinstance(result, dict) and isinstance(result.get("content"), list):
        texts = [part.get("text") for part in result["content"] if isinstance(part, dict)]
        text = "\n".join(text for text in texts if isinstance(text, str))
        failed = result.get("is_error") or result.get("isError")
        return render_json({"error": text}) if failed else text
    if result is None:
        return show_observation({k: v for k, v in observation.items() if k != "tool_name"})
    return result if isinstance(result, str) else render_json(result)

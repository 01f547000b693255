"""A record of what the roles of a real model answered, and how much they read and wrote."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import msgspec

from trustee.environments.simulator import Asked

CASE: ContextVar[dict[str, Any]] = ContextVar("case")


class Notebook:
    """Keeps every answer, and counts what each role read and wrote."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self.tokens: dict[str, Counter[str]] = defaultdict(Counter)
        self.reasons: dict[str, Counter[str]] = defaultdict(Counter)
        self.examples: dict[str, dict[str, str]] = defaultdict(dict)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / "answers.jsonl").write_bytes(b"")

    def note(self, asked: Asked) -> None:
        """Keep one answer of a role."""
        case = CASE.get()
        case.setdefault("refusals", []).append(asked.refusal)
        self.tokens[asked.role].update(
            asked=1, read=asked.read, cached=asked.cached, written=asked.written
        )
        if asked.refusal is not None:
            self.fail(asked.role, asked.refusal, answer=asked.answer)
        self.write({"case": case.get("name"), **msgspec.to_builtins(asked)})

    def fail(self, role: str, reason: str, *, answer: str) -> None:
        """Count a reason by its kind, without its values."""
        kind = re.sub(r"\[[^\]]*\]|'[^']*'|\"[^\"]*\"|\d+", "…", reason)[:90]
        self.reasons[role][kind] += 1
        self.examples[role].setdefault(kind, f"{reason[:200]} | {answer[:400]}")

    def write(self, row: dict[str, Any]) -> None:
        """Append a row to the record of answers."""
        if self._out is not None:
            with (self._out / "answers.jsonl").open("ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")

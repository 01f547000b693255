"""Tools that try to get out of the sandbox, to break it, or to poison the next call.

They lie in `data/hostile/*.txt`. Each begins with a line `--- name end text`, where `end` says how
the call must end and `text` is what comes out, as a Python literal; the body of the tool follows.
`NAME` stands for the attack's name, `RUN` for a folder of the host that holds `answers.json`.
"""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path
from typing import NamedTuple

from trustee.sandbox.calls import CallResult

FOLDER = Path(__file__).parent / "data" / "hostile"
ENDS = {"gave": "", "hid": "denied", "raised": "", "refused": "denied"}
"""Breach by end where the text is the tool's own; other ends are the breach itself.

`hid` is a result in spite of a refusal, `refused` the refusal as an error.
"""
EXPLAINED = {
    "cpu": "it took more than 1 s of processor time",
    "time": "it ran longer than 1 s",
    "memory": "it needed more than 96 MiB of memory",
    "output": "its answer is longer than 65536 bytes",
    "protocol": "it wrote to the channel of its answer",
    "died": "it ended without an answer",
}


class Attack(NamedTuple):
    """One case."""

    group: str
    name: str
    end: str
    text: str
    body: str

    def source(self, folder: Path) -> str:
        """Write the attack as a tool."""
        return self._fill(f"def NAME():\n{textwrap.indent(self.body, '    ')}", folder)

    def outcome(self, folder: Path) -> CallResult:
        """Say what must come of it."""
        ok = self.end in ("gave", "hid")
        text = self.text if ok else f"an error occurred when calling NAME: {self.text}"
        breach = ENDS.get(self.end, self.end)
        return CallResult(text=self._fill(text, folder), ok=ok, breach=breach)

    def _fill(self, text: str, folder: Path) -> str:
        """Fill both slots."""
        return text.replace("NAME", self.name).replace("RUN", str(folder))


def read_attacks() -> tuple[Attack, ...]:
    """Read all files."""
    attacks = []
    for path in sorted(FOLDER.glob("*.txt")):
        for entry in path.read_text(encoding="utf-8").split("--- ")[1:]:
            head, _, body = entry.partition("\n")
            name, end, *text = head.split(" ", 2)
            said = EXPLAINED[end] if end in EXPLAINED else ast.literal_eval(*text)
            attacks.append(Attack(path.stem, name, end, said, body.rstrip()))
    return tuple(attacks)

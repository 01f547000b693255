"""Demonstrations of `trustee collect` as the rows that prime-rl's SFT reads.

    python demonstrations.py COLLECTION sft-data/train.jsonl

A row has `messages` and `tools` in OpenAI's form, the tools as one JSON text, because a table of
data has one type for a column and schemas have many. prime-rl trains on every message of the
assistant, so demonstrations with messages that are only shown are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trustee.runs.files import write_lines
from trustee.sft.chat_format import as_openai
from trustee.sft.demonstration_files import read_demonstrations
from trustee.sft.demonstrations import Demonstration


def as_row(demonstration: Demonstration) -> dict[str, object]:
    """Return a demonstration as a row."""
    tools = [tool.schema for tool in demonstration.tools]
    return {
        "messages": as_openai(demonstration.messages),
        "tools": msgspec.json.encode(tools).decode(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the rows."""
    parser = argparse.ArgumentParser(description="Write demonstrations for prime-rl's SFT.")
    parser.add_argument("collection", type=Path, help="folder of trustee collect, or its file")
    parser.add_argument("out", type=Path, help="file of JSON lines in a folder of its own")
    options = parser.parse_args(arguments)
    found = read_demonstrations(options.collection)
    rows = [
        as_row(row.example)
        for row in found.rows
        if isinstance(row.example, Demonstration) and not row.example.shown_only
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_lines(options.out, rows)
    left_out = len(found.rows) - len(rows) + len(found.refused)
    sys.stdout.write(f"{len(rows)} rows, {left_out} left out  {options.out}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

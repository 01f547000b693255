"""What a check is given and how it tells its result.

The one idea: a check is a function that returns figures, with its `problems` among them. Whatever
it raises is a result too, so that the checks after it are still made.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from trustee.types import Record

MARK = "@@check "
"""Begins a line that the runner reads out of a log."""

Figures = dict[str, Any]
"""Of one check; `problems` lists in words what is wrong."""


class Setting(Record, frozen=True):
    """Where checks run."""

    device: Literal["cpu", "cuda"]
    scratch: Path
    """Folder for models and adapters; what an earlier call left there is used again."""
    chosen: tuple[str, ...]
    """Checks that are wanted; others of the family are passed over."""
    eager: bool = False
    """No CUDA graphs where a check does not ask for them."""
    changes: tuple[str, ...] = ()
    """Of the config of the full-size model, as `--set` takes them."""

    def wants(self, *names: str) -> bool:
        """Say whether any of these checks is wanted."""
        return not set(names).isdisjoint(self.chosen)


async def report(setting: Setting, name: str, check: Callable[[], Awaitable[Figures]]) -> None:
    """Make a check if it is wanted, and print its line."""
    if not setting.wants(name):
        return
    started_at = time.monotonic()
    try:
        figures = await check()
    except Exception as error:  # noqa: BLE001, a check's every failure is its result
        traceback.print_exc()
        figures = {"problems": [f"{type(error).__name__}: {error}"[:1500]]}
    line = {
        "check": name,
        "state": "fail" if figures.get("problems") else "pass",
        "seconds": round(time.monotonic() - started_at, 1),
        "device": setting.device,
        **figures,
    }
    # Something else may have left the line before unended.
    print(f"\n{MARK}{json.dumps(line)}", flush=True)


def round_all(found: Any, digits: int = 4) -> Any:
    """Round every float, wherever it stands."""
    if isinstance(found, dict):
        return {key: round_all(value, digits) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [round_all(value, digits) for value in found]
    return round(found, digits) if isinstance(found, float) else found

"""Start-up time: seconds from `trustee run` to a ready engine and to the first episode.

    python bench/start.py [--starts 2] [--config FILE] [--set KEY=VALUE] [--json]

Each start is a separate process that is interrupted after its first episode. The second start
benefits from the caches of the first.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENGINE_CLOSING_SECONDS = 60


def start_once(folder: Path, *, config: Path, changes: Sequence[str]) -> dict[str, float]:
    """Start a run and time its events until an episode has ended.

    Raises:
        RuntimeError: if the run ends before that.
    """
    command = [
        *(sys.executable, "-m", "trustee", "run", "--json"),
        *("--config", str(config.resolve()), "--out", str(folder)),
        *(part for change in ("eval.tasks=none", *changes) for part in ("--set", change)),
    ]
    started_at = time.monotonic()
    found: dict[str, float] = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                event, passed = json.loads(line), time.monotonic() - started_at
                name = str(event.get("name", ""))
                if event["event"] == "stage" and name.startswith("starting the engine"):
                    found["imported_s"] = passed
                elif "imported_s" in found:
                    found.setdefault("engine_ready_s", passed)
                if event["event"] == "stage" and name.startswith("training"):
                    found["training_s"] = passed
                if event["event"] == "episode":
                    found["first_episode_s"] = passed
                    break
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=ENGINE_CLOSING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    if "first_episode_s" not in found:
        raise RuntimeError(f"the run ended before its first episode; see {folder}")
    found["ended_s"] = time.monotonic() - started_at - found["first_episode_s"]
    return {key: round(seconds, 2) for key, seconds in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "tiny.toml")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        starts = [
            start_once(
                Path(scratch) / f"start-{number}", config=options.config, changes=options.changes
            )
            for number in range(options.starts)
        ]
    if options.json:
        print(json.dumps({"bench": "start", "starts": starts}))
        return
    for number, figures in enumerate(starts, 1):
        parts = "  ".join(f"{key} {value}" for key, value in figures.items())
        print(f"start {number}  {parts}")


if __name__ == "__main__":
    main()

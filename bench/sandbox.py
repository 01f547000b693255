"""What a call costs in the sandbox, with 64 concurrent environments, compared with plain `exec`.

    python bench/sandbox.py [--json]

Every environment has its own tools and therefore its own worker, and makes one call after another;
a call forks, isolates itself, runs and exits. Plain `exec` runs the same tools in this process, as
FTRL's own code does, without any isolation. Every answer is checked, and no child process and no
descriptor may be left afterwards. Latency includes the wait for a slot, so with many environments
it is their number divided by the rate; `alone` is one call while nothing else waits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from trustee.sandbox.calls import SandboxConfig
from trustee.sandbox.host import ProcessSandbox

TOOL = '''
import datetime
import re


def look_up(city, unit="celsius", days=1):
    """A tool as FTRL's builder writes them: checks, a small table, a result of a few fields."""
    table = {"Oslo": 4, "Lima": 19, "Cairo": 28, "Number": NUMBER}
    if unit not in ("celsius", "fahrenheit"):
        raise ValueError(f"unknown unit {unit!r}")
    if not re.fullmatch(r"[A-Z][a-z]+", city):
        return {"error": "a city is one word with a capital"}
    if city not in table:
        return {"error": f"nothing known of {city}"}
    value = table[city] if unit == "celsius" else table[city] * 9 / 5 + 32
    begin = datetime.date(2025, 1, 1)
    return {"city": city, "days": [
        {"date": str(begin + datetime.timedelta(days=day)), "value": value} for day in range(days)
    ]}
'''
CALL: dict[str, Any] = {"city": "Number", "days": 3}


def source(number: int) -> str:
    """Return the source of one environment's tool."""
    return TOOL.replace("NUMBER", str(number))


def expected(number: int) -> str:
    """Return the expected answer."""
    days = [{"date": f"2025-01-0{day}", "value": number} for day in (1, 2, 3)]
    return json.dumps({"city": "Number", "days": days})


def count_children() -> int:
    """Return the number of child processes, including those that ended and were not reaped."""
    parents = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.append(int(path.read_text().rpartition(")")[2].split()[1]))
        except OSError:
            continue
    return parents.count(os.getpid())


def count_descriptors() -> int:
    """Return the number of open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def processor_seconds() -> float:
    """Return the processor time of this process and of all its children that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure_bare(environments: int, calls: int) -> list[float]:
    """Call every tool in this process; return the seconds of each call."""
    seconds = []
    for call in range(calls):
        started_at = time.perf_counter()
        names: dict[str, Any] = {}
        exec(source(call % environments), names)
        answer = json.dumps(names["look_up"](**CALL))
        seconds.append(time.perf_counter() - started_at)
        assert answer == expected(call % environments)
    return seconds


async def measure_sandbox(environments: int, calls: int, config: SandboxConfig) -> dict[str, Any]:
    """Call every tool in the sandbox, with all environments concurrently."""
    seconds: list[float] = []
    wrong = 0
    async with ProcessSandbox(config) as sandbox:

        async def play(number: int, turns: int) -> None:
            nonlocal wrong
            async with sandbox.open({"look_up": source(number)}, seed=number) as worker:
                for _ in range(turns):
                    started_at = time.perf_counter()
                    outcome = await worker.call("look_up", CALL)
                    seconds.append(time.perf_counter() - started_at)
                    wrong += outcome.text != expected(number)

        async def play_all(turns: int) -> float:
            started_at = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for number in range(environments):
                    tasks.start_soon(play, number, turns)
            return time.perf_counter() - started_at

        started_at = time.perf_counter()
        async with sandbox.open({"alone": "def alone():\n    return 1"}, seed=0) as worker:
            await worker.call("alone", {})
            alone = time.perf_counter() - started_at
            single = []
            for _ in range(200):
                started_at = time.perf_counter()
                await worker.call("alone", {})
                single.append(time.perf_counter() - started_at)
        started = await play_all(1)
        seconds.clear()
        wall = await play_all(-(-calls // environments))
        isolation = sandbox.isolation
    return {
        "isolation": isolation,
        "calls": len(seconds),
        "wrong": wrong,
        "calls_per_s": round(len(seconds) / wall, 1),
        "ms_p50": round(1000 * statistics.median(seconds), 2),
        "ms_p99": round(1000 * statistics.quantiles(seconds, n=100)[98], 2),
        "alone_ms_p50": round(1000 * statistics.median(single), 2),
        "worker_start_ms": round(1000 * alone, 1),
        "all_started_s": round(started, 2),
        "wall_s": round(wall, 1),
    }


async def measure(environments: int, calls: int, config: SandboxConfig) -> dict[str, Any]:
    """Measure both ways; return the result line."""
    bare = measure_bare(environments, min(calls, 2000))
    children, descriptors, used = count_children(), count_descriptors(), processor_seconds()
    row = await measure_sandbox(environments, calls, config)
    left = count_children() - children, count_descriptors() - descriptors
    return {
        "bench": "sandbox",
        "environments": environments,
        **row,
        "cpu_ms_per_call": round(1000 * (processor_seconds() - used) / row["calls"], 2),
        "bare_calls_per_s": round(len(bare) / sum(bare), 1),
        "bare_ms_p50": round(1000 * statistics.median(bare), 3),
        "children_left": left[0],
        "descriptors_left": left[1],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=int, default=64)
    parser.add_argument("--calls", type=int, default=10_000, help="of all environments together")
    parser.add_argument(
        "--isolation", choices=("auto", "landlock", "bubblewrap", "none"), default="auto"
    )
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    # Generous time limits: they are not measured here, and a busy machine must not exceed them.
    config = SandboxConfig(isolation=options.isolation, seconds=60)
    line = anyio.run(measure, options.environments, options.calls, config)
    if options.json:
        print(json.dumps(line))
        return
    for name, value in line.items():
        print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()

